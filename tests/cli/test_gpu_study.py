"""The study of a GPU machine keeps to its time, goes on where it stopped, and says what it found."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from memfloor.experiments import study
from memfloor.experiments.blocks import blocks
from memfloor.experiments.study import grid
from memfloor.measure.environment import cpu_name
from memfloor.record import Run, Store
from memfloor.runtimes import check_options, find_runtime

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_study
from gpu_study_stages import ANATOMY_RUNS, AnatomyStage, RunStage, by_launch, by_shape, given_up, make_stages
from gpu_study_table import table
from gpu_study_time import Budget, History

SECONDS_PER_RUN = 20.0
OUT_OF_MEMORY, UNAVAILABLE, EXIT = 20, 21, 22


@pytest.fixture(autouse=True)
def gpu_by_name(monkeypatch):
    """Let this machine's processor stand for the GPU whose name the parent asks the driver for."""
    monkeypatch.setattr(study, "device_name", lambda kind: cpu_name())


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "seconds.jsonl")


@pytest.fixture
def stage(tmp_path):
    def make(cells, runs=3, name="headline", **changes):
        return RunStage(name, 1.0, cells, runs, Store(tmp_path / name), by_shape, {"*": "hf-eager"}, **changes)

    return make


@pytest.fixture
def budget(tmp_path, history):
    """Return a function that makes a budget whose clock stands still but for the end of each run."""

    def make(limit_seconds):
        return Budget(limit_seconds, history, lambda: SECONDS_PER_RUN * len(list(tmp_path.rglob("*run*.json"))))

    return make


@pytest.fixture
def take(fake_child, tmp_path, budget):
    """Return a function that takes stages in one session with a time limit."""

    def session(stages, limit_seconds):
        spent = budget(limit_seconds)
        gpu_study.take_stages(stages, spent, gpu_study.Diary(tmp_path / "study.log", spent))

    return session


def taken(stage):
    return Counter((record.cell.runtime, record.block) for record in stage.records() if isinstance(record, Run))


def test_cells_that_are_compared_are_taken_side_by_side(stage, cells):
    runtimes = [(name, {"launch": launch}) for name in ("engine", "hf-static") for launch in ("eager", "graph")]
    wanted = stage(cells(runtimes, (64, 128, 256)), runs=4)
    order = blocks(replace(wanted, compared=by_launch).plan, {})
    assert len(order) == 4 * 12
    for one, other in zip(order[::2], order[1::2], strict=True):
        assert one[0] == other[0]
        assert by_launch(one[1]) == by_launch(other[1])
        assert one[1].key != other[1].key
    assert len({tuple(cell.key for b, cell in order if b == block) for block in range(4)}) > 1


def test_the_stages_are_of_known_runtimes_and_every_cell_has_its_baseline(tmp_path):
    stages = make_stages(tmp_path, "qwen2.5-7b", ["qwen2.5-7b", "llama-3.1-8b"], 10, print)
    assert [stage.name for stage in stages] == list(gpu_study.STAGES[2:])
    counts = {"headline": 8, "launch": 22, "grid": 24}
    assert {stage.name: len(stage.cells) for stage in stages if stage.name in counts} == counts
    for stage in stages:
        assert len({cell.key for cell in stage.cells}) == len(stage.cells)
        for cell in stage.cells:
            check_options(find_runtime(cell.runtime), cell.options)
    for stage in stages[:-1]:
        for cell in stage.cells:
            name = stage.baseline.get(cell.runtime, stage.baseline.get("*"))
            assert name in {o.runtime_text for o in stage.cells if stage.compared(o) == stage.compared(cell)}


def test_a_session_ends_in_time_and_the_next_goes_on(take, stage, cells):
    stages = [stage(cells(), runs=2), stage(cells(contexts=(128,)), runs=1, name="grid")]
    limit = 100.0
    sessions = 0
    while any(item.missing() for item in stages):
        before = sum(len(item.records()) for item in stages)
        take(stages, limit)
        got = sum(len(item.records()) for item in stages) - before
        assert 0 < got * SECONDS_PER_RUN <= limit
        sessions += 1
    assert sessions == 2
    for item, runs in zip(stages, (2, 1), strict=True):
        assert taken(item) == {(name, block): 1 for name in ("engine", "hf-eager") for block in range(runs)}


def test_what_has_failed_stays_on_record_and_is_left_alone(take, stage, cells, tmp_path):
    bad = stage(cells((("engine", {}),), (OUT_OF_MEMORY, UNAVAILABLE, EXIT)), runs=3)
    take([bad], 1000.0)
    first = len(bad.records())
    assert first == 1 + 1 + 2
    assert bad.missing() == 0
    take([bad], 1000.0)
    assert len(bad.records()) == first
    words = (tmp_path / "study.log").read_text()
    for said in ("OUT_OF_MEMORY: the model needs 9 TB", "SKIPPED: this runtime needs another machine", "seven"):
        assert said in words
    lines = table(bad)
    assert [line for line in lines if "invalid: this runtime needs another machine" in line]
    assert "complete" in lines[0]
    assert given_up(bad.records()) == {cell.key for cell in bad.cells}


