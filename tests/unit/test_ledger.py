from pathlib import Path

import numpy as np
import pytest

from memfloor.record import StepTrace, Store, TracedKernel
from memfloor.report.anatomy_figures import ANATOMY_FIGURES
from memfloor.report.anatomy_section import ledger_sections
from memfloor.report.breakdown import entries_of
from memfloor.report.figures import figure_svg
from memfloor.report.kernel_times import exclusive_seconds, gap_seconds, queued_seconds
from memfloor.report.ledger import ledger_checks, make_ledger
from memfloor.report.page import render

MICROSECOND = 1e-6
ROLES = ("weights", "attention", "cache", "elementwise", "elementwise")


def queue(durations, launches):
    """Return the start of each kernel when a stream runs them in order: the truth of the synthetic runtime."""
    starts, end = [], 0.0
    for duration, launch in zip(durations, launches, strict=True):
        starts.append(max(end, launch))
        end = starts[-1] + duration
    return starts, end


class SyntheticRuntime:
    """Launch kernels of known time at a known cost each; a profiler makes each launch dearer, and no kernel."""

    def __init__(self, durations, launch_seconds, profiler_factor=2.3, host_before=5e-6):
        self.durations, self.launch_seconds = list(durations), launch_seconds
        self.profiler_factor, self.host_before = profiler_factor, host_before

    def launches(self, factor=1.0):
        return [factor * (self.host_before + n * self.launch_seconds) for n in range(len(self.durations))]

    def timed(self):
        """Return the true step, its time of issue, and the time in which a kernel runs."""
        launches = self.launches()
        return queue(self.durations, launches)[1], launches[-1], sum(self.durations)

    def trace(self):
        launches = self.launches(self.profiler_factor)
        starts, end = queue(self.durations, launches)
        first = starts[0]
        kernels = [
            TracedKernel(
                name=f"k{n}",
                op="aten::op",
                role=ROLES[n % len(ROLES)],
                start_seconds=(start - first,),
                seconds=(duration,),
                launch_seconds=(launch - first,),
            )
            for n, (start, duration, launch) in enumerate(zip(starts, self.durations, launches, strict=True))
        ]
        return StepTrace(
            tool="synthetic",
            device="cuda",
            step_seconds=(end - first,),
            lead_seconds=(first,),
            kernels=kernels,
            launches={},
            labelled="modules",
        )


def cpu_trace(seconds, step_seconds, labelled="modules"):
    kernels = [
        TracedKernel(name="k", op="k", role=role, start_seconds=(0.0,), seconds=(time,))
        for role, time in seconds.items()
    ]
    return StepTrace(
        tool="t", device="cpu", step_seconds=(step_seconds,), kernels=kernels, launches={}, labelled=labelled
    )


@pytest.mark.parametrize("launch_us", [1, 5, 12, 40])
def test_a_known_launch_cost_is_recovered_from_a_profiled_trace(anatomy_of, launch_us):
    durations = np.tile([30, 2, 2, 58, 1], 60) * MICROSECOND
    runtime = SyntheticRuntime(durations, launch_us * MICROSECOND)
    step, issued, busy = runtime.timed()
    entries = entries_of(anatomy_of(step, runtime.trace(), issued, twin_seconds=(issued,)))
    assert entries["host and launch"] == pytest.approx(step - busy, abs=1e-9)
    assert entries["unexplained"] == pytest.approx(0, abs=1e-9)
    # The trace's own gaps would be far off wherever the host is the slower one.
    if launch_us >= 40:
        assert gap_seconds(runtime.trace()) > 2 * (step - busy)


def test_floor_terms_and_unexplained_add_up_to_the_timed_step(anatomy_of):
    runtime = SyntheticRuntime(np.tile([30, 2, 2, 58, 1], 9) * MICROSECOND, 7 * MICROSECOND)
    anatomy = anatomy_of(0.004, runtime.trace(), 0.003, twin_seconds=(0.003,))
    assert sum(entries_of(anatomy).values()) == pytest.approx(0.004)


def test_kernels_that_overlap_are_counted_once(anatomy_of):
    times = {"a": (0.0, 5.0), "inside": (1.0, 2.0), "over the end": (4.0, 3.0), "later": (8.0, 1.0)}
    kernels = [
        TracedKernel(name=name, op=name, role="weights", start_seconds=(start,), seconds=(long,), launch_seconds=(0.0,))
        for name, (start, long) in times.items()
    ]
    trace = StepTrace(
        tool="t",
        device="cuda",
        step_seconds=(9.0,),
        lead_seconds=(0.5,),
        kernels=kernels,
        launches={},
        labelled="names",
    )
    assert exclusive_seconds(trace) == [5.0, 0.0, 2.0, 1.0]
    assert gap_seconds(trace) == 1.0
    # A graph: the host issues for 0.25 s, then kernels and gaps as traced.
    assert entries_of(anatomy_of(9.5, trace, 0.25))["host and launch"] == 1.25


def test_the_host_is_scaled_by_the_whole_time_of_issue_where_the_trace_has_it():
    # The last launch begins at 20 and the traced step's call returns at 24, which is twice the timed 12.
    trace = SyntheticRuntime([10, 1, 1], 4, profiler_factor=2, host_before=2).trace()
    whole = trace.model_copy(update={"issue_seconds": (24.0,)})
    assert queued_seconds(whole, 12) == queued_seconds(trace, 10)


def test_a_queue_waits_for_the_launch_and_for_the_kernel_before():
    trace = SyntheticRuntime([10, 1, 1], 4, profiler_factor=2, host_before=2).trace()
    # Launched at 2, 6 and 10: the second and third wait for the first, which ends at 12.
    assert queued_seconds(trace, 10) == pytest.approx(14)
    # Three times as slow a host: 6, 18, 30.
    assert queued_seconds(trace, 30) == pytest.approx(31)


