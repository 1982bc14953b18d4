import math
import uuid

import pytest

from memfloor.floor import step_traffic
from memfloor.record import (
    ArmObservation,
    Comparison,
    Contents,
    LogitErrors,
    Protocol,
    Quality,
    StepTrace,
    TracedKernel,
)
from memfloor.report import weight_tables
from memfloor.report.breakdown import entries_of
from memfloor.report.ledger import make_ledger
from memfloor.report.qualities import quality_means
from memfloor.report.repeat import ladder_commands
from memfloor.report.sql import run_query, tables_of
from memfloor.report.weight_figure import published_bars
from memfloor.report.weight_ladder import ladders_in, saving
from memfloor.report.weight_section import weight_section
from memfloor.report.weight_tables import (
    QUALITY_COLUMNS,
    TRAFFIC_COLUMNS,
    WHY_COLUMNS,
    ladder_lines,
    quality_rows,
    traffic_row,
    why_row,
    why_rows,
)
from memfloor.spec import Workload

SESSION = "d" * 32
CEILING = 1e9
ERRORS = LogitErrors(
    relative_errors=(0.1, 0.3),
    agrees=(True, False),
    kl_nats=(0.0, 0.2),
    surprise_nats=(math.log(4),),
    reference_surprise_nats=(math.log(2),),
)


def identity():
    return {"record_id": uuid.uuid4().hex, "session_id": SESSION, "taken_at": "2026-11-27T10:00:00+00:00"}


def total(cell):
    return step_traffic(cell.spec, cell.workload).total_bytes


@pytest.fixture
def cell_of(make_cell):
    def make(runtime="engine", weights="bf16", head=None, **other):
        cell = make_cell(runtime=runtime, **other)
        return cell.model_copy(update={"workload": Workload.of(512, weights=weights, head=head)})

    return make


@pytest.fixture
def took(make_run):
    """Return a function that makes runs of a session from what each block's step took."""

    def make(cell, seconds, ceilings=None, facts=None):
        rates = ceilings or {}
        runs = []
        for block, time in seconds.items():
            run = make_run(step_seconds=(time,) * 3, ceiling=rates.get(block, CEILING), block=block, cell=cell)
            path = run.path.model_copy(update={"facts": facts or {}})
            runs.append(run.model_copy(update={"session_id": SESSION, "path": path}))
        return runs

    return make


@pytest.fixture
def ladder_of():
    """Return a function that derives the only ladder of some paths' records."""

    def make(baseline, paths, records):
        said = [
            Comparison(
                **identity(),
                question="weights",
                baseline=baseline,
                candidate=cell,
                planned_runs=2,
                protocol=Protocol(parts=1),
                seed=0,
                margin=0.02,
                may_differ=("outputs",),
                path=name,
            )
            for name, cell in paths.items()
        ]
        (ladder,) = ladders_in(Contents([*said, *records], []))
        return ladder

    return make


def quality(path, cell, **fields):
    return Quality(
        **identity(),
        cell=cell,
        path=path,
        seed=0,
        weights_source="random",
        token_source="random",
        tokens=2,
        tokens_sha256="0" * 64,
        **fields,
    )


def test_the_share_realised_is_time_saved_over_the_time_of_the_bytes_saved(cell_of, took):
    wide, narrow = cell_of("hf-eager"), cell_of(weights="int8", head="int8")
    saved = (total(wide) - total(narrow)) / CEILING
    # Half of what the bytes take in the first block and 0.7 of it in the second.
    ours, theirs = took(wide, {0: 10 * saved, 1: 9 * saved}), took(narrow, {0: 9.5 * saved, 1: 8.3 * saved})
    found = saving("bf16", (wide, ours), (narrow, theirs))
    assert found.promised == total(wide) / total(narrow)
    assert found.realised.value == pytest.approx(0.6)
    # Two values 0.2 apart: 12.706 times 0.1.
    assert found.realised.ci95 == pytest.approx((0.6 - 1.2706, 0.6 + 1.2706), rel=1e-3)
    assert found.realised.blocks == 2


def test_arms_that_met_other_bandwidth_are_compared_as_if_they_met_one(cell_of, took):
    wide, narrow = cell_of("hf-eager"), cell_of(weights="int8", head="int8")
    saved = (total(wide) - total(narrow)) / CEILING
    ours = took(wide, {0: 10 * saved})
    theirs = took(narrow, {0: 2 * 9.5 * saved}, ceilings={0: CEILING / 2})
    assert saving("bf16", (wide, ours), (narrow, theirs)).realised.value == pytest.approx(0.5)


