"""What a row of a table says of a run, or of what there is in place of one: its figures without its steps."""

from dataclasses import dataclass
from typing import Any

from memfloor.record.run import Failure, Run, Skip


@dataclass(frozen=True, slots=True)
class Digest:
    """Hold the figures of a run, or why a failure or a skip has none.

    Attributes:
        cell: The cell as JSON, which thousands of runs share.
        fraction_of_ceiling: Share of the paired ceiling that steps of one byte reach; so many bytes reach as many times
            that share.
    """

    record_id: str
    session_id: str
    taken_at: str
    kind: str
    block: int
    cell: str
    device: str | None
    reason: str | None = None
    steps_per_call: int | None = None
    p50_seconds: float | None = None
    ceiling_bytes_per_second: float | None = None
    fraction_of_ceiling: float | None = None
    foreign_load: float | None = None
    git_commit: str | None = None


def digest_of(record: Run | Failure | Skip) -> Digest:
    """Return the digest of a run, failure or skip."""
    if isinstance(record, Run):
        return Digest(
            **_identity(record),
            device=record.environment.device.name,
            steps_per_call=record.steps_per_call,
            p50_seconds=record.p50_seconds,
            ceiling_bytes_per_second=record.ceiling_bytes_per_second,
            fraction_of_ceiling=record.fraction_of_ceiling(1),
            foreign_load=record.environment.foreign_load,
            git_commit=record.environment.git_commit,
        )
    device = record.device.name if record.device else None
    return Digest(**_identity(record), device=device, reason=record.lost_reason)


def _identity(record: Run | Failure | Skip) -> dict[str, Any]:
    named = {name: getattr(record, name) for name in ("record_id", "session_id", "taken_at", "kind", "block")}
    return named | {"cell": record.cell.model_dump_json()}
