"""Which device, runtime and format on record would keep a period, or could.

From steps alone a cycle is expected to take as many times the median step, or the p99 of steps, as it has tokens. That
knows nothing of what is rarer than one step in a hundred. Loops that were run say it themselves. Where no prompt was
measured its floor stands in its place, which rules a path out and never in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median
from typing import Any, Literal

from memfloor.errors import UsageError
from memfloor.hardware import catalogue
from memfloor.record import Cell
from memfloor.report import prediction
from memfloor.report.control import LoopSummary
from memfloor.report.deadlines import Asked, cycle_floor
from memfloor.report.step_model import Observation
from memfloor.report.summary import CellSummary
from memfloor.report.tables import runtime_label
from memfloor.tails import quantile

TAIL = 0.99
Origin = Literal["loop", "steps", "predicted"]
# How the prompt's part of a cycle is known: a bound is the least that it can take, and no more is known.
PromptPart = Literal["measured", "bound", "left out"]
Verdict = Literal["yes", "at the median", "could", "no"]
ORDER: tuple[Verdict, ...] = ("yes", "at the median", "could", "no")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Hold what a device and a path would take for a cycle.

    Attributes:
        origin: A loop that was run, steps on record times the tokens, or predicted steps times the tokens.
        context_len: Of the record.
        runs: Processes behind it.
        p50_seconds: Of a cycle; at least that where the prompt is a bound.
        tail_seconds: Its p99, or of a prediction the far end of its range; None where the record has too few values.
        prompt: How the prompt's part of both is known.
        prompt_seconds: That part of the median cycle; None of a loop, which says the whole.
    """

    device: str
    path: str
    origin: Origin
    context_len: int
    runs: int
    p50_seconds: float
    tail_seconds: float | None
    prompt: PromptPart
    prompt_seconds: float | None = None

    def verdict(self, period_seconds: float) -> Verdict:
        """Return whether the period would be kept: by the tail, by the median alone, perhaps, or not."""
        if self.p50_seconds > period_seconds:
            return "no"
        if self.prompt == "bound":
            return "could"
        return "yes" if self.tail_seconds is not None and self.tail_seconds <= period_seconds else "at the median"

    def to_json(self, period_seconds: float) -> dict[str, Any]:
        """Return the candidate as plain data for `--json`."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "verdict": self.verdict(period_seconds),
            "is_lower_bound": self.prompt == "bound",
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
    # One that decoded alone says no more of a cycle with a prompt than its steps do.
    if not same or middle.value is None or (first.no_prefill is None) > asked.prefills:
        return None
    bound = None
    if asked.prefills and first.no_prefill is not None:
        bound = _least_prompt(asked, first.cell, summary.device, summary.ceiling_range[1])
    return Candidate(
        device=summary.device,
        path=runtime_label(first.cell),
        origin="loop",
        context_len=first.cell.workload.context_len,
        runs=len(summary.loops),
        p50_seconds=middle.value + (bound or 0.0),
        tail_seconds=None if tail.value is None else tail.value + (bound or 0.0),
        prompt="left out" if not asked.prefills else "measured" if bound is None else "bound",
        prompt_seconds=bound,
    )


def _of_steps(asked: Asked, loops: Sequence[LoopSummary], summaries: Sequence[CellSummary]) -> Iterator[Candidate]:
    best: dict[tuple[str, str], CellSummary] = {}
    for summary in sorted(filter(lambda item: _is_wanted(asked, item.cell), summaries), key=_nearness(asked)):
        best.setdefault((summary.device_name, runtime_label(summary.cell)), summary)
    for (device, path), summary in best.items():
        part: PromptPart = "measured" if asked.prefills else "left out"
        prompt = _prompt_seconds(asked, device, path, loops) if asked.prefills else (0.0, 0.0)
        if prompt is None:
            part, least = "bound", _least_prompt(asked, summary.cell, device, _bandwidth(summary))
            prompt = least, least
        before, before_tail = prompt
        tail = quantile([run.step_seconds for run in summary.runs], TAIL).value
        yield Candidate(
            device=device,
            path=path,
            origin="steps",
            context_len=summary.cell.workload.context_len,
            runs=len(summary.runs),
            p50_seconds=before + asked.steps * summary.p50_seconds.value,
            tail_seconds=None if tail is None else before_tail + asked.steps * tail,
            prompt=part,
            prompt_seconds=before if asked.prefills else None,
        )


def _least_prompt(asked: Asked, cell: Cell, device: str, bytes_per_second: float) -> float:
    """Return the least time of a prompt in a cell's formats: at the datasheet's rates, or a bandwidth."""
    known = catalogue().get(device)
    bandwidth = known.peak_bytes_per_second if known else bytes_per_second
    workload = cell.workload.model_copy(update={"context_len": asked.workload.context_len})
    same = replace(asked, workload=workload)
    return cycle_floor(same, device, bandwidth, known.bf16_flop_per_second if known else None).prompt_seconds


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
        by_device = {device: summary for (device, label), summary in seen.items() if label == path}
        wanted = [_place(asked, device, summary) for device, summary in by_device.items()]
        places = [place for place in wanted if place is not None]
        # Where too little was seen of a path to know how wrong a prediction is, there is none.
        if prediction.seen_enough(observed):
            yield from _expected(asked, by_device, prediction.predict_each(observed, places, path))


def _place(asked: Asked, device: str, summary: CellSummary) -> Observation | None:
    workload = summary.cell.workload.model_copy(update={"context_len": asked.workload.context_len})
    try:
        return prediction.point(asked.spec, workload, device, _bandwidth(summary))
    except UsageError:
        # The model has no such format or context.
        return None


def _bandwidth(summary: CellSummary) -> float:
    return summary.peak_bytes_per_second or summary.ceiling_bytes_per_second.value


def _expected(
    asked: Asked, by_device: Mapping[str, CellSummary], results: Sequence[prediction.Prediction]
) -> Iterator[Candidate]:
    for result in results:
        if result.seconds is None or result.range_seconds is None:
            continue
        summary = by_device[result.at.device]
        least = _least_prompt(asked, summary.cell, result.at.device, _bandwidth(summary)) if asked.prefills else 0.0
        yield Candidate(
            device=result.at.device,
            path=runtime_label(summary.cell),
            origin="predicted",
            context_len=asked.workload.context_len,
            runs=0,
            p50_seconds=least + asked.steps * result.seconds,
            tail_seconds=least + asked.steps * result.range_seconds[1],
            prompt="bound" if asked.prefills else "left out",
            prompt_seconds=least if asked.prefills else None,
        )
