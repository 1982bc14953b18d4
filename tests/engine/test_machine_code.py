"""What the interpreter cannot show: the code the compiler makes, for devices that need not be here."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

MATRIX_KERNELS = ("qkv", "o_proj", "gate_up", "down_proj", "head")
KERNELS = (*MATRIX_KERNELS, "attention", "combine", "sample", "embed")
OFF, FLAGS, PRELOAD = 0, 1, 2
QUANTISED = ("int8", "fp8", "int4-g128")


def compiled(capability: int, pdl: int, weights: str = "bf16") -> dict:
    return facts_of(capability=capability, pdl=pdl, weights=weights)


def facts_of(capability=90, pdl=PRELOAD, weights="bf16", model="qwen2.5-7b", max_len=2560, only=(), kv="bf16") -> dict:
    facts, problem = facts_or_problem(
        capability=capability, pdl=pdl, weights=weights, model=model, max_len=max_len, only=only, kv=kv
    )
    assert not problem, problem
    return facts


@cache
def facts_or_problem(**options: object) -> tuple[dict, str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, Path(__file__).with_name("machine_code.py"), json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return (json.loads(done.stdout), "") if done.returncode == 0 else ({}, done.stderr)


def loads(instructions: list[str]) -> list[str]:
    return [name for name in instructions if name.startswith("LDG")]


def weight_loads(instructions: list[str]) -> list[str]:
    # Only weights are loaded to be evicted first.
    return [name for name in loads(instructions) if ".EF" in name]


@pytest.mark.parametrize(("capability", "pdl"), [(90, PRELOAD), (80, OFF)])
@pytest.mark.parametrize("name", MATRIX_KERNELS)
def test_weights_are_loaded_16_bytes_at_a_time(name, capability, pdl):
    code = compiled(capability, pdl)[name]
    found = weight_loads(code["before_wait"] + code["after_wait"])
    assert found
    assert all(load.endswith(".128") for load in found)


@pytest.mark.parametrize(("capability", "pdl"), [(90, PRELOAD), (90, FLAGS), (80, OFF)])
@pytest.mark.parametrize("name", KERNELS)
def test_nothing_spills(name, capability, pdl):
    assert compiled(capability, pdl)[name]["stack_bytes"] == 0


@pytest.mark.parametrize("name", MATRIX_KERNELS)
def test_preload_issues_the_first_weights_and_nothing_else_before_the_wait(name):
    code = compiled(90, PRELOAD)[name]
    assert loads(code["before_wait"]) == weight_loads(code["before_wait"]) != []
    # Of a projection's blocks of K some are left for after the wait, the O projection's so as not to disturb attention.
    later_blocks = {"o_proj": 3, "down_proj": 1}.get(name, 0)
    assert len(weight_loads(code["after_wait"])) == later_blocks * len(weight_loads(code["before_wait"]))
    assert loads(code["after_wait"])


def test_attention_loads_past_slots_before_the_wait_and_heads_after_it():
    code = compiled(90, PRELOAD)["attention"]
    wide = [load for load in loads(code["before_wait"]) if load.endswith(".128")]
    # Keys and values of 64 slots of 128 numbers by 128 lanes; the other load is the position.
    assert len(wide) == 16
    assert len(loads(code["before_wait"])) == 17
    assert loads(code["after_wait"])


@pytest.mark.parametrize("pdl", [PRELOAD, FLAGS])
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "embed"])
def test_nothing_is_written_before_the_wait_and_dependents_are_released(name, pdl):
    code = compiled(90, pdl)[name]
    assert not [op for op in code["before_wait"] if op.startswith(("STG", "ATOMG", "RED"))]
    assert "PREEXIT" in code["before_wait"] or name == "sample"
    if pdl == FLAGS or name in ("sample", "combine"):
        assert not loads(code["before_wait"])


@pytest.mark.parametrize(("capability", "pdl"), [(90, PRELOAD), (80, OFF)])
@pytest.mark.parametrize("name", MATRIX_KERNELS)
@pytest.mark.parametrize("weights", QUANTISED)
def test_quantised_weights_are_loaded_16_bytes_at_a_time_and_do_not_spill(weights, name, capability, pdl):
    code = compiled(capability, pdl, weights)[name]
    found = weight_loads(code["before_wait"] + code["after_wait"])
    assert found
    assert all(load.endswith(".128") for load in found)
    # ptxas itself puts a register or two of address arithmetic aside.
    assert code["stack_bytes"] <= 16


@pytest.mark.parametrize(("capability", "pdl"), [(90, PRELOAD), (80, OFF)])
@pytest.mark.parametrize("name", MATRIX_KERNELS)
@pytest.mark.parametrize("weights", ["int8", "int4-g128"])
def test_integer_weights_are_multiplied_four_at_a_time(weights, name, capability, pdl):
    code = compiled(capability, pdl, weights)[name]
    # Two bytes of an activation's code for each four weights, and sums of the codes.
    assert code["weights_per_lane"] / 2 <= code["opcodes"]["IDP"] <= code["weights_per_lane"] / 2 * 1.5


@pytest.mark.parametrize("weights", QUANTISED)
def test_weights_are_unpacked_16_bytes_at_a_time(weights):
    code = compiled(90, PRELOAD, weights)["unpack"]
    found = code["before_wait"] + code["after_wait"]
    written = [name for name in found if name.startswith("STG")]
    # Of four words a lane, each field is four words of two numbers.
    assert len(written) == {"int8": 2, "fp8": 2, "int4-g128": 4}[weights]
    assert all(name.endswith(".128") for name in written + weight_loads(found))
    assert code["stack_bytes"] == 0


@pytest.mark.parametrize(("capability", "pdl"), [(90, PRELOAD), (89, OFF)])
def test_an_fp8_cache_is_loaded_16_bytes_at_a_time_and_does_not_spill(capability, pdl):
    found = facts_of(capability=capability, pdl=pdl, only=("attention", "combine"), kv="fp8")
    assert [code["stack_bytes"] for code in found.values()] == [0, 0]
    attention = found["attention"]
    wide = [load for load in loads(attention["before_wait"] + attention["after_wait"]) if load.endswith(".128")]
    assert len(wide) >= 8


@pytest.mark.parametrize(("capability", "pdl"), [(90, PRELOAD), (89, OFF)])
def test_an_fp8_cache_becomes_float16_two_numbers_an_instruction(capability, pdl):
    options = {"capability": capability, "pdl": pdl, "model": "llama-3.1-8b", "max_len": 131072, "kv": "fp8"}
    code = facts_of(only=("attention",), **options)["attention"]
    # One block of keys and values, 64 slots of 128 numbers by 128 lanes; what is left of F2FP packs softmax weights.
    unpacked = [count for name, count in code["conversions"].items() if ".E4M3.UNPACK_B" in name]
    assert sum(unpacked) == 2 * 64 * 128 / 128 / 2
    assert not [name for name in code["conversions"] if name.startswith("F2F.")]
    # Three programs of 128 lanes share the registers of a multiprocessor.
    assert 3 * 128 * code["registers"] <= 65536


# Between them: 14 and 32 query heads, heads of 64, 128 and 256 numbers, QK norm, rows of 896 to 8192, F of 4864 to
# 29568, as many splits to join as a program can hold, and a window.
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("qwen2.5-0.5b", {}),
        ("qwen2.5-0.5b", {"weights": "fp8"}),
        ("qwen2.5-1.5b", {"only": ("qkv", "gate_up", "down_proj", "head")}),
        ("llama-3.1-8b", {"only": ("qkv", "o_proj", "down_proj")}),
        ("qwen3-8b", {"only": ("qkv", "attention", "combine", "down_proj"), "max_len": 20000}),
        ("long-rows", {"only": MATRIX_KERNELS}),
        ("wide-heads", {"only": ("qkv", "attention", "combine"), "max_len": 20000}),
        ("one-kv-head", {"only": ("attention", "combine"), "max_len": 20000}),
        ("window", {"only": ("attention", "combine"), "max_len": 20000}),
    ],
)
def test_other_models_load_16_bytes_at_a_time_and_do_not_spill(model, options):
    found = facts_of(model=model, **options)
    assert found
    for name, code in found.items():
        assert code["stack_bytes"] == 0, name
        loaded = weight_loads(code["before_wait"] + code["after_wait"])
        assert bool(loaded) == (name in (*MATRIX_KERNELS, "unpack")), name
        assert all(load.endswith(".128") for load in loaded), name


# Bytes that a multiprocessor's share of memory brings per clock of 1.75 GHz: of 4.7 TB/s and of 3.16 TB/s over 132.
BYTES_PER_CLOCK = {"H200": 20.3, "H100": 13.7}


@pytest.mark.parametrize("name", ["gate_up", "down_proj", "head"])
@pytest.mark.parametrize(("weights", "device"), [("int8", "H200"), ("int4-g128", "H100")])
def test_a_multiprocessor_can_issue_as_fast_as_its_share_of_memory_brings_weights(weights, device, name):
    # It issues for 128 lanes a clock; some must be left for the loads to be waited for. Four bits do not keep up with
    # an H200 (docs/log.md).
    code = compiled(90, PRELOAD, weights)[name]
    instructions = sum(count for opcode, count in code["opcodes"].items() if opcode != "NOP")
    weights_per_byte = 2 if weights == "int4-g128" else 1
    assert instructions / code["weights_per_lane"] < 0.95 * 128 / (BYTES_PER_CLOCK[device] * weights_per_byte)


@pytest.mark.parametrize("name", MATRIX_KERNELS)
@pytest.mark.parametrize("weights", QUANTISED)
def test_the_first_quantised_weights_and_their_scales_are_loaded_before_the_wait(weights, name):
    code = compiled(90, PRELOAD, weights)[name]
    first = weight_loads(code["before_wait"])
    later_blocks = 1 if (weights, name) == ("int8", "down_proj") else 0
    assert len(weight_loads(code["after_wait"])) == later_blocks * len(first)
    assert len(loads(code["before_wait"])) > len(first)
    assert not [op for op in code["before_wait"] if op.startswith(("STG", "ATOMG", "RED"))]


def test_older_devices_get_no_dependency_control():
    for code in compiled(80, OFF).values():
        assert "ACQBULK" not in code["after_wait"]
        assert "PREEXIT" not in code["after_wait"]
