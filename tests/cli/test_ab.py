import json
import re
from itertools import groupby

import pytest

from memfloor.cli.progress import SessionProgress
from memfloor.experiments.blocks import Plan, take_blocks
from memfloor.record import Cell, Comparison, Protocol, Run, Skip, Store
from memfloor.spec import Workload, load_model

SHORT = ("--timed-steps", 4, "--device", "cpu", "--threads", 1)
# What the fake children do at these contexts.
UNAVAILABLE, OTHER_TOKENS, NO_TRACE, EXIT = 21, 30, 31, 32
KEYS = ("ratio", "ci95", "verdict", "isolation", "confounders", "blocks")


@pytest.fixture
def launch(memfloor, tiny_model, tmp_path, fake_child):
    """Return a function that compares the engine's launch modes with the fake children."""

    def run(*arguments):
        done = memfloor(
            "ab", "launch", tiny_model, "--arms", "engine", *SHORT, "--runs", 2, *arguments, "--out", tmp_path, "--json"
        )
        return done, json.loads(done.out) if done.out else None

    return run


def test_every_context_is_a_comparison_said_before_its_runs_and_interleaved_with_the_others(launch, tmp_path):
    done, answers = launch("--context", "64,128", "--expect-null-below", 2.5, "--margin", 0.1)
    assert done.status == 0, done.err
    assert [answer["context"] for answer in answers] == [64, 128]
    for answer in answers:
        assert answer["alarms"] == []
        assert tuple(answer)[: len(KEYS)] == KEYS
        assert answer["ratio"] == pytest.approx(2.0)
        assert (answer["verdict"], answer["null"], answer["isolation"]) == ("faster", "holds", "isolated")
        assert (answer["blocks"], answer["confounders"]) == (2, [])
        assert answer["outputs"] == "equal: the tokens of 16 steps and every bit of the last logits"
    store = Store(tmp_path)
    said, seen = store.comparisons()
    runs, unreadable = store.read()
    assert unreadable == []
    assert {item.session_id for item in (*said, *seen, *runs)} == {said[0].session_id}
    assert max(item.taken_at for item in said) <= min(run.taken_at for run in runs)
    assert (said[0].margin, said[0].expect_null_below, said[0].planned_runs) == (0.1, 2.5, 2)
    # Each block holds every arm of every comparison once.
    for _, block in groupby(runs, key=lambda run: run.block):
        taken = [run.cell for run in block]
        assert len({cell.key for cell in taken}) == 4
        # The arms of a comparison lie side by side.
        contexts = [cell.workload.context_len for cell in taken]
        assert contexts[0::2] == contexts[1::2]


@pytest.mark.parametrize(
    ("context", "verdict", "isolation", "words"),
    [
        (OTHER_TOKENS, "refused: outputs differ from step 6", "confounded", "tokens (5,) and (6,)"),
        (NO_TRACE, "faster", "confounded", "for want of a trace of the baseline: no profiler sees it"),
        (EXIT, "faster", "confounded", "ArithmeticError: seven"),
        (UNAVAILABLE, "none: this runtime needs another machine", None, "another machine"),
    ],
)
def test_what_goes_wrong_with_an_arm_is_recorded_and_ends_nothing(launch, context, verdict, isolation, words):
    done, answers = launch("--context", f"{context},64")
    assert done.status == (3 if verdict.startswith("refused") else 0), done.err
    assert (answers[0]["verdict"], answers[0]["isolation"]) == (verdict, isolation)
    assert words in json.dumps(answers[0])
    assert (answers[1]["verdict"], answers[1]["isolation"]) == ("faster", "isolated")


def _interrupt(folder):
    """Leave what a session has on disk that was killed in its second block."""
    lost = [*folder.glob("*_run001_*.json"), *folder.glob("*_baseline_*.json"), *folder.glob("*_candidate_*.json")]
    assert len(lost) == 4
    for path in lost:
        path.unlink()


def test_an_interrupted_session_goes_on_where_it_stopped(launch, tmp_path):
    launch("--context", 64)
    _interrupt(tmp_path)
    before = {path.name for path in tmp_path.glob("*.json")}
    done, answer = launch("--context", 64)
    assert "goes on with a session of" in done.err
    assert (done.status, answer["blocks"], answer["isolation"]) == (0, 2, "isolated")
    new = {path.name for path in tmp_path.glob("*.json")} - before
    assert sorted("run001" in name for name in new) == [False, False, True, True]
    assert len({record.session_id for record in Store(tmp_path).contents().every}) == 1


@pytest.mark.parametrize("changed", ["terms", "commit", "finished"])
def test_a_session_that_said_other_things_or_is_at_its_end_or_was_taken_elsewhere_is_left_alone(
    launch, tmp_path, monkeypatch, changed
):
    launch("--context", 64)
    if changed != "finished":
        _interrupt(tmp_path)
    if changed == "commit":
        monkeypatch.setattr("memfloor.experiments.session.git_commit", lambda: "another")
    done, answer = launch("--context", 64, *(("--margin", 0.1) if changed == "terms" else ()))
    assert "goes on" not in done.err
    assert answer["blocks"] == 2
    assert len(Store(tmp_path).comparisons()[0]) == 2


def test_outputs_may_differ_where_that_was_said_before(launch):
    _, answer = launch("--context", OTHER_TOKENS, "--may-differ", "outputs", "--may-differ", "commit")
    assert answer["verdict"] == "faster"


