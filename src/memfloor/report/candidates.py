"""Which device, runtime and format on record would keep a period.

From steps alone a cycle is expected to take as many times the median step, or the p99 of steps, as it has tokens. That
knows nothing of what is rarer than one step in a hundred. Loops that were run say it themselves.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Any, Literal

from memfloor.errors import UsageError
from memfloor.record import Cell
from memfloor.report import prediction
from memfloor.report.control import LoopSummary
from memfloor.report.deadlines import Asked
from memfloor.report.summary import CellSummary
from memfloor.report.tables import runtime_label
from memfloor.tails import quantile

TAIL = 0.99
Origin = Literal["loop", "steps", "predicted"]
Verdict = Literal["yes", "at the median", "no"]
ORDER: tuple[Verdict, ...] = ("yes", "at the median", "no")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Hold what a device and a path would take for a cycle.

    Attributes:
        origin: A loop that was run, steps on record times the tokens, or predicted steps times the tokens.
        context_len: Of the record.
        runs: Processes behind it.
        p50_seconds: Of a cycle.
        tail_seconds: Its p99, or of a prediction the far end of its range; None where the record has too few values.
        takes_prompt: Whether that holds the prompt.
    """

    device: str
    path: str
    origin: Origin
    context_len: int
    runs: int
    p50_seconds: float
    tail_seconds: float | None
    takes_prompt: bool

    def verdict(self, period_seconds: float) -> Verdict:
        """Return whether the period would be kept: by the tail, by the median alone, or not."""
        if self.p50_seconds > period_seconds:
            return "no"
        return "yes" if self.tail_seconds is not None and self.tail_seconds <= period_seconds else "at the median"

    def to_json(self, period_seconds: float) -> dict[str, Any]:
        """Return the candidate as plain data for `--json`."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "verdict": self.verdict(period_seconds),
            "margin_seconds": None if self.tail_seconds is None else period_seconds - self.tail_seconds,
        }


def candidates(asked: Asked, loops: Sequence[LoopSummary], summaries: Sequence[CellSummary]) -> list[Candidate]:
    """Return what loops and steps on record, and steps predicted from those of other models, would take.

    Those that would keep the period come first, and of them the fastest. A path that was run as a loop is not listed by
    its steps, and one whose steps are on record is not predicted.

    Args:
        asked: The loop.
        loops: On record, of any model.
        summaries: Whole steps on record, of any model.
    """
    ours = [item for item in loops if _is_wanted(asked, item.first.cell)]
    found = [item for item in (_of_loop(asked, summary) for summary in ours) if item]
    known = {(item.device, item.path) for item in found}
    found += [item for item in _of_steps(asked, ours, summaries) if (item.device, item.path) not in known]
    known = {(item.device, item.path) for item in found}
    found += [item for item in _predicted(asked, summaries) if (item.device, item.path) not in known]
    period = asked.period_seconds
    return sorted(found, key=lambda item: (ORDER.index(item.verdict(period)), item.tail_seconds or item.p50_seconds))


def _is_wanted(asked: Asked, cell: Cell) -> bool:
    return cell.spec.fingerprint == asked.spec.fingerprint and cell.workload.batch == 1


def _of_loop(asked: Asked, summary: LoopSummary) -> Candidate | None:
    first, (middle, tail, _) = summary.first, summary.quantiles
    same = first.steps == asked.steps and first.cell.workload.context_len == asked.workload.context_len
    takes_prompt = first.no_prefill is None
    if not same or middle.value is None or takes_prompt > asked.prefills:
        return None
    return Candidate(
        device=summary.device,
        path=runtime_label(first.cell),
        origin="loop",
        context_len=first.cell.workload.context_len,
        runs=len(summary.loops),
        p50_seconds=middle.value,
        tail_seconds=tail.value,
        takes_prompt=takes_prompt,
    )


def _of_steps(asked: Asked, loops: Sequence[LoopSummary], summaries: Sequence[CellSummary]) -> Iterator[Candidate]:
    best: dict[tuple[str, str], CellSummary] = {}
    for summary in sorted(filter(lambda item: _is_wanted(asked, item.cell), summaries), key=_nearness(asked)):
        best.setdefault((summary.device_name, runtime_label(summary.cell)), summary)
    for (device, path), summary in best.items():
        prompt = _prompt_seconds(asked, device, path, loops) if asked.prefills else None
        before, before_tail = prompt or (0.0, 0.0)
        tail = quantile([run.step_seconds for run in summary.runs], TAIL).value
        yield Candidate(
            device=device,
            path=path,
            origin="steps",
            context_len=summary.cell.workload.context_len,
            runs=len(summary.runs),
            p50_seconds=before + asked.steps * summary.p50_seconds.value,
            tail_seconds=None if tail is None else before_tail + asked.steps * tail,
            takes_prompt=prompt is not None,
        )


def _nearness(asked: Asked) -> Callable[[CellSummary], tuple[bool, int, int]]:
    """Return what sorts the nearest context first that is no shorter than the prompt, and then those that are."""

    def key(summary: CellSummary) -> tuple[bool, int, int]:
        beyond = summary.cell.workload.context_len - asked.workload.context_len
        return beyond < 0, abs(beyond), -len(summary.runs)

    return key


def _prompt_seconds(asked: Asked, device: str, path: str, loops: Sequence[LoopSummary]) -> tuple[float, float] | None:
    """Return median and p99 of the prompt on a device and path; None where no loop took as long a one."""
    taken = [
        loop.counted(loop.cycles.prefill_seconds)
        for summary in loops
        if (summary.device, runtime_label(summary.first.cell)) == (device, path)
        and summary.first.cell.workload.context_len == asked.workload.context_len
        for loop in summary.loops
        if loop.cycles.prefill_seconds
    ]
    values = list(chain.from_iterable(taken))
    tail = quantile(taken, TAIL).value if values else None
    return (median(values), tail if tail is not None else max(values)) if values else None


def _predicted(asked: Asked, summaries: Sequence[CellSummary]) -> Iterator[Candidate]:
    seen: dict[tuple[str, str], CellSummary] = {}
    for summary in summaries:
        if summary.cell.workload.batch == 1:
            seen.setdefault((summary.device_name, runtime_label(summary.cell)), summary)
    for path in dict.fromkeys(path for _, path in seen):
        observed = prediction.observations(path, summaries)
        wanted = [_place(asked, device, summary) for (device, label), summary in seen.items() if label == path]
        places = [place for place in wanted if place is not None]
        # Where too little was seen of a path to know how wrong a prediction is, there is none.
        if prediction.seen_enough(observed):
            yield from _expected(asked, path, prediction.predict_each(observed, places, path))


def _place(asked: Asked, device: str, summary: CellSummary) -> prediction.Observation | None:
    workload = summary.cell.workload.model_copy(update={"context_len": asked.workload.context_len})
    bandwidth = summary.peak_bytes_per_second or summary.ceiling_bytes_per_second.value
    try:
        return prediction.point(asked.spec, workload, device, bandwidth)
    except UsageError:
        # The model has no such format or context.
        return None


def _expected(asked: Asked, path: str, results: Sequence[prediction.Prediction]) -> Iterator[Candidate]:
    for result in results:
        if result.seconds is None or result.range_seconds is None:
            continue
        yield Candidate(
            device=result.at.device,
            path=path,
            origin="predicted",
            context_len=asked.workload.context_len,
            runs=0,
            p50_seconds=asked.steps * result.seconds,
            tail_seconds=asked.steps * result.range_seconds[1],
            takes_prompt=False,
        )
