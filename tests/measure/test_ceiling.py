import ctypes

import numpy as np
import pytest

from memfloor.engine.cpu import native as cpu
from memfloor.errors import UsageError
from memfloor.measure import ceiling
from memfloor.measure.ceiling import CpuCeiling, buffer_bytes, ceiling_for

native = cpu.native()
MEBI = 2**20
# A cache line, fewer lines than threads, an odd number of lines, and more than one huge page.
SIZES = (64, 192, 4096 + 64, MEBI, 2 * MEBI + 7 * 64)
CPUS = cpu.allowed_cpus()
# Threads up to what is here, and more of them than cores, which must still meet each other.
TEAMS = [CPUS[:count] for count in range(1, len(CPUS) + 1)] + [CPUS[:1] * 3, CPUS[:2] * 4]


def words(buffer):
    """Return the buffer's memory as numpy's unsigned words, without a copy; the buffer must outlive them."""
    return np.ctypeslib.as_array((ctypes.c_uint64 * (buffer.size_bytes // 8)).from_address(buffer.address))


def filled(size, team):
    buffer = native.Buffer(size)
    native.stream_fill(buffer, team)
    return buffer


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("team", TEAMS, ids=lambda team: f"cpus-{'-'.join(map(str, team))}")
@pytest.mark.parametrize("size", SIZES)
def test_the_checksum_proves_that_every_word_was_read(size, team, ahead):
    buffer = filled(size, team)
    words(buffer)[:] = np.random.default_rng(size).integers(0, 2**64, size // 8, dtype=np.uint64)
    assert native.stream_read(buffer, team, 2, ahead).checksum == int(words(buffer).sum(dtype=np.uint64))


@pytest.mark.parametrize("position", [0, 7, 8, 511, -9, -1])
@pytest.mark.parametrize("team", TEAMS, ids=lambda team: f"cpus-{'-'.join(map(str, team))}")
def test_the_checksum_sees_a_change_of_one_word_anywhere(position, team):
    buffer = filled(4096 + 64, team)
    before = native.stream_read(buffer, team, 1, True).checksum
    words(buffer)[position] += np.uint64(5)
    assert native.stream_read(buffer, team, 1, True).checksum == (before + 5) % 2**64


def test_a_read_changes_nothing():
    buffer = filled(MEBI, CPUS)
    before = words(buffer).copy()
    native.stream_read(buffer, CPUS, 3, True)
    assert np.array_equal(words(buffer), before)


def test_a_fresh_buffer_holds_no_two_equal_cache_lines():
    buffer = filled(MEBI, CPUS)
    lines = words(buffer).reshape(-1, 8)
    assert len(np.unique(lines, axis=0)) == len(lines)


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: f"cpus-{'-'.join(map(str, team))}")
@pytest.mark.parametrize("size", SIZES)
def test_copy_moves_the_second_half_to_the_first(size, team):
    buffer = filled(size, team)
    half = size // 16
    source = words(buffer)[half : 2 * half].copy()
    native.stream_copy(buffer, team, 2)
    assert np.array_equal(words(buffer)[:half], source)
    assert np.array_equal(words(buffer)[half : 2 * half], source)


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: f"cpus-{'-'.join(map(str, team))}")
@pytest.mark.parametrize("size", SIZES)
def test_triad_adds_three_times_the_last_third_to_the_second(size, team):
    buffer = filled(size, team)
    third = size // 24
    left, right = words(buffer)[third : 3 * third].copy().reshape(2, third)
    native.stream_triad(buffer, team, 2)
    assert np.array_equal(words(buffer)[:third], left + np.uint64(3) * right)


@pytest.mark.parametrize(
    ("call", "words_of_error"),
    [
        (lambda: native.Buffer(0), "at least one byte"),
        (lambda: native.stream_read(native.Buffer(64), CPUS, 0, True), "at least one pass"),
        (lambda: native.stream_read(native.Buffer(64), [], 1, True), "at least one CPU"),
    ],
)
def test_the_kernels_refuse_what_they_cannot_time(call, words_of_error):
    with pytest.raises(ValueError, match=words_of_error):
        call()


@pytest.mark.parametrize("threads", range(1, len(CPUS) + 1))
def test_a_reading_holds_its_passes_bytes_and_threads(threads):
    reading = CpuCeiling(CPUS[:threads], MEBI).read(3, after_steps=7)
    assert (reading.after_steps, reading.pass_bytes, len(reading.pass_seconds)) == (7, MEBI, 3)
    assert all(seconds > 0 for seconds in reading.pass_seconds)
    assert reading.method.startswith(f"native stream_read {native.stream_isa()}, ")
    assert reading.method.endswith(f"ware prefetch, {threads} threads")


@pytest.mark.parametrize("kind", ["copy", "triad"])
def test_copy_and_triad_count_the_bytes_of_all_their_parts(kind):
    reading = getattr(CpuCeiling(CPUS[:1], 3 * MEBI), kind)(2)
    assert (reading.pass_bytes, len(reading.pass_seconds), reading.method) == (3 * MEBI, 2, f"native stream_{kind}")


@pytest.mark.parametrize("threads", [0, -1, len(CPUS) + 1])
def test_threads_that_are_not_here_are_refused_with_the_range(threads):
    with pytest.raises(UsageError, match=rf"1 to {len(CPUS)} on this machine, not {threads}"):
        cpu.allowed_cpus(threads)


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (None, 512 * MEBI),
        (0, 512 * MEBI),
        (64 * MEBI, 512 * MEBI),
        (64 * MEBI + 1, 513 * MEBI),
        (256 * MEBI, 2048 * MEBI),
    ],
)
def test_a_buffer_is_far_beyond_the_last_level_cache(cache, expected):
    assert buffer_bytes(cache) == expected


def test_the_ceiling_of_a_cpu_has_a_buffer_for_its_own_cache(monkeypatch):
    monkeypatch.setattr(ceiling, "MIN_BUFFER_BYTES", MEBI)
    monkeypatch.setattr(ceiling, "last_level_cache_bytes", lambda: 3 * MEBI)
    reading = ceiling_for("cpu", CPUS[:1]).read(1)
    assert reading.pass_bytes == 24 * MEBI


def test_without_native_kernels_the_ceiling_names_what_to_install(monkeypatch):
    monkeypatch.setattr(cpu, "_native", None)
    with pytest.raises(UsageError, match=r"apt install g\+\+"):
        CpuCeiling(CPUS, MEBI)
