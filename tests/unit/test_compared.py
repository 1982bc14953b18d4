import math
import uuid

import plotly.graph_objects as go
import pytest

from memfloor.record import ArmObservation, Comparison, Outputs, Protocol, StepTrace, Store, TracedKernel
from memfloor.report.afterwards import pair_afterwards
from memfloor.report.compared import compare
from memfloor.report.comparison_figures import COMPARISON_FIGURES, forest, small_sample_ratios
from memfloor.report.comparison_section import comparison_section
from memfloor.report.comparison_tables import comparison_lines, comparison_row
from memfloor.report.false_alarms import alarm_sentences, alarms_json, false_alarms
from memfloor.report.figures import figure_svg
from memfloor.report.forest import forest_chart
from memfloor.report.page import render

SESSION = "c" * 32
NULL = {"expect_null_below": 1.5}


def identity(session_id=SESSION):
    return {"record_id": uuid.uuid4().hex, "session_id": session_id, "taken_at": "2026-11-23T10:00:00+00:00"}


def comparison(cells, question="ab", **changes):
    fields = {"planned_runs": 2, "protocol": Protocol(parts=1), "seed": 0, "margin": 0.02, **changes}
    return Comparison(**identity(), question=question, baseline=cells[0], candidate=cells[1], **fields)


def kernel(seconds):
    times = (seconds, seconds)
    return TracedKernel(name="k", op="k", role="weights", start_seconds=(0.0, 0.0), seconds=times, launch_seconds=times)


def observation(cell, tokens=((1,), (2,)), seconds=0.001):
    return ArmObservation(
        **identity(),
        arm="baseline",
        cell=cell,
        seed=0,
        trace=StepTrace(
            tool="t",
            device="cuda",
            step_seconds=(seconds,) * 2,
            kernels=[kernel(seconds)],
            launches={},
            labelled="plan",
        ),
        outputs=Outputs(tokens=tokens),
    )


@pytest.fixture
def cells(make_cell):
    return make_cell(runtime="engine", options={"launch": "eager"}), make_cell(runtime="engine")


@pytest.fixture
def runs_of(make_run):
    """Return a function that makes the runs of both arms from their milliseconds by block."""

    def make(cells, baseline, candidate, session_id=SESSION):
        return [
            make_run(step_seconds=(1e-3 * milliseconds,) * 3, block=block, cell=cell).model_copy(
                update={"session_id": session_id}
            )
            for cell, arm in zip(cells, (baseline, candidate), strict=True)
            for block, milliseconds in arm.items()
        ]

    return make


@pytest.fixture
def compared(cells, runs_of):
    """Return a function that derives one comparison from times and observations."""

    def make(baseline, candidate, seen=(), change=lambda records: records, **said):
        records = change(runs_of(cells, baseline, candidate))
        return compare([comparison(cells, **said)], seen, records)[0]

    return make


def test_the_ratio_is_paired_by_block(compared):
    # 4/2 and 9/2: their geometric mean is 3. Block 5 has no partner.
    found = compared({0: 4, 1: 9, 5: 70}, {0: 2, 1: 2})
    assert found.ratio.value == pytest.approx(3.0)
    assert found.blocks == [0, 1]
    answer = found.to_json()
    assert (answer["blocks"], answer["planned_blocks"]) == (2, 2)
    assert answer["arms"] == {"baseline": "engine,launch=eager", "candidate": "engine"}


@pytest.mark.parametrize(
    ("candidate", "verdict", "null"),
    [
        ({0: 1, 1: 1}, "faster", "falsified"),
        ({0: 4, 1: 4}, "slower", "holds"),
        ({0: 2, 1: 2}, "equivalent", "holds"),
        ({0: 1, 1: 4}, "unclear", "undecided"),
        ({0: 1}, "unclear", "undecided"),
    ],
)
def test_verdict_and_null_come_from_the_interval(compared, candidate, verdict, null):
    found = compared({0: 2, 1: 2}, candidate, **NULL)
    assert (found.verdict, found.null) == (verdict, null)


@pytest.fixture
def on_two_states(cells, make_run):
    """Return a function that compares arms whose steps take work over the bandwidth that each block's run met."""

    def make(ours, theirs, work=(1.0, 1.0), **said):
        records = [
            make_run(step_seconds=(share / rate,) * 3, ceiling=1e9 * rate, block=block, cell=cell).model_copy(
                update={"session_id": SESSION}
            )
            for cell, rates, share in zip(cells, (ours, theirs), work, strict=True)
            for block, rate in enumerate(rates)
        ]
        return compare([comparison(cells, **said)], [], records)[0]

    return make


