"""The stages of gpu_study.py that take runs or anatomies: which cells, how often, and what is still missing."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpu_study_time import Budget

from memfloor.errors import UsageError
from memfloor.experiments.blocks import PATIENCE, Listener, Plan, blocks, take_blocks
from memfloor.experiments.study import done_blocks, grid
from memfloor.record import Anatomy, Cell, Failure, Protocol, Run, Skip, Store

CONTEXT = 2048
CONTEXTS = (2048, 4096, 8192, 16384)
BATCHES = (1, 2, 4, 8)
GRID_MODELS = ("qwen2.5-7b", "mistral-7b-v0.3", "llama-3.1-8b")

ENGINE: tuple[str, dict[str, str]] = ("engine", {})
ENGINE_EAGER = ("engine", {"launch": "eager"})
HF_EAGER: tuple[str, dict[str, str]] = ("hf-eager", {})
HF_FLASH = ("hf-eager", {"sdpa": "flash"})
HF_STATIC: tuple[str, dict[str, str]] = ("hf-static", {})
HF_GRAPH = ("hf-static", {"launch": "graph"})

HEADLINE = (
    ENGINE,
    ("engine", {"weights": "int8"}),
    ("engine", {"weights": "int4-g128"}),
    ("engine", {"weights": "fp8"}),
    HF_GRAPH,
    ("hf-compile", {}),
    HF_FLASH,
    HF_EAGER,
)
LADDER = (
    ENGINE,
    ("engine", {"pdl": "flags"}),
    ("engine", {"pdl": "off"}),
    ENGINE_EAGER,
    ("engine", {"launch": "eager", "pdl": "off"}),
    ("engine", {"steps": "4"}),
    ("engine", {"steps": "16"}),
)
ANATOMIES = (ENGINE, HF_GRAPH, HF_FLASH)
ANATOMY_RUNS = 2


def by_shape(cell: Cell) -> Hashable:
    """Name the cells of one model, context and batch."""
    return cell.spec.name, cell.workload.context_len, cell.workload.batch


def by_launch(cell: Cell) -> Hashable:
    """Name the two cells that differ by their launch alone."""
    return *by_shape(cell), cell.runtime


@dataclass(frozen=True)
class RunStage:
    """Take runs of cells in interleaved blocks.

    Attributes:
        weight: Its share of the time beside those of the other stages that have work left.
        cells: What is measured.
        runs: Runs of each cell.
        store: Folder of its records.
        compared: Names the cells that are compared.
        baseline: By runtime, the text of the runtime that a cell is compared with; `*` is all others.
        borrowed: Folder of another stage whose runs count as well.
    """

    name: str
    weight: float
    cells: Sequence[Cell]
    runs: int
    store: Store
    compared: Callable[[Cell], Hashable]
    baseline: dict[str, str]
    borrowed: Store | None = None

    @property
    def plan(self) -> Plan:
        """Return the plan of a whole study of these cells."""
        return Plan(self.cells, self.runs, Protocol.on("cuda"), compared=self.compared)

    def records(self) -> list[Run | Failure | Skip]:
        """Return the records of its cells, those it borrows among them."""
        wanted = {cell.key for cell in self.cells}
        stores = [store for store in (self.store, self.borrowed) if store is not None and store.folder.is_dir()]
        return [record for store in stores for record in store.read()[0] if record.cell.key in wanted]

    def done(self) -> dict[str, set[int]]:
        """Return by cell key the blocks not to be taken: on record, or of a cell that has been given up."""
        done: dict[str, set[int]] = {}
        for store in (self.store, self.borrowed):
            if store is not None and store.folder.is_dir():
                for key, taken in done_blocks(store, self.plan).items():
                    done.setdefault(key, set()).update(taken)
        return done | {key: set(range(self.runs)) for key in given_up(self.records())}

    def missing(self) -> int:
        """Count the runs that are still to be taken."""
        return len(blocks(self.plan, self.done()))

    def take(self, budget: Budget, listener: Listener) -> int:
        """Take what is missing and fits; return how many runs were taken."""
        self.store.open_for_writing()
        return sum(1 for _ in take_blocks(self.plan, self.store, listener, self.done(), budget.admit))


def given_up(records: Iterable[Run | Failure | Skip]) -> set[str]:
    """Return the keys of cells that cannot run here, or failed as often as patience lasts and never gave a time."""
    lost: Counter[str] = Counter()
    measured = set()
    for record in records:
        if isinstance(record, Run):
            measured.add(record.cell.key)
        else:
            hopeless = isinstance(record, Skip) or record.cause == "out_of_memory"
            lost[record.cell.key] += PATIENCE if hopeless else 1
    return {key for key, count in lost.items() if count >= PATIENCE} - measured


class AnatomyStage:
    """Take anatomies, one of each cell after the other."""

    name, weight = "anatomy", 12.0

    def __init__(self, cells: Sequence[Cell], store: Store, say: Callable[[str], None]) -> None:
        self.cells, self.store, self._say = cells, store, say
        self._lost: set[str] = set()

    def todo(self) -> list[tuple[int, Cell]]:
        """Return the (block, cell) pairs that are not on record for this device and software, and not lost."""
        plan = Plan(self.cells, ANATOMY_RUNS, Protocol.on(self.cells[0].device))
        done = done_blocks(self.store, plan, Anatomy) if self.store.folder.is_dir() else {}
        pairs = [(block, cell) for block in range(ANATOMY_RUNS) for cell in self.cells if cell.key not in self._lost]
        return [(block, cell) for block, cell in pairs if block not in done.get(cell.key, set())]

    def missing(self) -> int:
        """Count the anatomies that are still to be taken."""
        return len(self.todo())

    def take(self, budget: Budget, listener: Listener) -> int:
        """Take what is missing and fits; return how many anatomies were taken."""
        self.store.open_for_writing()
        return sum(self.take_one(block, cell, budget) for block, cell in self.todo())

    def take_one(self, block: int, cell: Cell, budget: Budget) -> int:
        """Take one anatomy if it fits; return how many were taken, and say why if none could be."""
        # Reads traces, which needs a library that the runs do not need.
        from memfloor.experiments.anatomy import TRACED_STEPS, AnatomyPlan, take_anatomies

        limit_seconds = None if cell.key in self._lost else budget.admit(cell, block, "anatomy")
        if limit_seconds is None:
            return 0
        begun = budget.elapsed
        protocol, traced_steps = Protocol.on(cell.device), TRACED_STEPS[cell.device]
        plan = AnatomyPlan(cell, block + 1, protocol, traced_steps, time_limit_seconds=limit_seconds)
        try:
            taken = len(list(take_anatomies(plan, self.store, lambda phase: None, range(block))))
        except UsageError as problem:
            self._lost.add(cell.key)
            self._say(f"anatomy of {cell.runtime_text}: {problem}")
            return 0
        budget.history.note("anatomy", cell, budget.elapsed - begun)
        self._say(f"anatomy {block + 1} of {cell.runtime_text} took {budget.elapsed - begun:.0f} s")
        return taken


def make_stages(
    out: Path, model: str, grid_models: Sequence[str], runs: int, say: Callable[[str], None]
) -> list[RunStage | AnatomyStage]:
    """Return the stages that take time, the most valuable first.

    Raises:
        UsageError: A model is unknown.
    """

    def cells(runtimes: Sequence[tuple[str, dict[str, str]]], contexts: Sequence[int] = (CONTEXT,), batch: int = 1):
        return grid([model], contexts, runtimes, "cuda", batch=[batch])

    launch = cells((ENGINE_EAGER, ENGINE, HF_STATIC, HF_GRAPH), CONTEXTS)
    for batch in BATCHES[1:]:
        launch += cells((HF_STATIC, HF_GRAPH), batch=batch)
    stage = RunStage("headline", 40.0, cells(HEADLINE), runs, Store(out / "headline"), by_shape, {"*": "hf-eager"})
    launches = {"engine": "engine,launch=eager", "hf-static": "hf-static"}
    study = grid(grid_models, CONTEXTS, (HF_EAGER, HF_GRAPH, ENGINE), "cuda")
    return [
        stage,
        replace(
            stage,
            name="launch",
            weight=20.0,
            cells=launch,
            store=Store(out / "launch"),
            compared=by_launch,
            baseline=launches,
        ),
        replace(
            stage,
            name="ladder",
            weight=10.0,
            cells=cells(LADDER),
            store=Store(out / "ladder"),
            baseline={"*": "engine"},
        ),
        replace(stage, name="grid", weight=18.0, cells=study, store=Store(out / "grid"), borrowed=stage.store),
        AnatomyStage(cells(ANATOMIES), Store(out / "anatomy"), say),
    ]
