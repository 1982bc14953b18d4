"""Compile every kernel at a model's shapes for a compute capability, with no GPU, and print facts of its code.

Run as a script in a process of its own, because kernels cannot be both interpreted and compiled in one.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from memfloor.engine.cuda.calls import KernelCall, unpack_call
from memfloor.engine.cuda.default_shapes import default_shapes
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.weights import pack_weights
from memfloor.floor import projections
from memfloor.spec import ModelSpec, load_model

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
QWEN = load_model("qwen2.5-7b")
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.float8_e4m3fn: "*fp8e4nv"}


def hf_shapes(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Return a state dict of shapes and types without memory behind them."""
    table, hidden = (spec.vocab_size, spec.hidden_size), (spec.hidden_size,)
    shapes = {"model.embed_tokens": table, "lm_head": table, "model.norm": hidden}
    for name, shape in projections(spec).items():
        part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        shapes[f"model.layers.0.{part}.{name}"] = shape
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"model.layers.0.{name}"] = hidden
    state = {f"{name}.weight": torch.empty(shape, device="meta") for name, shape in shapes.items()}
    for name in ("q_norm", "k_norm") if spec.qk_norm else ():
        state[f"model.layers.0.self_attn.{name}.weight"] = torch.empty(spec.head_dim, device="meta")
    for name in "qkv" if spec.qkv_bias else "":
        rows = projections(spec)[f"{name}_proj"][0]
        state[f"model.layers.0.self_attn.{name}_proj.bias"] = torch.empty(rows, device="meta")
    return state


def step_calls(
    pdl: int, weights_format: str = "bf16", spec: ModelSpec = QWEN, max_len: int = 2560, kv: str = "bf16"
) -> dict[str, KernelCall]:
    """Return the calls of the last layer and the output of a model's step on a device of 132 multiprocessors.

    Of quantised weights only the calls that read them, and the one that unpacks a matrix for a prompt.
    """
    spec = spec.model_copy(update={"num_hidden_layers": 1, "num_sliding_layers": min(1, spec.num_sliding_layers)})
    weights = pack_weights(spec, hf_shapes(spec), torch.device("meta"), weights_format, weights_format)
    shapes = default_shapes(spec, 132, weights_format, weights_format, kv)
    model = DecodeModel(spec, weights, max_len, shapes, pdl, kv)
    names = ("qkv", "attention", "combine", "o_proj", "gate_up", "down_proj", "head", "sample")
    calls = dict(zip(names, model.plan.calls, strict=True)) | {"embed": model.embed}
    if weights_format == "bf16":
        return calls
    gate_up = weights.layers[0].gate_up
    calls["unpack"] = unpack_call(gate_up, torch.empty(gate_up.shape, dtype=torch.bfloat16, device="meta"))
    return {name: call for name, call in calls.items() if "FORMAT" in call.constants}


def weights_per_lane(call: KernelCall) -> float:
    """Return how many weights of a packed matrix one lane of a launch takes, those beyond its columns included."""
    numbers = call.constants
    if call.op == "unpack":
        return numbers["N"] * numbers["K"] / (call.programs * call.warps * 32)
    per_program = {"qkv": 2, "gate_up": 2}.get(call.op, 1) * numbers["BLOCK_N"]
    columns = numbers["BLOCK_K"] * numbers.get("STEPS", 1)
    return per_program * columns / (call.warps * 32)


def compile_call(call: KernelCall, capability: int) -> bytes:
    """Return the machine code of a call."""
    names = call.kernel.arg_names
    pointers, constants = names[: len(call.args)], names[len(call.args) :]
    signature = {name: TYPES[tensor.dtype] for name, tensor in zip(pointers, call.args, strict=True)}
    source = ASTSource(
        call.kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        {name: call.constants[name] for name in constants},
        {(index,): [["tt.divisibility", 16]] for index in range(len(pointers))},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=call.options()).asm["cubin"]


def facts(cubin: bytes) -> dict[str, object]:
    """Return registers, stack bytes, and the memory instructions before and after the dependency wait."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = run("cuobjdump", "-res-usage", file.name)
        code = run("nvdisasm", "-c", file.name)
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage).groups()
    opcodes = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?(\w+)", code))
    conversions = Counter(re.findall(r"\bF2FP?\.[.\w]*", code))
    instructions = re.findall(r"\b(?:LDG|STG|ATOMG|RED|ACQBULK|PREEXIT)[.\w]*", code)
    wait = instructions.index("ACQBULK") if "ACQBULK" in instructions else None
    return {
        "registers": int(registers),
        "stack_bytes": int(stack) + int(local),
        "before_wait": instructions[:wait] if wait is not None else [],
        "after_wait": instructions[wait + 1 :] if wait is not None else instructions,
        "opcodes": opcodes,
        "conversions": conversions,
    }


def run(tool: str, *arguments: str) -> str:
    done = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def model_of(name: str) -> ModelSpec:
    """Return a model of the catalogue, one that slides, or one of the widest or the most heads."""
    changes = {
        "window": {"sliding_window": 4096, "num_sliding_layers": 36},
        "wide-heads": {"head_dim": 256, "num_attention_heads": 16, "num_key_value_heads": 16},
        "one-kv-head": {"num_key_value_heads": 1},
        "long-rows": {"hidden_size": 8192, "intermediate_size": 29568, "num_attention_heads": 64},
    }
    if name in changes:
        return load_model("qwen3-8b").model_copy(update=changes[name])
    return load_model(name)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    calls = step_calls(
        options["pdl"], options["weights"], model_of(options["model"]), options["max_len"], options["kv"]
    )
    wanted = {name: call for name, call in calls.items() if name in (options["only"] or calls)}
    found = {name: facts(compile_call(call, options["capability"])) for name, call in wanted.items()}
    if options["weights"] != "bf16":
        found = {name: code | {"weights_per_lane": weights_per_lane(wanted[name])} for name, code in found.items()}
    sys.stdout.write(json.dumps(found))
