"""The comparisons of a folder; where nobody registered one, launch modes paired afterwards."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from memfloor.record import Contents, Run
from memfloor.report.compared import Arm, Compared, Records, compare, derive
from memfloor.report.comparison_tables import arms_text
from memfloor.report.environments import place
from memfloor.report.outputs import LAUNCH, differ_in_launch_alone

# A run of the baseline and one of the candidate, of one block of one session.
Block = tuple[Run, Run]


def compared_in(found: Contents) -> list[Compared]:
    """Return the comparisons of a folder, by arms; where none was registered, launch modes paired afterwards."""
    every = compare(found.comparisons, found.observations, found.runs) or pair_afterwards(found.runs)
    return sorted(
        every, key=lambda item: (arms_text(item), item.baseline.workload.batch, item.baseline.workload.context_len)
    )


def pair_afterwards(records: Records) -> list[Compared]:
    """Return comparisons of runs that differ in their launch alone, paired by the blocks of their sessions.

    The arm whose record says that it launched eagerly is the baseline. A study that was resumed has several sessions:
    the blocks of all that were taken in the same place are one comparison. Nothing is known of traces and outputs.
    """
    found: dict[tuple[object, ...], list[Block]] = {}
    for runs in _sessions(records):
        for baseline, candidate in _launch_pairs(runs):
            first = baseline[0]
            key = (first.cell.key, candidate[0].cell.key, place(first.environment))
            found.setdefault(key, []).extend(_blocks(baseline, candidate))
    return [_compared(blocks) for blocks in found.values() if blocks]


def _sessions(records: Records) -> list[list[Run]]:
    sessions: dict[str, list[Run]] = {}
    for record in records:
        if isinstance(record, Run):
            sessions.setdefault(record.session_id, []).append(record)
    return list(sessions.values())


def _launch_pairs(runs: Sequence[Run]) -> Iterator[tuple[list[Run], list[Run]]]:
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell.key, []).append(run)
    for first, second in combinations(cells.values(), 2):
        eager = [arm[0].path.facts.get(LAUNCH) == "eager" for arm in (first, second)]
        if sum(eager) == 1 and differ_in_launch_alone(first[0].cell, second[0].cell):
            yield (first, second) if eager[0] else (second, first)


def _blocks(baseline: Sequence[Run], candidate: Sequence[Run]) -> list[Block]:
    theirs = {run.block: run for run in candidate}
    shared = sorted((run for run in baseline if run.block in theirs), key=lambda run: run.block)
    return [(run, theirs[run.block]) for run in shared]


def _compared(blocks: Sequence[Block]) -> Compared:
    # Sessions number their blocks by themselves.
    arms = (
        tuple(run.model_copy(update={"block": number}) for number, run in enumerate(arm))
        for arm in zip(*blocks, strict=True)
    )
    ours, theirs = (Arm(runs[0].cell, runs, None) for runs in arms)
    return derive(None, ours, theirs, missing="")
