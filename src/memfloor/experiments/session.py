"""The session of a comparison command: a new one, or the last that said the same and was interrupted."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from memfloor.experiments.blocks import Patience
from memfloor.measure.environment import device_name, git_commit, package_versions
from memfloor.record import Anatomy, ArmObservation, Cell, Comparison, Contents, Failure, Quality, Run, Skip, Store

# What differs between any two records, whatever they say.
IDENTITY = {"record_id", "session_id", "taken_at"}


@dataclass(frozen=True, slots=True)
class Session:
    """Hold the comparisons of one session, which share its blocks.

    Attributes:
        comparisons: What was said before its first run.
        records: Its runs, failures and skips; nothing for a new one.
        observations: What was seen of its arms, or why nothing could be.
        anatomies: Of its cells.
        qualities: Of its paths of weights.
    """

    comparisons: list[Comparison]
    records: list[Run | Failure | Skip] = field(default_factory=list)
    observations: list[ArmObservation] = field(default_factory=list)
    anatomies: list[Anatomy] = field(default_factory=list)
    qualities: list[Quality] = field(default_factory=list)

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
    def cells(self) -> dict[str, Cell]:
        """Return, by key, the cells of all arms."""
        return {cell.key: cell for item in self.comparisons for cell in (item.baseline, item.candidate)}

    @property
    def partners(self) -> dict[str, str]:
        """Return, by key, the arm without which another says nothing; a baseline that several need has none."""
        shared = Counter(item.baseline.key for item in self.comparisons)
        keys = [(item.baseline.key, item.candidate.key) for item in self.comparisons if shared[item.baseline.key] == 1]
        return {ours: theirs for pair in keys for ours, theirs in (pair, pair[::-1])}

    @property
    def blocks_ended(self) -> bool:
        """Tell whether every cell came to something in every block, or was given up."""
        patience, blocks = Patience(self.partners), defaultdict[str, set[int]](set)
        for record in self.records:
            patience.note(record)
            blocks[record.cell.key].add(record.block)
        planned = set(range(self.comparisons[0].planned_runs))
        return all(key in patience.given_up or planned <= blocks[key] for key in self.cells)

    @property
    def contents(self) -> Contents:
        """Return all its records."""
        return Contents(
            [*self.comparisons, *self.records, *self.observations, *self.anatomies, *self.qualities],
            [],
            self.comparisons[0].baseline.part,
        )

    @property
    def unobserved(self) -> list[Comparison]:
        """Return the comparisons that have runs of both arms and lack an observation of one."""
        ran, seen = self.done.keys(), {item.cell.key for item in self.observations}
        arms = [(item, {item.baseline.key, item.candidate.key}) for item in self.comparisons]
        return [item for item, keys in arms if keys <= ran and not keys <= seen]


# Tells whether a session whose blocks have ended lacks something else that a command asks for.
Lacks = Callable[[Session], bool]


def interrupted_session(wanted: Sequence[Comparison], store: Store, lacks: Lacks) -> Session | None:
    """Return the last session in a store that said the same and did not come to its end; None if there is none.

    A session that was taken in another place is left alone: where device, packages or commit differ, its runs and those
    that are lacking could not be compared.

    Args:
        wanted: What is to be compared, whatever its identity.
        store: Where records lie; its folder exists.
        lacks: Whether something that follows the last block is lacking.
    """
    contents = store.contents().of(wanted[0].baseline.part)
    sessions: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in contents.comparisons:
        sessions[comparison.session_id].append(comparison)
    for session_id, comparisons in reversed(sessions.items()):
        if _texts(comparisons).keys() == _texts(wanted).keys():
            session = _read(session_id, _texts(comparisons), wanted, contents)
            unfinished = not session.blocks_ended or lacks(session)
            return session if unfinished and _same_place(session) else None
    return None


def _texts(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    return {comparison.model_dump_json(exclude=IDENTITY): comparison for comparison in comparisons}


def _read(session_id: str, said: Mapping[str, Comparison], wanted: Sequence[Comparison], contents: Contents) -> Session:
    own = contents.of_session(session_id)
    said_again = [said[text] for text in _texts(wanted)]
    return Session(said_again, own.runs, own.observations, own.anatomies, own.qualities)


def _same_place(session: Session) -> bool:
    runs = [record for record in session.records if isinstance(record, Run)]
    return all(_place(run) == _place_here(run.cell) for run in runs)


def _place(run: Run) -> tuple[object, ...]:
    return run.environment.device.name, run.environment.packages, run.environment.git_commit


def _place_here(cell: Cell) -> tuple[object, ...]:
    return device_name(cell.device), package_versions(), git_commit()
