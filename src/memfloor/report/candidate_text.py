"""What would keep a period by records, as rows of a table and sentences."""

from collections.abc import Sequence

from memfloor.report.candidates import Candidate
from memfloor.report.deadlines import Asked
from memfloor.units import format_seconds

# Characters that all columns take, and what fits a narrow terminal, by place.
WIDE_TABLE, NARROW = 140, (0, 1, 5, 6, 8)
CANDIDATE_COLUMNS = ("device", "path", "source", "context", "prompt", "p50", "p99", "margin", "would keep it")


def candidate_row(item: Candidate, asked: Asked) -> list[str]:
    """Return the row of a candidate."""
    tail = item.tail_seconds
    least, most = ("≥ ", "≤ ") if item.prompt == "bound" else ("", "")
    return [
        item.device,
        item.path,
        _source(item),
        str(item.context_len),
        _prompt(item),
        least + format_seconds(item.p50_seconds),
        "-" if tail is None else least + format_seconds(tail),
        "-" if tail is None else f"{most}{1e3 * (asked.period_seconds - tail):+.3g} ms",
        _verdict_text(item, asked),
    ]


def candidate_lines(found: Sequence[Candidate], asked: Asked, models: Sequence[str]) -> list[str]:
    """Return what a table of candidates says, a sentence each.

    Args:
        found: The candidates.
        asked: The loop.
        models: All models on record.
    """
    period = format_seconds(asked.period_seconds)
    if not found:
        return [f"Nothing on record tells of {asked.spec.name} there, or of its like; on record are {_listed(models)}."]
    kept = [item for item in found if item.verdict(asked.period_seconds) == "yes"]
    lines = [
        f"{len(kept)} of {len(found)} would keep {period} at p99"
        + (f", the fastest of them {kept[0].path} on {kept[0].device}." if kept else ".")
    ]
    middling = [item for item in found if item.verdict(asked.period_seconds) == "at the median"]
    if middling:
        unknown = sum(item.tail_seconds is None for item in middling)
        lines.append(f"{len(middling)} more would at the median; {unknown} of them have too few values for a p99.")
    if any(item.origin == "steps" for item in found):
        lines.append(
            f"From steps: {asked.steps} times the median step, or the p99 of steps. What befalls fewer than one step "
            "in a hundred is not in it, nor what a loop adds, as beginning late: run the loop there to have both."
        )
    if any(item.origin == "predicted" for item in found):
        lines.append(
            "Predicted: from the same runtime's steps of other models; in place of the p99 stands the far end of its "
            "range on devices left out (memfloor predict)."
        )
    if any(item.prompt == "bound" for item in found):
        could = sum(item.verdict(asked.period_seconds) == "could" for item in found)
        lines.append(
            f"{could} more could keep it, and are not said to: their decode is on record or predicted, their prompt is "
            "not. In its place stands the least that it can take there, by its reads or its arithmetic at the "
            "datasheet's rates. Where a measured median is too long even so, the path cannot."
        )
    return lines


def _source(item: Candidate) -> str:
    unit = {"loop": "loop", "steps": "run", "predicted": ""}[item.origin]
    if not unit:
        return item.origin
    counted_in = f"{item.runs} {unit}{'s' if item.runs > 1 else ''}"
    return counted_in if item.origin == "loop" else f"steps of {counted_in}"


def _verdict_text(item: Candidate, asked: Asked) -> str:
    verdict = item.verdict(asked.period_seconds)
    if verdict == "could":
        return verdict
    if item.origin == "predicted":
        return f"predicted: {verdict}"
    return "cannot" if item.prompt == "bound" else verdict


def _prompt(item: Candidate) -> str:
    return (
        f"bound, {format_seconds(item.prompt_seconds)}"
        if item.prompt_seconds and item.prompt == "bound"
        else item.prompt
    )


def _listed(models: Sequence[str]) -> str:
    return ", ".join(sorted(set(models))) or "nothing"
