"""A session of backends or of paths of weights goes on where it was interrupted, at whatever it was."""

import signal
from collections import Counter

import pytest

from memfloor.record import Anatomy, Comparison, Failure, Quality, Run, Store

EXIT, SLOW = 22, 27
SHORT = ("--timed-steps", 4, "--device", "cpu", "--threads", 1)
ATTENTION = ("attention", "--backend", "engine", "--backend", "flex", "--context", SLOW, "--runs", 4)
PATHS = ("weights", "--path", "engine-int8", "--path", "engine,launch=eager", "--context", SLOW)
WEIGHTS = (*PATHS, "--runs", 2, "--anatomies", 2, "--quality-tokens", SLOW)
# What these leave: comparisons, runs, anatomies of three cells, qualities of these and of float32.
SAID, RUNS, ANATOMIES, QUALITIES = 2, 3 * 2, 3 * 2, 4


@pytest.fixture
def start(start_memfloor, tiny_model, tmp_path):
    """Return a function that starts a comparison of the tiny model."""

    def start(question, *arguments):
        return start_memfloor("ab", question, tiny_model, *arguments, *SHORT, "--out", tmp_path)

    return start


@pytest.fixture
def go_on(start):
    """Return a function that starts it, waits for its end, and returns what it said on standard error."""

    def run(*arguments):
        process = start(*arguments)
        _, words = process.communicate(timeout=120)
        assert process.returncode == 0, words
        return words

    return run


@pytest.fixture
def end_after(start, wait_for_records, tmp_path):
    """Return a function that starts a command, ends it by a signal once so many records lie there, and returns them."""

    def end(count, number, *arguments):
        process = start(*arguments)
        wait_for_records(tmp_path, count, process)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode in (-number, 130)
        return files(tmp_path)

    return end


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def counted(folder, part="step"):
    """Return how often a session has each run, anatomy and quality; there is one session alone, and all is readable."""
    found = Store(folder).contents().of(part)
    assert found.unreadable == []
    assert len({record.session_id for record in found.every}) == 1
    runs = Counter((record.cell.key, record.block) for record in found.runs if isinstance(record, Run))
    anatomies = Counter((record.cell.key, record.block) for record in found.anatomies)
    return runs, anatomies, Counter(record.path for record in found.qualities)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_attention_that_was_ended_goes_on_and_takes_no_run_twice(end_after, go_on, tmp_path, number):
    kept = end_after(5, number, *ATTENTION)
    assert "goes on with a session of" in go_on(*ATTENTION)
    assert kept.items() <= files(tmp_path).items()
    runs, *_ = counted(tmp_path, "attention")
    # Of torch's choice and two others.
    assert (len(runs), set(runs.values())) == (3 * 4, {1})
    assert len(Store(tmp_path).contents().of("attention").comparisons) == 2


@pytest.mark.parametrize(
    "count",
    [SAID + 2, SAID + RUNS + 1, SAID + RUNS + 2, SAID + RUNS + ANATOMIES + 1, SAID + RUNS + ANATOMIES + 3],
    ids=["runs", "anatomies", "anatomies of one path", "reference", "qualities"],
)
def test_weights_that_were_killed_go_on_and_take_nothing_twice(end_after, go_on, tmp_path, count):
    kept = end_after(count, signal.SIGKILL, *WEIGHTS)
    assert "goes on with a session of" in go_on(*WEIGHTS)
    assert kept.items() <= files(tmp_path).items()
    runs, anatomies, qualities = counted(tmp_path)
    assert [len(runs), len(anatomies), len(qualities)] == [RUNS, ANATOMIES, QUALITIES]
    assert set(runs.values()) == set(anatomies.values()) == {1}
    # The reference's logits are gone with the process that took them.
    reference = qualities.pop("baseline")
    assert set(qualities.values()) == {1}
    assert reference == (2 if count > SAID + RUNS + ANATOMIES else 1)


def test_what_is_asked_for_beside_runs_is_added_to_a_session_that_has_them(go_on, tmp_path):
    bare = ("--runs", 1, "--anatomies", 0, "--quality-tokens", 0)
    assert "goes on" not in go_on(*PATHS, *bare)
    assert "goes on" in go_on(*PATHS, *bare[:2], "--anatomies", 1, "--quality-tokens", 4)
    assert [len(found) for found in counted(tmp_path)] == [3, 3, QUALITIES]
    # At its end it is left alone.
    assert "goes on" not in go_on(*PATHS, *bare)
    kinds = Counter(type(record) for record in Store(tmp_path).contents().every)
    assert [kinds[kind] for kind in (Comparison, Run, Anatomy, Quality)] == [4, 6, 3, QUALITIES]


def test_backends_that_failed_are_recorded_and_an_ended_session_is_not_gone_on_with(start, tmp_path):
    asked = ("attention", "--backend", "engine", "--context", f"64,{EXIT}", "--runs", 3)
    for sessions in (1, 2):
        process = start(*asked)
        _, words = process.communicate(timeout=120)
        assert (process.returncode, "goes on" in words) == (0, False)
        found = Store(tmp_path).contents().of("attention")
        assert len({record.session_id for record in found.every}) == sessions
        failures = [record for record in found.runs if isinstance(record, Failure)]
        assert {record.last_words for record in failures} == {"exit status 1; ArithmeticError: seven"}
        # Twice in a row, or once where the other backend was given up first.
        assert 2 * sessions <= len(failures) <= 3 * sessions
