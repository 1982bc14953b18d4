"""The session of a comparison command: a new one, or the last that said the same and was interrupted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memfloor.measure.environment import device_name, git_commit, package_versions
from memfloor.record import ArmObservation, Cell, Comparison, Contents, Failure, Run, Skip, Store

# What differs between any two records, whatever they say.
IDENTITY = {"record_id", "session_id", "taken_at"}


@dataclass(frozen=True, slots=True)
class Session:
    """Hold the comparisons of one session, which share its blocks.

    Attributes:
        comparisons: What was said before its first run.
        records: What was taken of it before it was interrupted; nothing for a new one.
        observations: What was seen of its arms.
    """

    comparisons: list[Comparison]
    records: list[Run | Failure | Skip] = field(default_factory=list)
    observations: list[ArmObservation] = field(default_factory=list)

    @property
    def session_id(self) -> str:
        """Return what its records carry."""
        return self.comparisons[0].session_id

    @property
    def done(self) -> dict[str, set[int]]:
        """Return, by cell key, the blocks that have a run; what failed is tried again."""
        blocks: dict[str, set[int]] = defaultdict(set)
        for record in self.records:
            if isinstance(record, Run):
                blocks[record.cell.key].add(record.block)
        return blocks

    @property
    def complete(self) -> bool:
        """Tell whether every cell has a run in every block, or a reason why it cannot have one."""
        skipped = {record.cell.key for record in self.records if isinstance(record, Skip)}
        keys = {cell.key for item in self.comparisons for cell in (item.baseline, item.candidate)} - skipped
        done, planned = self.done, self.comparisons[0].planned_runs
        return all(len(done.get(key, set())) == planned for key in keys)

    @property
    def unobserved(self) -> list[Comparison]:
        """Return the comparisons that have runs of both arms and lack an observation of one."""
        ran, seen = self.done.keys(), {item.cell.key for item in self.observations}
        arms = [(item, {item.baseline.key, item.candidate.key}) for item in self.comparisons]
        return [item for item, keys in arms if keys <= ran and not keys <= seen]


def interrupted_session(wanted: Sequence[Comparison], store: Store) -> Session | None:
    """Return the last session in a store that said the same and did not come to its end; None if there is none.

    Arms are observed after the last block. A session that was taken in another place is left alone: where device,
    packages or commit differ, its runs and those that are lacking could not be compared.

    Args:
        wanted: What is to be compared, whatever its identity.
        store: Where records lie; its folder exists.
    """
    contents = store.contents()
    sessions: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in contents.comparisons:
        sessions[comparison.session_id].append(comparison)
    for session_id, comparisons in reversed(sessions.items()):
        if _texts(comparisons).keys() == _texts(wanted).keys():
            session = _read(session_id, _texts(comparisons), wanted, contents)
            return session if _is_unfinished(session, contents) and _same_place(session) else None
    return None


def _is_unfinished(session: Session, contents: Contents) -> bool:
    if session.comparisons[0].question != "weights":
        return bool(session.unobserved) or not session.observations
    # Anatomies and qualities follow the last block; a command may ask for neither.
    later = [*contents.anatomies, *contents.qualities, *contents.observations]
    return not session.complete and all(record.session_id != session.session_id for record in later)


def _texts(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    return {comparison.model_dump_json(exclude=IDENTITY): comparison for comparison in comparisons}


def _read(session_id: str, said: Mapping[str, Comparison], wanted: Sequence[Comparison], contents: Contents) -> Session:
    return Session(
        [said[text] for text in _texts(wanted)],
        [record for record in contents.runs if record.session_id == session_id],
        [record for record in contents.observations if record.session_id == session_id],
    )


def _same_place(session: Session) -> bool:
    runs = [record for record in session.records if isinstance(record, Run)]
    return all(_place(run) == _place_here(run.cell) for run in runs)


def _place(run: Run) -> tuple[object, ...]:
    return run.environment.device.name, run.environment.packages, run.environment.git_commit


def _place_here(cell: Cell) -> tuple[object, ...]:
    return device_name(cell.device), package_versions(), git_commit()