def test_a_verdict_that_bandwidth_made_is_withheld_and_its_null_undecided(on_two_states):
    # By time the baseline is 1.67 times as slow, for it alone met the slow state.
    found = on_two_states([30, 30, 30], [50, 50, 50], expect_null_below=1.5)
    assert (found.ratio.value, found.equal_bandwidth.ratio.value) == (pytest.approx(5 / 3), pytest.approx(1))
    assert found.verdict.startswith("unclear: bandwidth differed between the arms by up to 66.7 % in a block; at equal")
    assert found.verdict.endswith("1.000 [1.000, 1.000], equivalent")
    assert found.null == "undecided"
    answer = found.to_json()
    assert (answer["ratio_at_equal_bandwidth"], answer["bandwidth_apart"]) == pytest.approx((1, 5 / 3))
    assert any(line.startswith("at equal bandwidth, if both arms go by it: 1.000") for line in comparison_lines(found))


@pytest.mark.parametrize(
    ("ours", "theirs", "work", "verdict", "null"),
    [
        # Twice the work is slower in any state.
        ([30, 50], [50, 50], (4.0, 1.0), "unclear", "undecided"),
        ([30, 30], [50, 50], (2.0, 1.0), "faster", "falsified"),
        # Ceilings within a tenth count as equal, whatever they would make of the ratio.
        ([50, 50], [54, 54], (1.0, 1.0), "faster", "holds"),
    ],
)
def test_a_verdict_that_equal_bandwidth_confirms_is_given(on_two_states, ours, theirs, work, verdict, null):
    found = on_two_states(ours, theirs, work, expect_null_below=1.5)
    assert (found.verdict, found.null) == (verdict, null)


def test_a_refused_verdict_decides_no_null(compared, cells):
    seen = [observation(cells[0]), observation(cells[1], tokens=((1,), (7,)))]
    found = compared({0: 2, 1: 2}, {0: 2, 1: 2}, seen, **NULL)
    assert (found.refused, found.null) == (True, "undecided")


def test_an_arm_far_from_its_floor_raises_an_alarm(compared):
    # A step reads 273 kB, which take 0.273 ms.
    found = compared({0: 5, 1: 5}, {0: 0.5, 1: 0.5})
    (said,) = found.to_json()["alarms"]
    assert said.startswith("baseline: it is at 5.4 % of its floor: ")
    assert f"alarm, {said}" in comparison_lines(found)


def test_runs_of_another_session_and_another_cell_are_left_out(cells, runs_of, make_cell):
    records = [
        *runs_of(cells, {0: 2}, {0: 1}),
        *runs_of(cells, {0: 50}, {0: 1}, session_id="d" * 32),
        *runs_of((make_cell(2048), make_cell(4096)), {0: 50}, {0: 1}),
    ]
    (found,) = compare([comparison(cells)], [], records)
    assert found.ratio.value == pytest.approx(2.0)


@pytest.mark.parametrize(("blocks", "words"), [({}, "needs 15 GB"), ({7: 2}, "needs 15 GB")])
def test_without_a_shared_block_the_reason_stands_in_for_the_verdict(compared, cells, make_failure, blocks, words):
    def fail(records):
        return [*records, make_failure(cell=cells[1]).model_copy(update={"session_id": SESSION})]

    found = compared({0: 2}, blocks, change=fail, **NULL)
    assert found.ratio is None
    assert found.verdict.startswith(f"none: {words}")
    assert (found.isolation, found.null) == (None, "undecided")
    assert comparison_row(found)[3:7] == ["-", "-", "-", "0 of 2"]


def test_arms_that_ran_in_different_blocks_say_so(compared):
    assert compared({0: 2}, {1: 2}).verdict == "none: no block has a run of both arms"


def test_unequal_outputs_withhold_the_verdict_unless_they_may_differ(compared, cells):
    seen = [observation(cells[0]), observation(cells[1], tokens=((1,), (7,)))]
    times = {0: 2, 1: 2}, {0: 1, 1: 1}
    refused = compared(*times, seen)
    assert refused.verdict == "refused: outputs differ from step 2"
    assert refused.confounders == ("outputs: differ from step 2: tokens (2,) and (7,)",)
    assert refused.ratio.value == pytest.approx(2.0)
    assert compared(*times, seen, may_differ=("outputs",)).verdict == "faster"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"kernel": "6.2"}, "kernel", "kernel: 6.1 and 6.2"),
        ({"threads": 1}, "threads", "threads: 2 and 1"),
        ({"git_commit": "abc"}, "commit", "commit: None and abc"),
        ({"huge_pages": "always"}, "huge-pages", "huge-pages: madvise and always"),
        ({"packages": {"torch": "2.14.0", "triton": "3.6"}}, "packages", "packages: torch: 2.13.0 and 2.14.0"),
    ],
)
def test_environments_that_differ_withhold_the_verdict_unless_the_field_may(compared, changes, field, words):
    def move(records):
        last = records[-1]
        environment = last.environment.model_copy(update=changes)
        return [*records[:-1], last.model_copy(update={"environment": environment})]

    times = {0: 2, 1: 2}, {0: 1, 1: 1}
    refused = compared(*times, change=move)
    assert refused.verdict.startswith("refused: environments differ, ")
    assert words in refused.verdict
    assert compared(*times, change=move, may_differ=(field,)).verdict == "faster"