def test_on_a_cpu_the_twin_takes_the_profilers_share_out_of_every_operator(anatomy_of):
    # Each operator is 2 ms too long under the profiler; the twin's operators are nothing else.
    real = cpu_trace({"weights": 0.052, "attention": 0.012, "elementwise": 0.003}, 0.090)
    twin = cpu_trace({"weights": 0.002, "attention": 0.002, "elementwise": 0.002}, 0.030)
    entries = entries_of(anatomy_of(0.080, real, twin_seconds=(0.019,), twin_trace=twin))
    assert entries["host and launch"] == 0.019
    excess = sum(entries[name] for name in ("weight products", "attention", "norms and elementwise"))
    assert excess + entries["floor"] == pytest.approx(0.050 + 0.010 + 0.001)
    assert entries["unexplained"] == pytest.approx(0.0)


def test_a_ledger_that_does_not_add_up_is_refused(anatomy_of):
    good = anatomy_of(0.0104, cpu_trace({"weights": 0.01}, 0.01, "plan"))
    bad = anatomy_of(0.0106, cpu_trace({"weights": 0.01}, 0.01, "plan"))
    assert make_ledger([good]).verdict == "explained"
    assert make_ledger([bad]).verdict.startswith("refused: kernels and predicted idle time differ from the timed step")


def test_a_step_far_from_its_floor_raises_an_alarm(anatomy_of):
    ledger = make_ledger([anatomy_of(0.01, cpu_trace({"weights": 0.01}, 0.01, "plan"))])
    (said,) = ledger.to_json()["alarms"]
    assert said.startswith("it is at 2.7 % of its floor: ")
    assert f"Alarm: {said}." in ledger_checks(ledger)
    near = anatomy_of(0.0004, cpu_trace({"weights": 0.0004}, 0.0004, "plan"))
    assert make_ledger([near]).alarms == []


@pytest.mark.parametrize(("runs", "share"), [(2, "50.0 %"), (3, "75.0 %"), (5, "93.8 %")])
def test_what_an_interval_over_few_anatomies_is_worth_is_said(anatomy_of, runs, share):
    taken = [anatomy_of(0.01 + 0.001 * n, cpu_trace({"weights": 0.01}, 0.01, "plan")) for n in range(runs)]
    ledger = make_ledger(taken)
    assert ledger.step_seconds.ci95 == (taken[0].p50_seconds, taken[-1].p50_seconds)
    words = f"An interval over {runs} anatomies is their range: it holds the true median {share} of the time."
    assert words in ledger_checks(ledger)


def test_an_anatomy_is_kept_beside_runs_and_counts_as_none(anatomy_of, make_run, tmp_path):
    store = Store(tmp_path)
    store.add(make_run())
    anatomy = anatomy_of(0.01, cpu_trace({"weights": 0.01}, 0.01))
    store.add(anatomy)
    records, unreadable = store.read()
    assert (len(records), unreadable) == (1, [])
    assert store.anatomies() == [anatomy]


def test_a_kernel_without_a_time_for_every_step_is_refused():
    kernel = TracedKernel(name="k", op="k", role="weights", start_seconds=(0.0,), seconds=(1.0,))
    with pytest.raises(ValueError, match="one time for each of 2"):
        StepTrace(tool="t", device="cpu", step_seconds=(1.0, 1.0), kernels=[kernel], launches={}, labelled="plan")


@pytest.fixture
def two_anatomies(anatomy_of):
    runtime = SyntheticRuntime(np.tile([30, 2, 2, 58, 1], 9) * MICROSECOND, 7 * MICROSECOND)
    step, issued, _ = runtime.timed()
    return [anatomy_of(step, runtime.trace(), issued, (issued,)), anatomy_of(0.01, cpu_trace({"weights": 0.01}, 0.01))]


def test_each_figure_of_anatomies_is_drawn_and_names_the_cell(two_anatomies):
    for name, draw in ANATOMY_FIGURES.items():
        svg = figure_svg(draw(two_anatomies))
        assert svg.startswith("<svg"), name
        assert "tiny hf-eager 512" in svg
        assert figure_svg(draw(two_anatomies)) == svg


def test_titles_name_a_batch_and_where_there_are_several_their_device(two_anatomies, tmp_path):
    first, second = two_anatomies
    workload = first.cell.workload.model_copy(update={"batch": 4})
    device = first.environment.device.model_copy(update={"name": "Other"})
    moved = first.model_copy(
        update={
            "cell": first.cell.model_copy(update={"workload": workload}),
            "environment": first.environment.model_copy(update={"device": device}),
        }
    )
    (section,) = ledger_sections([moved], tmp_path)
    assert section.title == "tiny hf-eager, context 512 x4, Other"
    svg = figure_svg(ANATOMY_FIGURES["4"]([moved, second]))
    assert "tiny hf-eager 512 x4, Other" in svg
    assert "tiny hf-eager 512, Some CPU" in svg


def test_the_page_shows_each_ledger_with_or_without_plain_runs(two_anatomies, make_run):
    alone = render([], [], Path("somewhere"), two_anatomies)
    assert alone.count("unexplained</td>") == 2
    assert "Anatomies, and no plain runs." in alone
    assert "All cells" not in alone
    both = render([make_run()], [], Path("somewhere"), two_anatomies)
    assert both.count("<svg") == alone.count("<svg") + 2
    assert "Who owns each missing millisecond" not in render([make_run()], [], Path("somewhere"))
