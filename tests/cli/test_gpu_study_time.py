"""The study of a GPU machine starts nothing that its time does not hold."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu_study_time import LONGEST_RUN_SECONDS, MARGIN, Budget, History


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "seconds.jsonl")


def test_what_to_expect_is_the_same_work_then_its_like_then_a_guess(history, cells, tmp_path):
    engine, eager, other = cells((("engine", {}), ("engine", {"launch": "eager"}), ("hf-eager", {})))
    guess = history.expect("run", engine)
    history.note("run", engine, 4.0)
    history.note("run", engine, 7.0)
    with (tmp_path / "seconds.jsonl").open("a") as file:
        file.write('{"kind": "run", "key": "half a li')
    again = History(tmp_path / "seconds.jsonl")
    assert [again.expect("run", cell) for cell in (engine, eager)] == [7.0, 7.0]
    assert again.expect("run", other) > guess > 7.0
    assert again.expect("anatomy", engine) > 7.0


def test_a_run_is_admitted_only_if_its_stage_has_the_time(history, cells):
    [engine] = cells((("engine", {}),))
    history.note("run", engine, 10.0)
    now = [0.0]
    budget = Budget(100.0, history, lambda: now[0])
    with budget.stage(0.5):
        assert budget.admit(engine, 0) == 100.0
        now[0] = 50.0 - 10.0 * MARGIN + 0.1
        assert budget.admit(engine, 0) is None
    assert budget.admit(engine, 0) is not None
    now[0] = 99.0
    assert budget.admit(engine, 0) is None
    assert Budget(1e6, history).admit(engine, 0) == LONGEST_RUN_SECONDS


def test_no_later_block_is_begun_once_something_did_not_fit(history, cells):
    quick, slow = cells()
    history.note("run", quick, 1.0)
    history.note("run", slow, 50.0)
    budget = Budget(20.0, history, lambda: 0.0)
    with budget.stage(1.0):
        assert budget.admit(slow, 1) is None
        assert budget.admit(quick, 1) is not None
        assert budget.admit(quick, 2) is None
    with budget.stage(1.0):
        assert budget.admit(quick, 2) is not None