def test_a_path_slower_than_its_baseline_realises_less_than_nothing(cell_of, took):
    wide, narrow = cell_of("hf-eager"), cell_of(weights="int8", head="int8")
    saved = (total(wide) - total(narrow)) / CEILING
    found = saving("bf16", (wide, took(wide, {0: 10 * saved})), (narrow, took(narrow, {0: 12 * saved})))
    assert found.realised.value == pytest.approx(-2.0)
    assert found.realised.ci95 is None


def test_without_bytes_saved_or_a_block_of_both_no_share_is_said(cell_of, took):
    wide, narrow = cell_of("hf-eager"), cell_of(weights="int8")
    same = saving("bf16", (wide, took(wide, {0: 1.0})), (cell_of(), took(cell_of(), {0: 0.5})))
    assert (same.promised, same.realised) == (1.0, None)
    assert saving("bf16", (wide, took(wide, {0: 1.0})), (narrow, took(narrow, {1: 0.5}))).realised is None


def test_a_path_is_set_against_the_baseline_and_its_own_16_bits(cell_of, took, ladder_of):
    base, wide, narrow = cell_of("hf-eager"), cell_of(), cell_of(weights="int8", head="int8")
    saved = (total(wide) - total(narrow)) / CEILING
    records = [*took(base, {0: 20 * saved}), *took(wide, {0: 10 * saved}), *took(narrow, {0: 9 * saved})]
    ladder = ladder_of(base, {"engine-int8": narrow, "engine-bf16": wide}, records)
    # Most bytes first.
    assert [row.name for row in ladder.rows] == ["baseline", "engine-bf16", "engine-int8"]
    row = ladder.paths[1]
    assert (row.saving.over, row.own_saving.over) == ("baseline", "engine-bf16")
    assert row.saving.realised.value == pytest.approx(11.0)
    assert row.own_saving.realised.value == pytest.approx(1.0)
    assert row.compared.ratio.value == pytest.approx(20 / 9)
    assert ladder.paths[0].own_saving is None


@pytest.mark.parametrize(("launch", "own"), [("eager", "static"), ("graph", None)])
def test_modules_of_hugging_face_launched_alike_are_a_paths_own_16_bits(cell_of, took, ladder_of, launch, own):
    facts = {"model_class": "Qwen2ForCausalLM", "cache_class": "StaticCache"}
    base, wide, narrow = cell_of("hf-eager"), cell_of("hf-static"), cell_of("torchao", weights="int8")
    records = [
        *took(base, {0: 3.0}),
        *took(wide, {0: 2.0}, facts=facts | {"launch": "eager"}),
        *took(narrow, {0: 1.0}, facts=facts | {"launch": launch}),
    ]
    row = ladder_of(base, {"static": wide, "torchao-int8": narrow}, records).paths[1]
    assert (row.own_saving and row.own_saving.over) == own


def test_outputs_of_paths_may_differ_and_their_kernels_do_by_construction(cell_of, took, ladder_of):
    base, narrow = cell_of("hf-eager"), cell_of(weights="int8", head="int8")
    row = ladder_of(base, {"p": narrow}, [*took(base, {0: 4.0, 1: 4.0}), *took(narrow, {0: 2.0, 1: 2.0})]).paths[0]
    assert row.compared.verdict == "faster"
    assert row.compared.outputs == "not comparable: weights in bf16 and int8"
    (confounder,) = row.compared.confounders
    assert confounder.startswith("by construction")


@pytest.mark.parametrize(("second", "share"), [(0.6, "60 % [59, 61]"), (2.0, "not resolved")])
def test_a_share_of_blocks_that_disagree_is_not_told(cell_of, took, ladder_of, second, share):
    base, narrow = cell_of("hf-eager"), cell_of(weights="int8", head="int8")
    saved = (total(base) - total(narrow)) / CEILING
    ours, theirs = {0: 10 * saved, 1: 10 * saved}, {0: (10 - 0.599) * saved, 1: (10 - second - 0.001) * saved}
    ladder = ladder_of(base, {"p": narrow}, [*took(base, ours), *took(narrow, theirs)])
    cells = dict(zip(TRAFFIC_COLUMNS, traffic_row(ladder.paths[0]), strict=True))
    assert cells["share realised"] == share
    assert any("not resolved where its interval" in line for line in ladder_lines(ladder))


