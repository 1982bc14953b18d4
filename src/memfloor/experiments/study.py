"""The main job: how far from the memory floor is each cell of a grid of models, contexts and runtimes?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from memfloor.engine.checkpoint import Checkpoint
from memfloor.errors import UsageError
from memfloor.experiments.blocks import Plan
from memfloor.measure.environment import device_name, package_versions
from memfloor.record import Anatomy, Cell, Failure, Run, StepPart, Store
from memfloor.runtimes import check_options, find_system
from memfloor.spec import ModelSpec, Workload, check_context, load_model, unquantized

DEFAULT_RUNS = {"cpu": 5, "cuda": 10}
DEFAULT_MODELS = {"cpu": ("qwen2.5-0.5b",), "cuda": ("qwen2.5-7b", "mistral-7b-v0.3", "llama-3.1-8b")}
DEFAULT_CONTEXTS = {"cpu": (512, 2048), "cuda": (2048, 4096, 8192, 16384)}
DEFAULT_RUNTIMES = ("hf-eager",)
# What a runtime's text may set for itself beside its own options, as in engine,weights=int8,head=int8.
FORMATS = ("weights", "head", "kv")


def grid(
    models: Sequence[str],
    contexts: Sequence[int],
    runtimes: Sequence[tuple[str, dict[str, str]]],
    device: str,
    *,
    batch: Sequence[int] = (1,),
    weights: str = "bf16",
    head: str | None = None,
    kv: str | None = None,
    threads: int | None = None,
    prefill: bool = False,
    weights_from: str | None = None,
    part: StepPart = "step",
) -> list[Cell]:
    """Return the cells of a grid, each different from the others.

    Formats that a runtime's options name hold for that runtime, the arguments for all others.

    Raises:
        UsageError: A name or option is unknown, a context is beyond a model's, or the checkpoint is broken or another
            model's.
    """
    cells: dict[str, Cell] = {}
    for model in models:
        spec = load_model(model)
        if weights_from is not None:
            _check_checkpoint(spec, weights_from)
        for context_len in contexts:
            check_context(spec, context_len)
            for size, (runtime, given) in product(batch, runtimes):
                own = {name: value for name, value in given.items() if name in FORMATS}
                options = {name: value for name, value in given.items() if name not in FORMATS}
                check_options(find_system(runtime, part), options)
                cell = Cell(
                    spec=spec,
                    workload=Workload.of(context_len, size, **_formats(weights, head, kv, own)),
                    runtime=runtime,
                    options=options,
                    device=device,
                    threads=threads,
                    prefill=prefill,
                    weights_from=weights_from,
                    part=part,
                )
                cells[cell.key] = cell
    return list(cells.values())


def _formats(weights: str, head: str | None, kv: str | None, own: Mapping[str, str]) -> dict[str, Any]:
    weights = own.get("weights", weights)
    return {"weights": weights, "head": own.get("head", head), "kv": own.get("kv", kv) or unquantized(weights)}


def stack(packages: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that runs of one cell must share: a new memfloor makes none worthless, a new torch may."""
    return {name: version for name, version in packages.items() if name != "memfloor"}


def _check_checkpoint(spec: ModelSpec, folder: str) -> None:
    checkpoint = load_model(folder)
    if checkpoint.fingerprint != spec.fingerprint:
        ours, theirs = (item.model_dump(exclude={"name", "source"}) for item in (spec, checkpoint))
        different = ", ".join(f"{name} {theirs[name]} not {ours[name]}" for name in ours if ours[name] != theirs[name])
        raise UsageError(f"the checkpoint in {folder} is not of {spec.name}'s shape: {different}")
    # Reads the headers alone: what is wrong with a file is said here and not by each run.
    Checkpoint(Path(folder), spec)


def done_blocks(store: Store, plan: Plan, kind: type[Run | Anatomy] = Run) -> dict[str, set[int]]:
    """Return, by cell key, the blocks of a plan that are on record for this machine's device and software.

    A cell that ran out of memory counts as done; other failures are to be tried again.

    Args:
        store: Where records lie.
        plan: What is wanted.
        kind: The records that are wanted.
    """
    wanted = {cell.key: cell for cell in plan.cells}
    names = {kind: device_name(kind) for kind in {cell.device for cell in plan.cells}}
    here = stack(package_versions())
    done: dict[str, set[int]] = defaultdict(set)
    anatomies = store.anatomies() if kind is Anatomy else []
    for record in [*store.read()[0], *anatomies]:
        cell = wanted.get(record.cell.key)
        if cell is None or record.cell.spec != cell.spec:
            continue
        match record:
            case Run() | Anatomy() if isinstance(record, kind):
                same_place = record.environment.device.name == names[cell.device]
                if same_place and record.protocol == plan.protocol and stack(record.environment.packages) == here:
                    done[cell.key].add(record.block)
            case Failure(cause="out_of_memory", device=device) if device and device.name == names[cell.device]:
                done[cell.key] |= set(range(plan.runs))
    return done
