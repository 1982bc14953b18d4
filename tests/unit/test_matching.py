import uuid

import pytest

from memfloor.record import Anatomy, CeilingReading, Step, StepTrace, TracedKernel
from memfloor.report.anatomy_figures import step_anatomy
from memfloor.report.anatomy_section import ledger_sections
from memfloor.report.figures import figure_svg
from memfloor.report.ledger import ledger_checks, make_ledger
from memfloor.report.matching import match_steps
from memfloor.report.waterfall import waterfall

FAST, SLOW = 50.0, 30.0


def reading(rate, after_steps=0):
    return CeilingReading(after_steps=after_steps, pass_bytes=100, pass_seconds=(100 / rate,) * 2, method="test")


@pytest.fixture
def anatomy_at(make_run):
    """Return a function that makes an anatomy whose steps take 300 over the bandwidth that each met, in seconds."""

    def make(timed, traced, steady=True):
        steps, ceilings = [Step(phase="warmup", host_seconds=99.0)], []
        for rate in timed:
            # Two readings between any two steps, each of the bandwidth of its step.
            ceilings.append(reading(rate, len(steps)))
            steps.append(Step(phase="timed", host_seconds=300 / rate))
            ceilings.append(reading(rate if steady else 2 * rate, len(steps)))
        kernel = TracedKernel(
            name="k",
            op="k",
            role="weights",
            start_seconds=(0.0,) * len(traced),
            seconds=tuple(300 / rate for rate in traced),
        )
        trace = StepTrace(
            tool="t",
            device="cpu",
            step_seconds=kernel.seconds,
            kernels=[kernel],
            launches={},
            ceilings=[(reading(rate), reading(rate)) for rate in traced],
            labelled="plan",
        )
        fields = make_run().model_dump(exclude={"kind", "steps", "ceilings", "record_id"})
        return Anatomy(**fields, record_id=uuid.uuid4().hex, steps=steps, ceilings=ceilings, trace=trace)

    return make


def test_steps_of_the_state_that_most_timed_steps_met_are_set_against_each_other(anatomy_at):
    # By median the timed step is a fast one and the traced step a slow one: four seconds unexplained.
    anatomy = anatomy_at(timed=[FAST] * 5 + [SLOW] * 4, traced=[SLOW] * 6 + [FAST] * 3)
    match = match_steps(anatomy)
    assert (match.timed_steps, match.traced_steps, match.refusal) == ((5, 9), (3, 9), None)
    assert set(match.anatomy.step_seconds) == set(match.anatomy.trace.step_seconds) == {300 / FAST}
    ledger = make_ledger([anatomy])
    assert ledger.unexplained_seconds.value == pytest.approx(0)
    assert (ledger.verdict, ledger.step_seconds.value) == ("explained", 300 / FAST)
    assert ledger_checks(ledger)[-1].startswith("5 of 9 timed and 3 of 9 traced steps are in it")
    assert ledger.to_json()["traced_steps"] == (3, 9)


def test_charts_and_point_values_are_of_matched_steps_in_the_middle_and_add_up(anatomy_at, tmp_path):
    # Medians over all steps would call the second anatomy the typical one, and show its slow steps.
    anatomies = [
        anatomy_at([SLOW] * 5 + [FAST] * 4, [SLOW] * 2 + [FAST] * 3),
        anatomy_at([SLOW] * 9, [FAST] * 9),
        anatomy_at([1.04 * FAST] * 9, [FAST] * 9),
    ]
    ledger = make_ledger(anatomies)
    assert (len(ledger.matched), ledger.typical.p50_seconds) == (2, 300 / (1.04 * FAST))
    step_seconds = (300 / FAST + 300 / (1.04 * FAST)) / 2
    lines = [ledger.floor_seconds, ledger.unexplained_seconds, *(term.seconds for term in ledger.terms)]
    assert sum(line.value for line in lines) == pytest.approx(ledger.step_seconds.value)
    assert sum(term.share_of_gap for term in ledger.terms) == pytest.approx(
        1 - ledger.unexplained_seconds.value / (ledger.step_seconds.value - ledger.floor_seconds.value)
    )
    chart = waterfall(ledger)
    assert chart.traces[0]["x"][-1] == pytest.approx(1e3 * step_seconds)
    assert "of 2 anatomies the mean of the two in the middle" in chart.caption
    (section,) = ledger_sections(anatomies[:1], tmp_path)
    assert section.waterfall.traces[0]["x"][-1] == pytest.approx(6000)
    # A traced step of the slow state is not drawn.
    assert max(bar for trace in section.gantt.traces for bar in trace["x"]) == pytest.approx(6e6)
    assert ">6000<" in figure_svg(step_anatomy(anatomies[:1]))


def test_without_ceilings_beside_the_trace_all_steps_are_kept(anatomy_at):
    anatomy = anatomy_at(timed=[FAST] * 5 + [SLOW] * 4, traced=[SLOW] * 9)
    old = anatomy.model_copy(update={"trace": anatomy.trace.model_copy(update={"ceilings": ()})})
    assert match_steps(old).anatomy is old
    assert make_ledger([old]).verdict.startswith("refused: kernels and predicted idle time differ")


@pytest.mark.parametrize(
    ("timed", "traced"),
    [([FAST] * 9, [SLOW] * 9), ([FAST] * 9, [SLOW] * 7 + [FAST] * 2), ([FAST] * 3 + [SLOW] * 10, [FAST] * 9)],
)
def test_states_that_too_few_of_both_met_are_refused(anatomy_at, timed, traced):
    ledger = make_ledger([anatomy_at(timed, traced)])
    assert ledger.verdict.startswith("refused: enough timed and traced steps met no bandwidth in common: ")
    assert ledger.verdict.endswith("take more with --timed-steps, and --traced-steps of memfloor anatomy")


def test_an_anatomy_without_steps_to_compare_is_left_out_of_a_ledger_and_said(anatomy_at):
    good, bad = anatomy_at([FAST] * 4, [FAST] * 4), anatomy_at([FAST] * 4, [SLOW] * 4)
    ledger = make_ledger([bad, good])
    assert (ledger.verdict, ledger.step_seconds.runs, ledger.steps_kept("timed_steps")) == ("explained", 1, (4, 8))
    assert any(said.startswith("1 of 2 anatomies have no steps to compare: 4 timed") for said in ledger_checks(ledger))
    assert ledger.anatomies == (bad, good)


def test_one_step_of_each_is_enough_where_no_more_were_taken(anatomy_at):
    assert match_steps(anatomy_at([FAST] * 2, [1.05 * FAST])).refusal is None
    assert match_steps(anatomy_at([FAST] * 2, [1.2 * FAST])).refusal is not None


def test_a_drift_within_a_tenth_is_one_state(anatomy_at):
    match = match_steps(anatomy_at([50.0, 52.0, 54.9], [50.0, 53.0, 54.9, 56.0]))
    assert (match.timed_steps, match.traced_steps) == ((3, 3), (3, 4))


def test_steps_while_bandwidth_changed_match_nothing(anatomy_at):
    match = match_steps(anatomy_at([FAST] * 9, [FAST] * 9, steady=False))
    assert "0 timed steps met a steady one, 9 traced steps met a steady one, 50 B/s to 50 B/s" in match.refusal


def test_ceilings_that_are_not_one_pair_a_step_are_refused(anatomy_at):
    fields = anatomy_at([FAST], [FAST] * 3).trace.model_dump()
    with pytest.raises(ValueError, match="2 pairs of ceilings stand beside 3 traced steps"):
        StepTrace.model_validate({**fields, "ceilings": fields["ceilings"][:2]})