def test_traces_decide_the_isolation_and_a_missing_one_is_no_proof(compared, cells):
    times = {0: 2, 1: 2}, {0: 1, 1: 1}
    assert compared(*times, [observation(cells[0]), observation(cells[1])]).isolation == "isolated"
    slower = compared(*times, [observation(cells[0]), observation(cells[1], seconds=0.002)])
    assert slower.isolation == "confounded"
    assert any("time in kernels 2.000" in line for line in comparison_lines(slower))
    blind = observation(cells[1]).model_copy(update={"trace": None, "trace_problem": "no profiler"})
    found = compared(*times, [observation(cells[0]), blind])
    assert found.confounders == ("not known, for want of a trace of the candidate: no profiler",)


def test_outputs_that_should_have_been_compared_and_were_not_isolate_nothing(compared, cells):
    silent = observation(cells[1]).model_copy(update={"outputs": None, "outputs_problem": "it died"})
    found = compared({0: 2}, {0: 1}, [observation(cells[0]), silent])
    assert found.confounders == ("outputs: not compared: the candidate gave none, it died",)


def test_two_runtimes_are_confounded_by_construction(make_cell, runs_of):
    cells = make_cell(), make_cell(runtime="hf-compile")
    seen = [observation(cell) for cell in cells]
    (found,) = compare([comparison(cells)], seen, runs_of(cells, {0: 2}, {0: 1}))
    assert found.confounders == ("by construction: hf-eager and hf-compile run kernels of their own",)


def launched(records, *modes):
    """Say how the runs of the first cell and those of the others were launched."""
    first = records[0].cell.key
    return [
        run.model_copy(update={"path": run.path.model_copy(update={"facts": {"launch": modes[run.cell.key != first]}})})
        for run in records
    ]


def test_sessions_of_a_resumed_study_are_one_comparison_paired_within_each(cells, runs_of):
    # Block 1 of the first session lacks its candidate and must not meet that of the second session.
    first = launched(runs_of(cells, {0: 4, 1: 100}, {0: 2}), "eager", "graph")
    second = launched(runs_of(cells, {0: 9, 1: 9}, {0: 3, 1: 3}, session_id="d" * 32), "eager", "graph")
    elsewhere = [
        run.model_copy(
            update={"session_id": "e" * 32, "environment": run.environment.model_copy(update={"kernel": "6.2"})}
        )
        for run in launched(runs_of(cells, {0: 5}, {0: 1}), "eager", "graph")
    ]
    here, there = pair_afterwards([*first, *second, *elsewhere])
    assert here.ratio.value == pytest.approx((2 * 3 * 3) ** (1 / 3))
    assert (here.blocks, there.blocks) == ([0, 1, 2], [0])
    assert there.ratio.value == pytest.approx(5)


def test_launch_modes_of_one_session_are_paired_afterwards_and_labelled(cells, runs_of, make_cell):
    # The eager arm comes last, and is the baseline all the same.
    records = launched(runs_of(cells[::-1], {0: 1, 1: 1}, {0: 2, 1: 2}), "graph", "eager")
    elsewhere = launched(runs_of((cells[0], make_cell(2048)), {0: 1}, {0: 2}, session_id="d" * 32), "eager", "graph")
    (found,) = pair_afterwards([*records, *elsewhere])
    assert found.ratio.value == pytest.approx(2.0)
    assert found.baseline == cells[0]
    assert "paired afterwards, not registered" in comparison_lines(found)[0]


@pytest.fixture
def same_arms(make_cell, runs_of):
    """Return a function that makes an A/A comparison from the ratios of its blocks."""

    def make(ratios):
        cells = make_cell(arm="baseline"), make_cell(arm="candidate")
        times = dict(enumerate(ratios)), dict.fromkeys(range(len(ratios)), 1.0)
        return compare([comparison(cells, question="aa")], [], runs_of(cells, *times))[0]

    return make


