import json

import pytest

from memfloor.errors import UsageError
from memfloor.floor import attention_lengths, attention_traffic, step_traffic
from memfloor.record import Comparison, OutputError, Protocol, Run, Store
from memfloor.report.afterwards import compared_in
from memfloor.report.attention import OUTPUT_TOLERANCE, attention_in, attention_of, lost_json
from memfloor.report.attention_figure import attention_figure
from memfloor.report.attention_table import ATTENTION_COLUMNS, attention_row, skipped_row
from memfloor.report.figures import figure_svg
from memfloor.report.page import render
from memfloor.report.repeat import attention_commands
from memfloor.report.sql import run_query, tables_of
from memfloor.report.summary import summarise
from memfloor.spec import Workload, load_model

# Of the tiny model at context 512: two layers, keys and values, two KV heads, 16 numbers of two bytes.
KV_BYTES = 2 * 2 * 2 * 16 * 512 * 2
LAYERS = 2


@pytest.fixture
def backend(make_run, make_cell):
    """Return a function that makes a run of a backend, each layer so many milliseconds."""

    def make(
        milliseconds, block=0, runtime="sdpa", error=2e-3, plan_seconds=None, context_len=512, facts=(), **options
    ):
        cell = make_cell(context_len, runtime, options=options, part="attention")
        run = make_run((LAYERS * milliseconds * 1e-3,) * 3, block=block, cell=cell, ceiling=1e9)
        found = OutputError(relative_norm=error, max_abs=0.1)
        path = run.path.model_copy(
            update={"output_error": found, "plan_seconds": plan_seconds, "facts": {"kv_copies": "none", **dict(facts)}}
        )
        return run.model_copy(update={"path": path})

    return make


def said(baseline, candidate):
    return Comparison(
        record_id="1" * 32,
        session_id="0" * 32,
        taken_at="2026-11-27T10:00:00+00:00",
        question="ab",
        baseline=baseline.cell,
        candidate=candidate.cell,
        planned_runs=2,
        protocol=Protocol(parts=1),
        seed=0,
        margin=0.02,
    )


@pytest.fixture
def two(backend):
    """Return what is said of sdpa and of a backend that takes half its time, and their records."""
    ours = [backend(2.0, block) for block in range(2)]
    theirs = [backend(1.0, block, "engine") for block in range(2)]
    comparison = said(ours[0], theirs[0])
    return comparison, [*ours, *theirs]


def test_attention_reads_the_cache_of_every_layer_and_nothing_else(tiny):
    workload = Workload.of(512, 3)
    traffic = attention_traffic(tiny, workload)
    assert traffic.kv_read == traffic.total_bytes == 3 * KV_BYTES
    assert step_traffic(tiny, workload).kv_read == traffic.kv_read


def test_layers_that_slide_read_their_window(tiny):
    slides = tiny.model_copy(update={"sliding_window": 100, "num_sliding_layers": 1})
    assert attention_lengths(slides, 512) == [512, 100]
    assert attention_lengths(slides, 64) == [64, 64]
    assert attention_traffic(slides, Workload.of(512)).total_bytes == KV_BYTES * (512 + 100) // 1024


def test_a_context_beyond_the_model_is_refused():
    with pytest.raises(UsageError, match="context 32769 is beyond"):
        attention_traffic(load_model("qwen2.5-0.5b"), Workload.of(32769))


def test_the_part_is_in_the_key_only_where_it_is_not_the_whole_step(make_cell):
    whole, part = make_cell(), make_cell(part="attention")
    assert part.key == f"{whole.key} attention"
    assert "step" not in whole.key


def test_records_from_before_parts_are_of_whole_steps(make_run):
    fields = json.loads(make_run().model_dump_json())
    del fields["cell"]["part"], fields["path"]["output_error"], fields["path"]["plan_seconds"]
    old = Run.model_validate(fields)
    assert old.cell.part == "step"
    assert (old.path.output_error, old.path.plan_seconds) == (None, None)


def test_a_folder_never_gives_runs_of_attention_for_steps(two, make_run, tmp_path):
    comparison, records = two
    store = Store(tmp_path)
    for record in (comparison, *records, make_run()):
        store.add(record)
    found = store.contents()
    assert len(found.every) == 6
    assert [run.cell.part for run in found.runs] == ["step"]
    assert (found.comparisons, compared_in(found)) == ([], [])
    assert [run.cell.part for run in store.read()[0]] == ["step"]
    own = found.of("attention")
    assert len(own.runs) == 4
    assert own.comparisons == [comparison]
    assert [row.verdict for row in attention_in(found).rows] == ["faster", "baseline"]


def test_a_row_is_of_one_layer_and_beside_its_own_ceiling(two):
    comparison, records = two
    engine, sdpa = attention_of([comparison], records).rows
    assert engine.seconds.value == pytest.approx(1e-3)
    assert engine.layer_bytes == KV_BYTES / LAYERS
    # 65,536 bytes of a layer in 1 ms, of 1 GB/s.
    assert engine.ceiling.value == pytest.approx(0.065536)
    assert engine.floor_seconds == pytest.approx(65.536e-6)
    assert engine.ratio.value == pytest.approx(2.0)
    assert (sdpa.ratio, sdpa.is_baseline) == (None, True)
    shown = dict(zip(ATTENTION_COLUMNS, attention_row(engine), strict=True))
    assert (shown["p50 a layer"], shown["bytes a layer"], shown["error"]) == ("1 ms", "65.54 kB", "2.0e-03")
    answer = engine.to_json()
    assert (answer["backend"], answer["ratio"], answer["verdict"], answer["skipped"]) == (
        "engine",
        pytest.approx(2.0),
        "faster",
        None,
    )


