"""The session of a control loop: a new one, or the last that asked for the same and was interrupted."""

import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import sha256

from memfloor.experiments.session import IDENTITY
from memfloor.experiments.study import stack
from memfloor.measure.environment import device_name, package_versions
from memfloor.record import ControlLoop, LoopAsked, Store


@dataclass(frozen=True, slots=True)
class LoopSession:
    """Hold the loops of one session, whose blocks may each take several processes.

    Attributes:
        session_id: What its records carry.
        loops: Those on record; none of a new session.
    """

    session_id: str
    loops: list[ControlLoop] = field(default_factory=list)

    def missing(self, runs: int, seconds: float) -> list[tuple[int, float]]:
        """Return the blocks that are not over, with the time that each lacks.

        Args:
            runs: Blocks in all.
            seconds: Of each.
        """
        over = {loop.block for loop in self.loops if loop.interrupted is None}
        watched: dict[int, float] = defaultdict(float)
        for loop in self.loops:
            watched[loop.block] += loop.watched_seconds
        lacking = ((block, seconds - watched[block]) for block in range(runs) if block not in over)
        return [(block, left) for block, left in lacking if left > 0]


def loop_session(wanted: LoopAsked, store: Store) -> LoopSession:
    """Return the last session in a store that asked for the same in this place if it is not over, or a new one.

    Args:
        wanted: Any block of it, whatever its identity; with planned runs and seconds.
        store: Where records lie; its folder exists.
    """
    assert wanted.planned_runs is not None
    assert wanted.planned_seconds is not None
    here = device_name(wanted.cell.device), stack(package_versions())
    sessions: dict[str, list[ControlLoop]] = defaultdict(list)
    for loop in store.contents().control_loops:
        place = loop.environment.device.name, stack(loop.environment.packages)
        if _said(loop) == _said(wanted) and place == here:
            sessions[loop.session_id].append(loop)
    if sessions:
        last = LoopSession(*list(sessions.items())[-1])
        if last.missing(wanted.planned_runs, wanted.planned_seconds):
            return last
    return LoopSession(uuid.uuid4().hex)


def loop_name(wanted: LoopAsked) -> str:
    """Return a name that two commands share if, and only if, they ask for the same loop on the same device."""
    return sha256(f"{_said(wanted)} {device_name(wanted.cell.device)}".encode()).hexdigest()[:16]


def _said(loop: LoopAsked) -> str:
    said = loop.model_dump_json(include=set(LoopAsked.model_fields) - IDENTITY - {"block", "seed"})
    return f"{said} {None if loop.seed is None else loop.seed - loop.block}"
