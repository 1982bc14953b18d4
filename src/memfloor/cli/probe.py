"""`memfloor probe`: what this device's memory delivers, as decode sees it."""

from typing import Annotated

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_table, print_text
from memfloor.units import format_bandwidth, format_bytes


def probe(
    *,
    device: str | None = None,
    threads: int | None = None,
    repeats: int = 5,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure this device's read-only bandwidth, with copy and triad beside it.

    Args:
        device: cpu or cuda; the GPU if there is one.
        threads: CPU threads; all allowed cores unless given.
        repeats: Readings of each kind.
        json: Print one JSON object instead.
    """
    from memfloor.experiments.probe import take_probe

    result = take_probe(device, threads, repeats)
    if json:
        print_json(result.model_dump())
        return
    rows = [
        [
            f"{item.kind} {format_bytes(item.buffer_bytes)}",
            format_bandwidth(item.median_bytes_per_second),
            format_bandwidth(item.lowest_bytes_per_second),
            format_bandwidth(item.highest_bytes_per_second),
        ]
        for item in result.bandwidths
    ]
    print_table(f"{result.device.name}: {result.method}", ["pass over", "median", "lowest", "highest"], rows)
    print_text("\n".join(f"{name}: {value}" for name, value in result.facts.items()))