def test_a_path_that_cannot_run_keeps_its_bytes_and_says_why(cell_of, took, ladder_of, make_skip):
    base, narrow = cell_of("hf-eager"), cell_of("llama-cpp", weights="int8-g32", head="int8-g32")
    skip = make_skip(reason="gguf is not installed", cell=narrow).model_copy(update={"session_id": SESSION})
    ladder = ladder_of(base, {"q8_0": narrow}, [*took(base, {0: 4.0}), skip])
    cells = dict(zip(TRAFFIC_COLUMNS, traffic_row(ladder.paths[0]), strict=True))
    assert cells["promised"] == f"{total(base) / total(narrow):.3f}"
    assert (cells["measured"], cells["step"]) == ("-", "-")
    assert cells["verdict"] == "none: gguf is not installed"
    assert why_row(ladder.paths[0])[-1] == "gguf is not installed"
    assert ladder.to_json()["paths"][0]["lost"] == "gguf is not installed"


def quantized_trace(labelled="modules"):
    seconds = {"weights": 0.002, "dequantization": 0.003, "attention": 0.001}
    kernels = [
        TracedKernel(name="k", op="k", role=role, start_seconds=(0.0,), seconds=(time,))
        for role, time in seconds.items()
    ]
    return StepTrace(tool="t", device="cpu", step_seconds=(0.006,), kernels=kernels, launches={}, labelled=labelled)


@pytest.fixture
def quantized_anatomy(anatomy_of, cell_of):
    def make(labelled="modules"):
        anatomy = anatomy_of(0.01, quantized_trace(labelled), twin_seconds=(0.004,))
        return anatomy.model_copy(update={"cell": cell_of(weights="int8"), "session_id": SESSION})

    return make


def test_dequantisation_is_a_term_of_its_own_and_has_no_share_of_the_floor(quantized_anatomy):
    anatomy = quantized_anatomy()
    entries = entries_of(anatomy)
    assert entries["dequantisation"] == pytest.approx(0.003)
    assert sum(entries.values()) == pytest.approx(0.01)
    # Floor and excess of products, attention and vectors are the kernels' 3 ms, the twin 4 ms.
    assert entries["unexplained"] == pytest.approx(0.0, abs=1e-5)
    assert "dequantisation" in {term.name for term in make_ledger([anatomy]).terms}
    assert "dequantisation" not in entries_of(quantized_anatomy("names"))


def test_a_row_says_in_milliseconds_who_owns_the_time_beyond_the_floor(cell_of, took, ladder_of, quantized_anatomy):
    base, narrow = cell_of("hf-eager"), cell_of(weights="int8")
    problem = ArmObservation(**identity(), arm="baseline", cell=base, seed=0, trace_problem="no trace sees it")
    records = [*took(base, {0: 0.02}), *took(narrow, {0: 0.01}), quantized_anatomy(), problem]
    ladder = ladder_of(base, {"p": narrow}, records)
    cells = dict(zip(WHY_COLUMNS, why_row(ladder.paths[0]), strict=True))
    assert (cells["step"], cells["dequantisation"], cells["host and launch"]) == ("10.000", "3.000", "4.000")
    assert cells["why"] == "most of the rest: host and launch"
    # 100 rows of 64 in bf16, at 1 GB/s.
    assert cells["16-bit head"] == "0.013"
    assert why_row(ladder.baseline) == ["hf-eager (baseline)", *["-"] * (len(WHY_COLUMNS) - 2), "no trace sees it"]


def test_a_quality_is_what_its_tokens_say_together():
    means = quality_means(ERRORS)
    assert (means.relative_error, means.top1_agreement, means.kl_nats) == pytest.approx((0.2, 0.5, 0.1))
    assert (means.perplexity, means.reference_perplexity) == pytest.approx((4.0, 2.0))


def test_the_study_promised_three_times_the_speed_and_gptq_took_more(cell_of):
    bars = {bar.label: bar for bar in published_bars()}
    gptq = bars["GPTQ, ExLlamaV2 (published)"]
    assert (gptq.promised, gptq.measured) == pytest.approx((3.05, 3.59), abs=0.005)


