import json
from itertools import groupby

import pytest

from memfloor.record import Skip, Store

SHORT = ("--timed-steps", 4, "--device", "cpu", "--threads", 1)
# What the fake child does at this context.
UNAVAILABLE = 21


@pytest.fixture
def ab_attention(memfloor, tiny_model, tmp_path):
    """Return a function that compares attention backends on the tiny model."""

    def run(*arguments):
        command = ("ab", "attention", tiny_model, *SHORT, *arguments, "--out", tmp_path / "runs")
        done = memfloor(*command, "--json")
        return done, json.loads(done.out) if done.out else None

    return run


def test_real_backends_are_compared_reported_and_drawn(ab_attention, memfloor, tmp_path):
    backends = ("--backend", "sdpa,backend=cudnn", "--backend", "engine", "--backend", "flashinfer")
    done, rows = ab_attention("--context", 100, "--runs", 2, *backends)
    assert done.status in (0, 3), done.err
    measured = {row["backend"]: row for row in rows if row["skipped"] is None}
    assert set(measured) == {"sdpa", "engine"}
    for row in measured.values():
        # Keys and values of two KV heads of 16 numbers, two bytes each.
        assert (row["context"], row["batch"], row["runs"], row["layers"]) == (100, 1, 2, 2)
        assert row["bytes_per_layer"] == 2 * 2 * 16 * 100 * 2
        assert 0 < row["error_relative_norm"] < 2**-6
        assert row["p50_seconds_per_layer"] > 0
        assert row["fraction_of_ceiling"] > 0
    assert (measured["sdpa"]["verdict"], measured["sdpa"]["ratio"]) == ("baseline", None)
    assert measured["engine"]["ratio"] > 0
    assert measured["sdpa"]["path"]["ran"] == "flash"
    skipped = {row["backend"]: row["skipped"] for row in rows if row["skipped"]}
    assert skipped["flashinfer"] == "flashinfer runs on cuda, not on cpu"
    assert "No viable backend" in skipped["sdpa,backend=cudnn"]
    runs = tmp_path / "runs"
    assert memfloor("report", runs, "-o", tmp_path / "page.html").status == 0
    page = (tmp_path / "page.html").read_text()
    assert "Attention backends" in page
    assert "What one change does" not in page
    assert memfloor("figure", "7", runs, "--out", tmp_path).status == 0
    assert (tmp_path / "figure-7.svg").stat().st_size > 1000
    (count,) = json.loads(memfloor("query", runs, "SELECT count(*) AS runs FROM runs", "--json").out)
    assert count["runs"] == 0
    for number in ("1", "5"):
        assert memfloor("figure", number, runs, "--out", tmp_path).status == 2


@pytest.mark.usefixtures("fake_child")
def test_all_backends_are_run_unless_some_are_named(ab_attention):
    done, rows = ab_attention("--context", 64, "--runs", 1)
    assert done.status == 0, done.err
    pinned = {f"sdpa,backend={name}" for name in ("flash", "efficient", "math", "cudnn")}
    others = {"sdpa", "sdpa,gqa=rows", "flash-attention-2", "flash-attention-3", "flashinfer", "flex", "engine"}
    assert {row["backend"] for row in rows} == pinned | others


@pytest.mark.usefixtures("fake_child")
def test_what_is_compared_is_said_first_and_interleaved_by_workload(ab_attention, tmp_path):
    done, _ = ab_attention("--context", "64,128", "--batch", "1,2", "--backend", "engine")
    assert done.status == 0, done.err
    found = Store(tmp_path / "runs").contents().of("attention")
    # Three runs unless given, of two backends, contexts and batch sizes.
    assert len(found.runs) == 3 * 2 * 2 * 2
    said = found.comparisons
    assert [(item.baseline.runtime_text, item.candidate.runtime_text) for item in said] == [("sdpa", "engine")] * 4
    assert {item.session_id for item in (*said, *found.runs)} == {said[0].session_id}
    assert max(item.taken_at for item in said) <= min(run.taken_at for run in found.runs)
    for _, block in groupby(found.runs, key=lambda run: run.block):
        # The backends of a context and batch size lie side by side.
        assert len([workload for workload, _ in groupby(run.cell.workload for run in block)]) == 4


@pytest.mark.usefixtures("fake_child")
def test_every_launch_mode_has_a_baseline_of_its_own(ab_attention):
    _, rows = ab_attention("--context", 64, "--runs", 2, "--backend", "flex,launch=graph", "--backend", "engine")
    ratios = {row["backend"]: row["ratio"] for row in rows}
    assert ratios.keys() == {"sdpa", "sdpa,launch=graph", "flex,launch=graph", "engine"}
    # The fake child takes half the time where the launch is a graph.
    assert ratios["flex,launch=graph"] == pytest.approx(1.0)
    assert ratios["engine"] == pytest.approx(1.0)


@pytest.mark.usefixtures("fake_child")
def test_where_no_backend_runs_nothing_was_measured(ab_attention, tmp_path):
    done, rows = ab_attention("--context", UNAVAILABLE, "--backend", "engine")
    assert done.status == 1
    assert "no backend gave a time" in done.err
    assert {row["skipped"] for row in rows} == {"this runtime needs another machine"}
    assert all(isinstance(item, Skip) for item in Store(tmp_path / "runs").contents().of("attention").runs)


@pytest.mark.usefixtures("fake_child")
def test_the_table_names_backends_with_their_time_and_what_could_not_run(memfloor, tiny_model, tmp_path):
    few = ("--context", f"64,{UNAVAILABLE}", "--runs", 1, "--backend", "flash-attention-3")
    done = memfloor("ab", "attention", tiny_model, *SHORT, *few, "--out", tmp_path)
    assert done.status == 0, done.err
    assert "p50 a layer" in done.out
    assert "flash-attention-3" in done.out
    assert "not run: this runtime needs another machine" in done.out


@pytest.mark.usefixtures("fake_child")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backend", "triton"), "unknown attention backend 'triton'; allowed: engine, flash-attention-2"),
        (("--backend", "sdpa,backend=fast"), "unknown sdpa backend 'fast'; allowed: cudnn, default"),
        (("--backend", "flashinfer,backend=math"), "unknown option of flashinfer 'backend'; allowed: cores, launch"),
        (("--backend", "sdpa"), "no backend is left beside sdpa; name one with --backend"),
        (("--context", 2**40 + 1), "beyond"),
        (("--context", "0"), "context must be 1 or more"),
        (("--batch", "0"), "batch must be 1 or more, not 0"),
        (("--runs", "0"), "runs must be 1 or more"),
        (("--margin", "0"), "margin must be above 0"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--weights", "int8"), "--weights does not shape attention"),
        (("--kv", "int8"), "--kv does not shape attention"),
        (("--prefill",), "--prefill does not shape attention"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_record(memfloor, tiny_model, tmp_path, arguments, words):
    device = () if "--device" in arguments else ("--device", "cpu")
    done = memfloor("ab", "attention", tiny_model, *device, *arguments, "--out", tmp_path / "runs")
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_attention_says_how_to_take_some(memfloor, fake_records):
    done = memfloor("figure", "7", fake_records)
    assert done.status == 2
    assert "holds no runs of attention; take some with: memfloor ab attention" in done.err
