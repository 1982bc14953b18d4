"""The real thing on a tiny model: real children, real ceilings, from a study to its report."""

import json
from pathlib import Path

import pytest

from memfloor.floor import CONVENTIONS, step_traffic
from memfloor.measure.environment import cpu_name
from memfloor.record import Failure, Run, Store

PROTOCOL = ("--warmup-steps", 2, "--timed-steps", 4, "--device", "cpu", "--threads", 1)
# More tokens than any memory holds; allowed by the tiny model's config.
TOO_LONG = 2**36


@pytest.fixture(scope="module")
def studied(shell, tiny_model, tmp_path_factory):
    """Return the folder and the result of a study of one cell that fits and one that does not."""
    folder = tmp_path_factory.mktemp("studied") / "records"
    contexts = ("--context", f"64,{TOO_LONG}", "--runs", 2)
    return folder, shell("study", "--model", tiny_model, *contexts, *PROTOCOL, "--out", folder, "--json")


@pytest.fixture(scope="module")
def runs(studied):
    records, unreadable = Store(studied[0]).read()
    assert unreadable == []
    return [record for record in records if isinstance(record, Run)]


@pytest.fixture(scope="module")
def summary(studied):
    cells = json.loads(studied[1].out)
    return next(cell for cell in cells if cell["context_len"] == 64)


def test_the_study_ends_well(studied):
    assert studied[1].status == 0, studied[1].err
    assert "Traceback" not in studied[1].err


def test_every_run_has_its_steps_in_order(runs):
    assert len(runs) == 2
    for run in runs:
        assert [step.phase for step in run.steps] == ["warmup"] * 2 + ["timed", "settle"] * 3 + ["timed"]
        assert all(step.host_seconds > 0 and step.device_seconds is None for step in run.steps)


def test_every_run_has_a_paired_ceiling_around_its_steps(runs):
    for run in runs:
        assert [reading.after_steps for reading in run.ceilings] == [1, 3, 5, 7, 9]
        assert {reading.method.endswith("1 threads") for reading in run.ceilings} == {True}
        assert all(reading.pass_bytes >= 512 * 2**20 for reading in run.ceilings)


def test_every_run_says_where_it_was_taken(runs):
    for run in runs:
        environment = run.environment
        assert (environment.device.kind, environment.device.name) == ("cpu", cpu_name())
        assert environment.threads == 1
        assert {"memfloor", "torch", "transformers"} <= set(environment.packages)
        assert 0.0 <= environment.foreign_load <= 1.0
        assert environment.sensors_before.keys() == environment.sensors_after.keys()


def test_every_run_says_which_path_it_took(runs):
    for run in runs:
        assert run.path.facts["attention_implementation"] == "sdpa"
        assert run.path.facts["torch_threads"] == "1"
        assert sum(calls for name, calls in run.path.operators.items() if "scaled_dot_product" in name) == 2


def test_the_context_that_does_not_fit_is_one_failure_with_both_sizes(studied):
    failures = [record for record in Store(studied[0]).read()[0] if isinstance(record, Failure)]
    assert len(failures) == 1
    assert failures[0].cause == "out_of_memory"
    assert failures[0].cell.workload.context_len == TOO_LONG
    assert "tiny needs " in failures[0].last_words
    assert "is free on this cpu device" in failures[0].last_words


def test_json_has_the_promised_fields(summary):
    assert {"model", "runtime", "context_len", "runs", "p50_seconds", "ci95_seconds", "cv"} <= set(summary)
    assert (summary["model"], summary["runtime"], summary["runs"]) == ("tiny", "hf-eager", 2)
    low, high = summary["ci95_seconds"]
    assert low <= summary["p50_seconds"] <= high
    assert summary["tokens_per_second"] == pytest.approx(1 / summary["p50_seconds"])
    assert set(summary["fraction"]) == set(CONVENTIONS)
    for fraction in summary["fraction"].values():
        assert {"peak", "ceiling", "ceiling_ci95"} <= set(fraction)
        low, high = fraction["ceiling_ci95"]
        assert low <= fraction["ceiling"] <= high


def test_fractions_are_paired_run_by_run(summary, runs):
    for name in CONVENTIONS:
        total = step_traffic(runs[0].cell.spec, runs[0].cell.workload, name).total_bytes
        pairs = [run.fraction_of_ceiling(total) for run in runs]
        assert summary["fraction"][name]["bytes"] == total
        assert summary["fraction"][name]["ceiling"] == pytest.approx(sum(pairs) / 2)


def test_progress_goes_to_standard_error_alone(studied):
    lines = studied[1].err.splitlines()
    # Two runs and one failure, which is not tried a second time.
    assert len(lines) == 3
    assert all(line.partition("/4] tiny hf-eager ctx ")[1] for line in lines)
    assert json.loads(studied[1].out)


def test_the_report_shows_both_cells(studied, memfloor, tmp_path):
    result = memfloor("report", studied[0], "-o", tmp_path / "page.html")
    assert result.status == 0
    text = (tmp_path / "page.html").read_text()
    assert f"On {cpu_name()}, one tiny decode step at context 64 would take" in text
    assert "hf-eager takes" in text
    assert "invalid: out of memory: tiny needs" in text


def test_a_checkpoint_is_measured_with_a_real_prefill(shell, tiny_model, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**json.loads((Path(tiny_model) / "config.json").read_text()))
    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "checkpoint")
    options = ("--weights-from", tmp_path / "checkpoint", "--prefill", "--dtype", "fp32", "--batch", 2)
    result = shell(
        *("measure", tmp_path / "checkpoint", "--runtime", "hf-static", "--context", "32", "--runs", 1),
        *(*PROTOCOL, *options, "--out", tmp_path / "out", "--json"),
    )
    assert result.status == 0, result.err
    measured = json.loads(result.out)
    assert (measured["runtime"], measured["weights"], measured["batch"]) == ("hf-static", "fp32", 2)
    assert (measured["runs"], measured["ci95_seconds"], measured["cv"]) == (1, None, None)
    assert measured["tokens_per_second"] == pytest.approx(2 / measured["p50_seconds"])
    run = Store(tmp_path / "out").read()[0][0]
    assert (run.cell.prefill, run.cell.weights_from) == (True, str(tmp_path / "checkpoint"))
    assert run.path.facts["weights_dtype"] == "torch.float32"
    assert run.path.facts["cache_class"] == "StaticCache"


def test_a_format_without_a_path_is_skipped_with_its_reason(shell, tiny_model, tmp_path):
    options = ("--context", "64", "--runs", 3, "--weights", "int8", *PROTOCOL, "--out", tmp_path, "--json")
    result = shell("measure", tiny_model, *options)
    assert result.status == 1
    assert json.loads(result.out)["invalid"] == "hf-eager runs weights bf16, fp16, fp32, not int8 with head bf16"
    assert [record.kind for record in Store(tmp_path).read()[0]] == ["skip"]