def test_runs_of_the_stage_it_borrows_from_count(take, stage, cells):
    headline = stage(cells(), runs=1)
    take([headline], 1000.0)
    study_grid = stage(cells(contexts=(64, 128)), runs=1, name="grid", borrowed=headline.store)
    assert study_grid.missing() == 2
    assert len(study_grid.records()) == 2


def test_the_table_compares_with_the_baseline_block_by_block(take, stage, cells):
    shown = stage(cells(), runs=2)
    take([shown], 1000.0)
    for record in shown.records():
        if record.cell.runtime == "hf-eager":
            steps = tuple(step.model_copy(update={"host_seconds": 4 * step.host_seconds}) for step in record.steps)
            shown.store.add(record.model_copy(update={"steps": steps}))
    title, columns, *rows = table(shown)
    assert title == "headline, against hf-eager; complete"
    engine = next(row for row in rows if "engine" in row)
    assert "4.000 [4.000, 4.000]" in engine
    # Seeds 0 and 1 take 1 and 2 ms.
    assert "1.5 ms" in engine
    assert next(row for row in rows if "64 hf-eager" in row).rstrip().endswith("-")
    assert columns.split()[:2] == ["cell", "N"]


def test_a_stage_without_records_has_no_table(stage, cells):
    assert table(stage(cells())) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--stages", "headline,nothing"), "unknown stage 'nothing'; allowed: checks, ceiling, headline"),
        (("--limit-seconds", "5"), "limit-seconds must be above 10, not 5"),
        (("--limit-seconds", "nan"), "limit-seconds must be above 10, not nan"),
        (("--runs", "0"), "runs must be 1 or more, not 0"),
        (("--model", "gpt-9"), "unknown model 'gpt-9'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, arguments, words):
    assert gpu_study.main(["--out", str(tmp_path / "records"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"gpu_study: {words}")
    assert captured.err.count("\n") == 1


def test_a_folder_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert gpu_study.main(["--out", str(tmp_path / "file")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def nothing(*arguments):
    """Do nothing in place of what needs a GPU."""


def test_failed_checks_stop_everything(monkeypatch, capsys, tmp_path):
    def fail(*arguments):
        raise gpu_study.UsageError("the checks of int8 failed")

    monkeypatch.setattr(gpu_study, "require_gpu", nothing)
    monkeypatch.setattr(gpu_study, "check", fail)
    monkeypatch.setattr(gpu_study, "take_stages", lambda *arguments: pytest.fail("measured"))
    assert gpu_study.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "gpu_study: the checks of int8 failed\n"


def test_interrupted_it_still_shows_what_it_has(take, stage, cells, monkeypatch, capsys, tmp_path):
    headline = stage(cells(), runs=1)
    take([headline], 1000.0)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_study, "require_gpu", nothing)
    monkeypatch.setattr(gpu_study, "make_stages", lambda *arguments: [headline])
    monkeypatch.setattr(gpu_study, "take_stages", interrupt)
    assert gpu_study.main(["--out", str(tmp_path), "--stages", "headline"]) == 130
    captured = capsys.readouterr()
    assert "headline, against hf-eager; complete" in captured.out
    assert captured.err.splitlines()[-1] == "gpu_study: interrupted; every finished run is on disk"


def test_anatomies_without_their_library_are_left_out_with_the_remedy(tmp_path, monkeypatch, budget, capsys):
    monkeypatch.setattr(gpu_study, "find_spec", lambda name: None)
    anatomies = make_stages(tmp_path, "qwen2.5-7b", ["qwen2.5-7b"], 1, print)[-1]
    assert not gpu_study.can_run(anatomies, gpu_study.Diary(tmp_path / "study.log", budget(100.0)))
    assert "pip install --target DIR ijson" in capsys.readouterr().out


def test_its_help_names_every_stage(capsys):
    with pytest.raises(SystemExit, match="0"):
        gpu_study.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in gpu_study.STAGES)


def test_an_anatomy_is_taken_once_and_shown_and_one_that_cannot_be_taken_is_named(tiny_model, tmp_path, history):
    said = []
    [engine] = grid([tiny_model], [64], [("engine", {})], "cpu", threads=1)
    [pair] = grid([tiny_model], [64], [("engine", {})], "cpu", batch=[2])
    stage = AnatomyStage([engine, pair], Store(tmp_path / "anatomy"), said.append)
    assert stage.missing() == 2 * ANATOMY_RUNS
    assert stage.take(Budget(0.0, history), None) == 0
    assert stage.take_one(0, engine, Budget(600.0, history)) == 1
    assert stage.take_one(0, pair, Budget(600.0, history)) == 0
    assert said[-1] == "anatomy of engine: batch 2 is not 1"
    assert stage.todo() == [(block, engine) for block in range(1, ANATOMY_RUNS)]
    lines = table(stage)
    assert "64 engine, 1 taken" in lines[0]
    assert [line for line in lines if "step, timed" in line]
