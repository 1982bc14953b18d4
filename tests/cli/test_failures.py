"""A child that dies, hangs or is refused is a record with its last words, and the rest goes on."""

import errno
import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from memfloor.record import Failure, Run, Skip, Store

OUT_OF_MEMORY, UNAVAILABLE, EXIT, KILLED, HANG, SILENT, GARBAGE = 20, 21, 22, 23, 24, 25, 26
pytestmark = pytest.mark.usefixtures("fake_child")


@pytest.fixture
def study(memfloor, tiny_model, tmp_path):
    """Return a function that takes a study over contexts, and its result and records."""

    def take(*contexts, runs=1, options=()):
        folder = tmp_path / "records"
        asked = ("--context", ",".join(map(str, contexts)), "--runs", runs, *options)
        result = memfloor("study", "--model", tiny_model, "--device", "cpu", "--out", folder, *asked)
        records, unreadable = Store(folder).read()
        assert unreadable == []
        return result, records

    return take


def by_context(records, context):
    return [record for record in records if record.cell.workload.context_len == context]


@pytest.mark.parametrize(
    ("behaviour", "cause", "words"),
    [
        (EXIT, "error", "exit status 1; ArithmeticError: seven"),
        (KILLED, "died", "ended by SIGKILL; about to be killed"),
        (SILENT, "error", "exit status 0; no last words"),
        (OUT_OF_MEMORY, "out_of_memory", "the model needs 9 TB"),
    ],
)
def test_a_lost_run_is_a_failure_with_its_last_words_and_the_rest_goes_on(study, behaviour, cause, words):
    result, records = study(behaviour, 64, 128)
    failure = by_context(records, behaviour)[0]
    assert isinstance(failure, Failure)
    assert (failure.cause, failure.last_words) == (cause, words)
    assert failure.device.kind == "cpu"
    assert all(isinstance(by_context(records, context)[0], Run) for context in (64, 128))
    assert result.status == 0
    assert words in result.err


def test_a_hanging_run_is_ended_in_time_and_the_rest_goes_on(study):
    _, records = study(HANG, 64, options=("--time-limit-seconds", 4))
    failure = by_context(records, HANG)[0]
    assert (failure.cause, failure.last_words) == ("timed_out", "no end after 4 s; still loading")
    assert isinstance(by_context(records, 64)[0], Run)


def test_a_cell_that_cannot_run_here_is_skipped_with_its_reason(study):
    result, records = study(UNAVAILABLE, 64)
    skip = by_context(records, UNAVAILABLE)[0]
    assert isinstance(skip, Skip)
    assert skip.reason == "this runtime needs another machine"
    assert isinstance(by_context(records, 64)[0], Run)
    assert result.status == 0


def test_garbage_on_standard_output_does_not_spoil_a_run(study):
    _, records = study(GARBAGE)
    assert [type(record) for record in records] == [Run]


@pytest.mark.parametrize(
    ("behaviour", "attempts"), [(OUT_OF_MEMORY, 1), (UNAVAILABLE, 1), (KILLED, 2), (SILENT, 2), (EXIT, 2)]
)
def test_a_hopeless_cell_is_left_alone_for_the_rest_of_the_session(study, behaviour, attempts):
    _, records = study(behaviour, 64, runs=4)
    assert len(by_context(records, behaviour)) == attempts
    assert len(by_context(records, 64)) == 4


def test_an_invalid_cell_stands_beside_the_measured_ones_in_json(study):
    result, _ = study(OUT_OF_MEMORY, 64, options=("--json",))
    by_length = {cell["context_len"]: cell for cell in json.loads(result.out)}
    assert by_length[64]["p50_seconds"] > 0
    assert by_length[OUT_OF_MEMORY]["invalid"] == "out of memory: the model needs 9 TB"
    assert by_length[OUT_OF_MEMORY]["runs"] == 0


def test_an_invalid_cell_is_named_with_its_reason_in_the_table(study):
    result, _ = study(OUT_OF_MEMORY, 64)
    assert "invalid: out of memory: the model needs 9 TB" in result.out


def test_when_nothing_was_measured_the_exit_status_says_so(study):
    result, _ = study(OUT_OF_MEMORY, UNAVAILABLE)
    assert result.status == 1
    assert "no cell gave a time" in result.err


def test_a_disk_that_fills_up_ends_the_study_and_loses_no_finished_run(study, monkeypatch, tmp_path):
    from memfloor.record import store

    written = Counter()
    fsync = store.os.fsync

    def fill_up(descriptor):
        written["calls"] += 1
        # A record takes two: its file and its folder.
        if written["calls"] > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(store.os, "fsync", fill_up)
    result, records = study(64, runs=4)
    assert result.status == 2
    assert result.err.splitlines()[-1].startswith("memfloor: cannot write ")
    assert result.err.splitlines()[-1].endswith("No space left on device")
    assert [record.block for record in records] == [0, 1]
    assert len(list((tmp_path / "records").iterdir())) == 2, "a draft was left behind"


def test_a_record_holds_the_job_that_was_asked_for(study, tiny_model):
    _, records = study(64, options=("--warmup-steps", 2, "--timed-steps", 4, "--threads", 1, "--seed", 3))
    run = records[0]
    assert [step.phase for step in run.steps] == ["warmup"] * 2 + ["timed"] * 2 + ["settle"] + ["timed"] * 2
    # The fake child's step time is its seed and one, in milliseconds.
    assert run.step_seconds == (4e-3,) * 4
    assert (run.cell.threads, run.protocol.warmup_steps, run.protocol.timed_steps) == (1, 2, 4)
    assert run.cell.spec.source == str(Path(tiny_model) / "config.json")


def test_each_block_has_a_seed_of_its_own(study):
    _, records = study(64, runs=3)
    assert [run.p50_seconds for run in records] == pytest.approx([1e-3, 2e-3, 3e-3])


def test_progress_is_one_line_per_run_on_standard_error(study):
    result, _ = study(64, 128, runs=2)
    lines = result.err.splitlines()
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert all("a step beside a ceiling of 1 GB/s" in line for line in lines)


def test_a_name_of_a_signal_reaches_the_record(study):
    _, records = study(KILLED)
    assert signal.SIGKILL.name in records[0].last_words
