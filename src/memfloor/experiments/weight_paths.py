"""What do fewer bytes of weights buy? Every path of weights against one bf16 baseline, in one interleaved session."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.anatomy import TRACED_STEPS, AnatomyPlan, take_anatomies
from memfloor.experiments.comparing import Pair, RuntimeText, identity
from memfloor.experiments.session import Session
from memfloor.experiments.study import grid
from memfloor.record import Anatomy, Arm, ArmObservation, Cell, Store
from memfloor.report.tables import runtime_label

EVERYWHERE = ("cpu", "cuda")
BASELINE = "bf16"
INT8 = {"weights": "int8", "head": "int8"}
INT4 = {"weights": "int4-g128", "head": "int4-g128"}
INT4_G32 = {"weights": "int4-g32", "head": "int4-g32"}
Q8_0 = {"weights": "int8-g32", "head": "int8-g32"}
Q4_K_M = {"weights": "q4-k-m", "head": "q4-k-m"}
EXLLAMA = {"weights": "int4-g128-zp", "head": "fp16", "kv": "fp16"}
EXL3 = {"weights": "exl3-4", "head": "fp16", "kv": "fp16"}
NNCF_INT8 = {"weights": "nncf-int8-asym", "head": "nncf-int8-asym"}
NNCF_INT4 = {"weights": "nncf-int4-sym-g128", "head": "nncf-int8-asym"}
ORT_INT8 = {"weights": "ort-int8-g32", "head": "ort-int8-g32", "kv": "fp32"}
ORT_INT4 = {"weights": "ort-int4-g32", "head": "ort-int4-g32", "kv": "fp32"}


@dataclass(frozen=True, slots=True)
class WeightPath:
    """Hold a path of weights: a runtime with its options and formats.

    Attributes:
        runtime: Name of the runtime.
        options: Its options, and the formats of weights and head, as `--runtime` takes them.
        devices: Kinds of device that it is asked for where no path is named.
    """

    runtime: str
    options: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = EVERYWHERE


# To add a path, add a line; its runtime must be in the registry.
PATHS: dict[str, WeightPath] = {
    BASELINE: WeightPath("hf-eager"),
    "hf-graph": WeightPath("hf-static", {"launch": "graph"}, ("cuda",)),
    "hf-compile": WeightPath("hf-compile"),
    "llama-cpp-bf16": WeightPath("llama-cpp", {}, ("cpu",)),
    "llama-cpp-q8_0": WeightPath("llama-cpp", Q8_0, ("cpu",)),
    "llama-cpp-q4_0": WeightPath("llama-cpp", INT4_G32, ("cpu",)),
    "llama-cpp-q4_k_m": WeightPath("llama-cpp", Q4_K_M, ("cpu",)),
    "bnb-nf4": WeightPath("bitsandbytes", {"weights": "nf4"}),
    "bnb-nf4-g64": WeightPath("bitsandbytes", {"weights": "nf4-g64"}, ("cpu",)),
    "bnb-int8": WeightPath("bitsandbytes", {"weights": "int8"}),
    "torchao-int8": WeightPath("torchao", {"weights": "int8"}),
    "torchao-int8-compiled": WeightPath("torchao-compile", {"weights": "int8"}),
    "torchao-int4-compiled": WeightPath("torchao-compile", {"weights": "int4-g128"}, ("cpu",)),
    "torchao-fp8": WeightPath("torchao", {"weights": "fp8"}),
    "torchao-int4": WeightPath("torchao", {"weights": "int4-g128"}, ("cpu",)),
    "torchao-int4-k1024": WeightPath("torchao", {"weights": "int4-g128-k1024"}, ("cuda",)),
    "hqq-int4": WeightPath("hqq", {"weights": "int4-g64"}),
    "awq-marlin": WeightPath("gptqmodel", {"kernel": "marlin-awq", "weights": "int4-g128-zp"}, ("cuda",)),
    "gptq-marlin": WeightPath("gptqmodel", {"kernel": "marlin-gptq", "weights": "int4-g128-sym"}, ("cuda",)),
    "gptq-exllamav2": WeightPath("gptqmodel", {"kernel": "exllamav2", **EXLLAMA}, ("cuda",)),
    "exllamav3": WeightPath("exllamav3", EXL3, ("cuda",)),
    "gptq-aten": WeightPath("gptqmodel", {"kernel": "aten-gptq", "weights": "int4-g128"}, ("cpu",)),
    "openvino-bf16": WeightPath("openvino", {}, ("cpu",)),
    "openvino-int8": WeightPath("openvino", NNCF_INT8, ("cpu",)),
    "openvino-int4": WeightPath("openvino", NNCF_INT4, ("cpu",)),
    "onnxruntime-int8": WeightPath("onnxruntime-genai", ORT_INT8, ("cpu",)),
    "onnxruntime-int4": WeightPath("onnxruntime-genai", ORT_INT4, ("cpu",)),
    "engine-bf16": WeightPath("engine"),
    "engine-int8": WeightPath("engine", INT8),
    "engine-fp8": WeightPath("engine", {"weights": "fp8", "head": "fp8"}, ("cuda",)),
    "engine-int4": WeightPath("engine", INT4),
    "engine-int4-g32": WeightPath("engine", INT4_G32, ("cpu",)),
}


def default_paths(device: str) -> list[str]:
    """Return the names of all paths of a kind of device."""
    return [name for name, path in PATHS.items() if device in path.devices]


def named_path(name: str) -> RuntimeText | None:
    """Return the runtime and options of a path of the catalogue; None if it has none of that name."""
    path = PATHS.get(name)
    return None if path is None else (path.runtime, dict(path.options))


def ladder_pairs(
    model: str,
    contexts: Sequence[int],
    baseline: RuntimeText,
    paths: Sequence[tuple[str, RuntimeText]],
    device: str,
    settings: Mapping[str, Any],
) -> list[Pair]:
    """Return each path beside the baseline at each context and batch size; the baseline itself is no path.

    Args:
        model: What is decoded.
        contexts: Tokens in the KV cache.
        baseline: The runtime that all paths are compared with.
        paths: Names of the paths, and their runtimes.
        device: Kind of device.
        settings: What else shapes a cell, as `grid` takes it.

    Raises:
        UsageError: A name or option is unknown, a path is named twice, two are the same cell, or none is left.
    """
    twice = [name for name, count in Counter(name for name, _ in paths).items() if count > 1]
    if twice:
        raise UsageError(f"path {twice[0]!r} is given twice")
    ours = grid([model], contexts, [baseline], device, **settings)
    seen: dict[str, str] = {}
    pairs = []
    for name, runtime in paths:
        for base, cell in zip(ours, grid([model], contexts, [runtime], device, **settings), strict=True):
            if cell.key == base.key:
                continue
            if seen.setdefault(cell.key, name) != name:
                raise UsageError(f"paths {seen[cell.key]!r} and {name!r} are the same: {cell.runtime_text}")
            pairs.append(Pair(base, cell, path=name))
    if not pairs:
        raise UsageError("no path is left beside the baseline; name one with --path")
    return pairs


def not_taken_apart(session: Session, anatomies: int) -> list[tuple[Arm, Cell]]:
    """Return the arms of a session, the baseline once, that have a run but neither so many anatomies nor a reason."""
    arms: dict[str, tuple[Arm, Cell]] = {}
    for item in session.comparisons:
        arms.setdefault(item.baseline.key, ("baseline", item.baseline))
        arms.setdefault(item.candidate.key, ("candidate", item.candidate))
    closed = {item.cell.key for item in session.observations}
    return [
        (arm, cell)
        for key, (arm, cell) in arms.items()
        if key in session.done and key not in closed and len(_numbers(session, cell)) < anatomies
    ]


def take_apart(
    session: Session,
    anatomies: int,
    store: Store,
    time_limit_seconds: float,
    on_phase: Callable[[str], None],
) -> Session:
    """Take the missing anatomies of every cell of a session that has a run, and record why one has none.

    Args:
        session: With its runs.
        anatomies: Of each cell; none if zero.
        store: Where records go.
        time_limit_seconds: Time after which a process is ended.
        on_phase: Told what is done.

    Returns:
        The session with its anatomies.
    """
    taken, problems = list(session.anatomies), list(session.observations)
    for arm, cell in not_taken_apart(session, anatomies):
        on_phase(f"taking {runtime_label(cell)} at context {cell.workload.context_len} apart")
        plan = _anatomy_plan(session, cell, anatomies, time_limit_seconds)
        wanted = anatomies - len(_numbers(session, cell))
        found, problem = _anatomies(plan, store, _numbers(session, cell))
        taken += found
        if len(found) < wanted:
            problem = problem or f"{wanted - len(found)} of {anatomies} anatomies were lost"
            observation = ArmObservation(
                **identity(session.session_id), arm=arm, cell=cell, seed=plan.seed, trace_problem=problem
            )
            store.add(observation)
            problems.append(observation)
    return replace(session, anatomies=taken, observations=problems)


def _numbers(session: Session, cell: Cell) -> set[int]:
    return {item.block for item in session.anatomies if item.cell.key == cell.key}


def _anatomies(plan: AnatomyPlan, store: Store, done: Collection[int]) -> tuple[list[Anatomy], str | None]:
    try:
        return list(take_anatomies(plan, store, lambda phase: None, done)), None
    except UsageError as problem:
        return [], str(problem)


def _anatomy_plan(session: Session, cell: Cell, anatomies: int, time_limit_seconds: float) -> AnatomyPlan:
    said = session.comparisons[0]
    return AnatomyPlan(
        cell=cell,
        runs=anatomies,
        protocol=said.protocol,
        traced_steps=TRACED_STEPS[cell.device],
        time_limit_seconds=time_limit_seconds,
        seed=said.seed,
        session_id=said.session_id,
    )