def test_without_a_block_of_both_arms_nothing_was_measured(launch, tmp_path):
    done, answer = launch("--context", UNAVAILABLE)
    assert done.status == 1
    assert "no block has a run of both arms" in done.err
    assert (answer["ratio"], answer["ci95"], answer["blocks"]) == (None, None, 0)
    records, _ = Store(tmp_path).read()
    assert [type(record) for record in records] == [Skip]


def test_an_arm_whose_partner_cannot_run_is_given_up_with_it(tiny_model, tmp_path, fake_child):
    spec = load_model(tiny_model)
    workloads = Workload.of(UNAVAILABLE), Workload.of(64)
    cells = [Cell(spec=spec, workload=workload, runtime="hf-eager", device="cpu") for workload in workloads]
    keys = [cell.key for cell in cells]
    plan = Plan(cells, 5, Protocol(timed_steps=4), partners={keys[0]: keys[1], keys[1]: keys[0]})
    store = Store(tmp_path)
    store.open_for_writing()
    with SessionProgress() as progress:
        records = list(take_blocks(plan, store, progress))
    assert sum(isinstance(record, Run) for record in records) <= 1
    assert sum(isinstance(record, Skip) for record in records) == 1


def test_an_arm_compared_with_itself_gives_the_false_alarms_of_the_machine(memfloor, tiny_model, tmp_path, fake_child):
    done = memfloor("aa", tiny_model, "--context", 64, *SHORT, "--runs", 3, "--out", tmp_path, "--json")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    assert (answer["ratio"], answer["verdict"], answer["blocks"]) == (1.0, "equivalent", 3)
    assert [(item["blocks"], item["share"]) for item in answer["false_alarms"]] == [(3, 0.0)]
    assert answer["resolvable_margin"] == 0.0
    runs, _ = Store(tmp_path).read()
    assert [sum(run.cell.arm == arm for run in runs) for arm in ("baseline", "candidate")] == [3, 3]
    (said,) = Store(tmp_path).comparisons()[0]
    assert isinstance(said, Comparison)
    assert said.question == "aa"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ab", "--baseline", "engine", "--candidate", "engine"), "must differ"),
        (("ab", "--baseline", "engine"), "--candidate"),
        (("ab", "--baseline", "engine", "--candidate", "engine,launch=slow"), "unknown engine launch 'slow'"),
        (("ab", "launch", "--margin", 0), "margin must be above 0"),
        (("ab", "launch", "--margin", 1), "below 1, not 1"),
        (("ab", "launch", "--expect-null-below", 0.9), "expect-null-below must be above 1"),
        (("ab", "launch", "--arms", "turbo"), "unknown arms 'turbo'; allowed: engine, hf-compile, hf-static"),
        (("ab", "launch", "--may-differ", "weather"), "weather"),
        (("ab", "launch", "--batch", "0"), "batch must be 1 or more, not 0"),
        (("ab", "launch", "--context", "x"), "context 'x' is not a whole number"),
        (("ab", "launch", "--runs", 0), "runs must be 1 or more"),
        (("aa", "--runtime", "vllm"), "unknown runtime 'vllm'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_record(memfloor, tiny_model, tmp_path, arguments, words):
    command = [*arguments[:2], tiny_model, *arguments[2:]] if arguments[1] == "launch" else [arguments[0], tiny_model]
    rest = () if arguments[1] == "launch" else arguments[1:]
    done = memfloor(*command, *rest, "--device", "cpu", "--out", tmp_path / "runs")
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_real_launch_modes_are_compared_reported_and_drawn(memfloor, tiny_model, tmp_path):
    runs = tmp_path / "runs"
    done = memfloor("ab", "launch", tiny_model, "--arms", "engine", "--context", 64, "--runs", 2, *SHORT, "--out", runs)
    assert done.status == 0, done.err
    assert "outputs: equal: the tokens of 16 steps and every bit of the last logits" in done.out
    # Times of a tiny model's kernels are noise, and may be named as confounders; the kernels themselves are not.
    assert not re.search(r"kernels: \d+ of \d+ are gone", done.out.replace("\n", " "))
    assert len(json.loads(memfloor("runs", runs, "--kind", "run", "--json").out)) == 4
    listed = memfloor("runs", runs).out
    assert [listed.count(kind) for kind in ("arm_observation", "ab, 2 blocks planned")] == [2, 1]
    (row,) = json.loads(memfloor("query", runs, "SELECT * FROM comparisons", "--json").out)
    assert (row["question"], row["blocks"], row["planned_blocks"], row["candidate"]) == (
        "ab",
        2,
        2,
        "engine,launch=graph",
    )
    assert memfloor("report", runs, "-o", tmp_path / "page.html").status == 0
    assert "What one change does" in (tmp_path / "page.html").read_text()
    for number in ("5", "6"):
        assert memfloor("figure", number, runs, "--out", tmp_path).status == 0
        assert (tmp_path / f"figure-{number}.svg").stat().st_size > 1000


def test_two_real_runtimes_are_confounded(shell, tiny_model, tmp_path):
    arms = ("--baseline", "hf-eager", "--candidate", "engine", "--context", 64, "--runs", 1)
    done = shell("ab", tiny_model, *arms, *SHORT, "--out", tmp_path, "--json")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    assert (answer["blocks"], answer["ci95"], answer["verdict"]) == (1, None, "unclear")
    assert any(item.startswith("kernels:") for item in answer["confounders"])
    assert answer["outputs"].startswith("not comparable: random weights of two runtimes")


def test_a_folder_without_comparisons_says_how_to_take_one(memfloor, fake_records):
    done = memfloor("figure", "5", fake_records)
    assert done.status == 2
    assert "holds no comparison with runs of both arms; take one with: memfloor ab launch" in done.err