def test_false_alarms_are_counted_over_every_sample_of_blocks(same_arms):
    # Of the four samples of three blocks one holds 1.1 three times: without spread, and so faster.
    (found,) = false_alarms(same_arms([1.1, 1.1, 1.1, 0.9]))
    assert (found.blocks, found.samples, found.exhaustive, found.share) == (3, 4, True, 0.25)
    # Logarithms .0953, .0953, -.1054: mean .0284, and half of Student's interval is 4.303 * .1159 / sqrt(3).
    assert math.log(1 + found.resolvable_margin) == pytest.approx(0.0284 + 4.303 * 0.1159 / math.sqrt(3), abs=1e-3)


def test_equal_arms_raise_no_alarm_and_fewer_blocks_than_a_sample_say_nothing(same_arms):
    found = same_arms([1.001, 0.999] * 3)
    assert [(item.blocks, item.share) for item in false_alarms(found)] == [(3, 0.0), (5, 0.0)]
    assert any("of all 6 samples of 5 blocks" in line for line in alarm_sentences(found))
    assert alarms_json(found)["resolvable_margin"] < 0.02
    assert false_alarms(same_arms([1.0, 1.0])) == []


def test_what_bandwidth_alone_made_is_no_false_alarm(on_two_states):
    assert [item.share for item in false_alarms(on_two_states([30, 30, 30], [50, 50, 50]))] == [0.0]


def test_small_samples_are_drawn_from_more_blocks_than_they_hold(compared):
    times = dict.fromkeys(range(5), 2.0)
    assert len(small_sample_ratios(compared(times, dict.fromkeys(range(5), 1.0)))) == 10
    assert small_sample_ratios(compared({0: 2, 1: 2, 2: 2}, {0: 1, 1: 1, 2: 1})) == []


def test_figures_and_section_show_every_comparison_and_the_published_points(compared, same_arms):
    shown = [
        compared({0: 4, 1: 5, 2: 4, 3: 6}, {0: 2, 1: 2, 2: 2, 3: 2}, **NULL),
        same_arms([1.0, 1.1]),
        compared({0: 2}, {}),
    ]
    svg = figure_svg(COMPARISON_FIGURES["5"](shown))
    assert "H100, one CUDA Graph over eager (published)" in svg
    assert figure_svg(forest(shown)) == figure_svg(forest(shown))
    assert "samples of 3 say something else than" in figure_svg(COMPARISON_FIGURES["6"](shown))
    page = comparison_section(shown)
    assert "expected below 1.5: falsified" in page or "expected below 1.5: undecided" in page
    assert "none: no block has a run of both arms" in page
    assert comparison_section([]) == ""


def test_the_forest_chart_tells_all_of_a_comparison_and_plotly_takes_it(compared, same_arms):
    chart = forest_chart([compared({0: 4, 1: 5}, {0: 2, 1: 2}, **NULL), compared({0: 2}, {}), same_arms([1.0, 1.0])])
    *margins, ratios = chart.traces
    assert len(margins) == len(ratios["x"]) == 2
    assert ratios["x"] == pytest.approx([5**0.5, 1])
    assert ratios["marker"]["color"] == ["#8A8F98", "#0072B2"]
    for words in ("tiny engine over engine,launch=eager", "context 512, Some CPU", "2.236 [", "2 blocks", "unclear"):
        assert words in ratios["hovertext"][0]
    assert [shape["x0"] for shape in chart.layout["shapes"]] == [1.0, 1.5]
    assert len(go.Figure(data=chart.traces, layout=chart.layout).data) == 3


def test_a_page_of_comparisons_without_runs_says_so(compared, tmp_path):
    page = render([], [], tmp_path, compared=[compared({}, {})])
    assert "Comparisons, and no plain runs." in page
    assert "memfloor ab /models/tiny/config.json --baseline engine,launch=eager --candidate engine" in page


def test_comparisons_and_what_was_seen_come_back_from_the_store(tmp_path, cells, make_run):
    store = Store(tmp_path)
    written = [comparison(cells), observation(cells[0]), make_run()]
    for record in written:
        store.add(record)
    assert store.comparisons() == ([written[0]], [written[1]])
    assert store.read() == ([written[2]], [])


@pytest.mark.parametrize(
    "changes",
    [{"margin": 0.0}, {"margin": 1.0}, {"expect_null_below": 1.0}, {"planned_runs": 0}, {"may_differ": ("x",)}],
)
def test_a_comparison_refuses_what_cannot_be_decided(cells, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        comparison(cells, **changes)
