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


def compiled(capability: int, pdl: int, *formats: str) -> dict:
    facts, problem = facts_or_problem(capability, pdl, *formats)
    assert not problem, problem
    return facts


@cache
def facts_or_problem(capability: int, pdl: int, *formats: str) -> tuple[dict, str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("machine_code.py")
    command = [sys.executable, script, str(capability), str(pdl), *formats]
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
    # A program of a projection takes several blocks of K and holds one at a time.
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


# Kernels whose default launch shape multiplies on tensor cores; short rows of 8 bits are faster without.
ON_TENSOR_CORES = [
    (name, weights)
    for weights in QUANTISED
    for name in MATRIX_KERNELS
    if weights == "int4-g128" or name not in ("qkv", "gate_up")
]


@pytest.mark.parametrize(("capability", "pdl"), [(90, PRELOAD), (80, OFF)])
@pytest.mark.parametrize(("name", "weights"), ON_TENSOR_CORES)
def test_quantised_weights_meet_tensor_cores_in_the_lanes_that_loaded_them(name, weights, capability, pdl):
    code = compiled(capability, pdl, weights)[name]
    found = weight_loads(code["before_wait"] + code["after_wait"])
    assert found
    assert all(load.endswith(".128") for load in found)
    assert code["opcodes"]["HMMA"]
    # Conversions are bit operations, and only sums over warps go through shared memory.
    assert not {"I2F", "I2FP", "LDSM", "STSM"} & set(code["opcodes"])
    assert code["opcodes"]["STS"] <= 24
    # ptxas itself puts a register or two of address arithmetic aside.
    assert code["stack_bytes"] <= 16


@pytest.mark.parametrize(
    ("name", "weights"), [pair for pair in ON_TENSOR_CORES if pair[0] in ("gate_up", "down_proj", "head")]
)
def test_a_multiprocessor_can_issue_as_fast_as_its_share_of_memory_brings_weights(weights, name):
    # An H200's 132 multiprocessors issue 128 lanes' instructions per clock of 1.75 GHz and read 4.7 TB/s together: 20
    # bytes a clock each. Some must be left for the loads to be waited for.
    code = compiled(90, PRELOAD, weights)[name]
    instructions = sum(count for opcode, count in code["opcodes"].items() if opcode != "NOP")
    assert instructions / code["weights_per_lane"] < 0.85 * 128 / 20.3 * (0.5 if weights == "int4-g128" else 1.0)


@pytest.mark.parametrize("name", MATRIX_KERNELS)
@pytest.mark.parametrize("weights", QUANTISED)
def test_the_first_quantised_weights_and_their_scales_are_loaded_before_the_wait(weights, name):
    code = compiled(90, PRELOAD, weights)[name]
    first = weight_loads(code["before_wait"])
    later_blocks = 1 if (weights, name) == ("int4-g128", "down_proj") else 0
    assert len(weight_loads(code["after_wait"])) == later_blocks * len(first)
    assert len(loads(code["before_wait"])) > len(first)
    assert not [op for op in code["before_wait"] if op.startswith(("STG", "ATOMG", "RED"))]


def test_older_devices_get_no_dependency_control():
    for code in compiled(80, OFF).values():
        assert "ACQBULK" not in code["after_wait"]
        assert "PREEXIT" not in code["after_wait"]
