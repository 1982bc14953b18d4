"""What the figures say, in sentences whose numbers come from the records."""

from collections.abc import Sequence

from memfloor.report.summary import CellSummary
from memfloor.report.tables import percent_interval, runtime_label
from memfloor.units import format_percent, format_seconds


def headline(summaries: Sequence[CellSummary]) -> str:
    """Return the summary sentence: the first cell's distance from its floor, and the range over all cells."""
    first = summaries[0]
    fraction = first.fractions["streamed"]
    floor_seconds = fraction.total_bytes / first.ceiling_bytes_per_second.value
    text = (
        f"On {first.device.name}, one {first.cell.spec.name} decode step at context "
        f"{first.cell.workload.context_len} with {runtime_label(first)} takes "
        f"{format_seconds(first.p50_seconds.value)}; its memory reads alone would take "
        f"{format_seconds(floor_seconds)} at the bandwidth measured beside it: "
        f"{percent_interval(fraction.ceiling)} of the floor is reached."
    )
    values = [summary.fractions["streamed"].ceiling.value for summary in summaries]
    if len(values) > 1:
        text += f" Over all {len(values)} cells: {format_percent(min(values))} to {format_percent(max(values))}."
    return text