@pytest.fixture
def full_ladder(cell_of, took, ladder_of, quantized_anatomy):
    base, narrow = cell_of("hf-eager"), cell_of(weights="int8")
    return ladder_of(
        base,
        {"engine-int8<": narrow},
        [
            *took(base, {0: 0.02, 1: 0.02}),
            *took(narrow, {0: 0.01, 1: 0.01}),
            quantized_anatomy(),
            quality("engine-int8<", narrow, errors=ERRORS),
            quality("baseline", base, problem="out of memory: 9 TB"),
            quality("float32", base, errors=ERRORS),
        ],
    )


def test_the_page_has_both_tables_the_quality_and_figure_8(full_ladder):
    html = weight_section([full_ladder])
    for words in (*TRAFFIC_COLUMNS, *WHY_COLUMNS, *QUALITY_COLUMNS):
        assert words in html
    # Names come from records.
    assert "engine-int8&lt;" in html
    assert "engine-int8<" not in html
    for words in ("2.00e-01", "50.0 %", "out of memory: 9 TB", "<svg", "published", "of which perplexity says little"):
        assert words in html
    # What has no figures says why in their place.
    assert f'colspan="{len(QUALITY_COLUMNS) - 1}">out of memory: 9 TB<' in html
    assert weight_section([]) == ""


@pytest.mark.parametrize(
    ("kernels", "words"),
    [
        ("own product: own::mm x14, 14 projections", "Kernels, p: own product: own::mm x14"),
        ("unpacked: aten::mm x15, 14 projections and the head", "kernels than those of quantised weights, p: unpacked"),
        ("not marlin-awq, marlin::mm x0 for 14 projections; unpacked: aten::mm x15", "weights, p: not marlin-awq"),
        ("NOT AS ASKED: MatMul x3, not MatMulNBits alone", "weights, p: NOT AS ASKED"),
    ],
)
def test_the_kernels_that_a_path_really_ran_are_said_and_others_than_its_own_flagged(
    cell_of, took, ladder_of, kernels, words
):
    base, narrow = cell_of("hf-eager"), cell_of("hqq", weights="int4-g64")
    records = [*took(base, {0: 0.02}), *took(narrow, {0: 0.01}, facts={"path": kernels})]
    ladder = ladder_of(base, {"p": narrow}, records)
    row = ladder.to_json()["paths"][0]
    assert (row["kernels"], row["astray"]) == (kernels, not kernels.startswith("own"))
    assert words in "\n".join(ladder_lines(ladder))
    assert (ladder.baseline.kernels, ladder.baseline.astray) == (None, False)


def test_what_was_not_asked_for_is_said_and_has_no_table(cell_of, took, ladder_of):
    base, narrow = cell_of("hf-eager"), cell_of("engine", weights="int8")
    ladder = ladder_of(base, {"p,q": narrow}, [*took(base, {0: 0.02}), *took(narrow, {0: 0.01})])
    assert (why_rows(ladder), quality_rows(ladder)) == ([], [])
    html = weight_section([ladder])
    assert "no anatomy was taken (--anatomies)" in html
    assert "No quality was taken (--quality-tokens)" in html
    assert html.count("<table>") == 1
    # A long name may be broken between options.
    assert "p,<wbr>q" in html


def test_the_command_that_takes_it_again_names_every_path(full_ladder):
    (command,) = ladder_commands([full_ladder])
    assert command.startswith("memfloor ab weights /models/tiny/config.json --path engine-int8< --anatomies 1 ")
    assert "--quality-tokens 2 --context 512 --device cpu --runs 2 --margin 0.02 --may-differ outputs" in command


def test_sql_sees_a_row_for_each_path(full_ladder):
    columns = "path, total_bytes, ratio, own_share_realised, dequantisation_seconds, top1_agreement, reason"
    _, rows = run_query(tables_of([], ladders=[full_ladder]), f"SELECT {columns} FROM weight_paths")
    baseline, path = rows
    assert baseline == ("baseline", full_ladder.baseline.traffic.total_bytes, None, None, None, None, None)
    assert path[0] == "engine-int8<"
    assert path[2:] == (pytest.approx(2.0), None, pytest.approx(0.003), 0.5, None)


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ("own product: a x1, 196 projections", "own product: a x1, 196 projections"),
        (
            "own product: a x1, b x2, c x3, d x4, e x5, 196 projections",
            "own product: a x1, b x2, c x3, 2 more, 196 projections",
        ),
    ],
)
def test_of_many_kernels_the_first_are_named(kernels, said):
    assert weight_tables._few(kernels) == said
