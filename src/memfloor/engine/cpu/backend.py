"""What the engine can decode on a CPU, and the model of a cell on it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.cpu.model import CpuModel
from memfloor.engine.cpu.native import allowed_cpus, native, unavailable_reason
from memfloor.engine.cpu.weights import Packer
from memfloor.engine.random_tensors import RandomTensors, random_prompt
from memfloor.engine.rope import rope_reason
from memfloor.engine.tensors import TensorSource
from memfloor.record import Cell
from memfloor.spec import ModelSpec

WEIGHTS = ("bf16", "int8", "int4-g128", "int4-g32")
KV = ("bf16", "int8")
ISAS = ("avx512-bf16", "avx512", "avx2", "neon-dotprod", "neon", "portable")
OPTIONS = {"isa": ISAS}
# Numbers of the block that fills the KV cache.
FILL_NUMBERS = 1_048_583


def machine_reason() -> str | None:
    """Say why no cell can be decoded on this machine's CPU; None if some can."""
    return unavailable_reason()


def cell_reason(cell: Cell) -> str | None:
    """Say why this cell cannot be decoded; None if it can."""
    spec, workload = cell.spec, cell.workload
    isa, usable = cell.options.get("isa"), native().usable_isas()
    refused = {
        f"batch {workload.batch} is not 1": workload.batch != 1,
        f"weights {workload.weights} are not {', '.join(WEIGHTS)}": workload.weights not in WEIGHTS,
        f"head {workload.head} is not {', '.join(WEIGHTS)}": workload.head not in WEIGHTS,
        f"KV format {workload.kv} is not {' or '.join(KV)}": workload.kv not in KV,
        f"head_dim {spec.head_dim} is not a multiple of 16": spec.head_dim % 16 != 0,
        f"isa={isa} is not usable here; usable: {', '.join(usable)}": isa is not None and isa not in usable,
    }
    found = next((reason for reason, holds in refused.items() if holds), None)
    return found or _columns_reason(spec, workload.weights, workload.head) or rope_reason(spec)


def _columns_reason(spec: ModelSpec, weights: str, head: str) -> str | None:
    columns = {
        "hidden_size": (spec.hidden_size, (weights, head)),
        "intermediate_size": (spec.intermediate_size, (weights,)),
        "num_attention_heads * head_dim": (spec.num_attention_heads * spec.head_dim, (weights,)),
    }
    for name, (size, formats) in columns.items():
        for format_name in formats:
            multiple = 128 if format_name.startswith("int4") else 4
            if size % multiple:
                return f"{name} {size} is not a multiple of {multiple}, as {format_name} needs"
    return None


def build(cell: Cell, start_len: int, max_len: int, seed: int, report: Callable[[str], None]) -> CpuModel:
    """Return the model of a cell, its cache filled with random numbers or by a prompt of random tokens.

    Args:
        cell: What is decoded.
        start_len: Slots of the cache that are filled.
        max_len: Slots of the cache.
        seed: Of random weights and of the cache.
        report: Told what is being loaded.
    """
    spec = cell.spec
    source = _source(cell, seed)
    pool = native().Pool(allowed_cpus(cell.threads))
    weights = Packer(spec, source, pool, report).pack(cell.workload)
    cache = native().KVCache(cell.workload.kv, spec.num_hidden_layers, spec.num_key_value_heads, max_len, spec.head_dim)
    model = CpuModel(spec, weights, cache, max_len, cell.options.get("isa", native().usable_isas()[0]), pool)
    report("filling the KV cache")
    if cell.prefill:
        model.prefill(random_prompt(spec.vocab_size, start_len, seed)[0].tolist())
    else:
        cache.fill(start_len, np.random.default_rng(seed).standard_normal(FILL_NUMBERS, dtype=np.float32))
    return model


def _source(cell: Cell, seed: int) -> TensorSource:
    if cell.weights_from is None:
        return RandomTensors(cell.spec, seed)
    return Checkpoint(Path(cell.weights_from), cell.spec)