def test_a_result_far_from_float32_gets_no_verdict(backend):
    ours, theirs = backend(2.0), backend(1.0, runtime="engine", error=1.5 * OUTPUT_TOLERANCE)
    wrong, sdpa = attention_of([said(ours, theirs)], [ours, theirs]).rows
    assert wrong.refused
    assert "from float32, beyond 0.016" in wrong.verdict
    assert not sdpa.refused


def test_another_path_than_asked_for_gets_no_verdict_and_is_flagged(backend):
    ours = backend(2.0, facts={"asked": "default", "ran": "flash"})
    theirs = backend(1.0, backend="cudnn", facts={"asked": "cudnn", "ran": "math", "kv_copies": "2 aten::clone"})
    found = attention_of([said(ours, theirs)], [ours, theirs])
    pinned, sdpa = found.rows
    assert pinned.verdict == "refused: cudnn was asked for and math ran"
    assert pinned.flags == [
        "cudnn was asked for and math ran",
        "copies keys or values in every step: 2 aten::clone",
    ]
    assert (sdpa.verdict, sdpa.flags) == ("baseline", [])
    assert "sdpa,backend=cudnn at context 512: cudnn was asked for and math ran." in found.cautions


def test_runs_that_nobody_compared_have_no_verdict(backend):
    (row,) = attention_of([], [backend(1.0, runtime="flex", plan_seconds=0.5)]).rows
    assert (row.verdict, row.ratio, row.refused, row.plan_seconds) == ("not compared", None, False, 0.5)
    assert row.to_json()["ci95_seconds_per_layer"] is None


def test_a_backend_that_could_not_run_stands_with_its_reason(backend, make_skip, make_cell):
    skip = make_skip("no kernel for this shape", make_cell(runtime="flashinfer", part="attention"))
    found = attention_of([], [backend(1.0), skip])
    (lost,) = found.invalid
    assert skipped_row(lost) == ["tiny", "flashinfer", "512", "not run: no kernel for this shape"]
    assert lost_json(lost)["skipped"] == "no kernel for this shape"
    assert "not run: no kernel for this shape" in figure_svg(attention_figure(found))


def test_figure_7_has_a_panel_for_each_device_and_a_group_for_each_context(backend, make_run):
    records = [backend(1.0, block, context_len=context) for block in range(2) for context in (256, 512)]
    other = backend(3.0, runtime="engine")
    device = other.environment.device.model_copy(update={"name": "NVIDIA H200", "kind": "cuda"})
    elsewhere = other.model_copy(update={"environment": other.environment.model_copy(update={"device": device})})
    text = figure_svg(attention_figure(attention_of([], [*records, elsewhere])))
    for words in ("Some CPU, tiny", "NVIDIA H200, tiny", "context 256", "context 512", "engine", "3 ms"):
        assert words in text
    again = figure_svg(attention_figure(attention_of([], [*records, elsewhere])))
    assert text == again


def test_the_page_has_attention_apart_from_steps(two, make_run, tmp_path):
    comparison, records = two
    found = attention_of([comparison], records)
    alone = render([], [], tmp_path, attention=found)
    assert "Attention backends, and no plain runs." in alone
    assert "Figure 7." in alone
    assert "memfloor ab attention /models/tiny/config.json --backend engine --backend sdpa --context 512" in alone
    both = render([make_run()], [], tmp_path, attention=found)
    assert "one tiny decode step at context 512" in both
    assert "<h2>Attention backends</h2>" in both
    assert "<h2>Attention backends</h2>" not in render([make_run()], [], tmp_path)


def test_sql_has_attention_in_a_table_of_its_own(two, make_skip, make_cell):
    _, records = two
    skip = make_skip("no such library", make_cell(runtime="flashinfer", part="attention"))
    columns = "runtime, layers, p50_seconds, kv_bytes, error_relative_norm, reason"
    query = f"SELECT {columns} FROM attention WHERE block = 0 ORDER BY runtime"
    names, rows = run_query(tables_of([], attention=[*records, skip]), query)
    assert ", ".join(names) == columns
    assert rows[0] == ("engine", LAYERS, pytest.approx(1e-3), KV_BYTES / LAYERS, 2e-3, None)
    assert rows[1] == ("flashinfer", None, None, None, None, "no such library")
    assert run_query(tables_of([], attention=records), "SELECT count(*) FROM steps")[1] == [(0,)]


def test_the_command_that_repeats_attention_names_backends_and_settings(two):
    comparison, records = two
    rows = attention_of([comparison], records).rows
    (command,) = attention_commands([row.summary for row in rows])
    assert command.startswith("memfloor ab attention /models/tiny/config.json --backend engine --backend sdpa")
    assert "--context 512 --device cpu --runs 2" in command


def test_bytes_of_a_summary_are_those_of_its_part(backend, make_run):
    (of_attention,), _ = summarise([backend(1.0)])
    assert {name: part.total_bytes for name, part in of_attention.fractions.items()} == {"streamed": KV_BYTES}
    (of_step,), _ = summarise([make_run()])
    assert set(of_step.fractions) == {"streamed", "paper", "blocks"}
