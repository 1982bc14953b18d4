"""What the engine on a CPU refuses, with its reason, before anything is loaded; and what it builds."""

import os

import numpy as np
import pytest

from memfloor.engine.cpu.backend import build, cell_reason
from memfloor.engine.cpu.model import BoundPlan, NativeCall
from memfloor.engine.cpu.native import native
from memfloor.engine.decode import Decoder
from memfloor.engine.plan import LAUNCHES
from memfloor.errors import UsageError
from memfloor.record import Cell
from memfloor.runtimes.engine import Engine
from memfloor.runtimes.protocol import DecodeRequest
from memfloor.spec import Workload, load_model, model_names


@pytest.fixture
def cell(tiny):
    """Return a function that makes a cell of a tiny model, or of another spec."""

    def make(spec=None, batch=1, weights="bf16", kv="bf16", head=None, **changes):
        workload = Workload.of(20, batch, weights, kv, head)
        return Cell(spec=spec or tiny(), workload=workload, runtime="engine", device="cpu", **changes)

    return make


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4-g128", "int4-g32"])
@pytest.mark.parametrize("name", model_names())
def test_every_catalogued_model_has_a_path(cell, name, weights):
    assert cell_reason(cell(load_model(name), weights=weights)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 2}, "batch 2 is not 1"),
        ({"weights": "nf4"}, "weights nf4 are not bf16, int8, int4-g128, int4-g32"),
        ({"head": "fp16"}, "head fp16 is not bf16, int8, int4-g128, int4-g32"),
        ({"kv": "fp8"}, "KV format fp8 is not bf16 or int8"),
    ],
)
def test_a_cell_beyond_the_engine_is_refused_with_its_reason(cell, changes, reason):
    assert cell_reason(cell(**changes)) == reason


@pytest.mark.parametrize(
    ("shape", "formats", "reason"),
    [
        ({"head_dim": 24}, {}, "head_dim 24 is not a multiple of 16"),
        ({"intermediate_size": 38}, {}, "intermediate_size 38 is not a multiple of 4, as bf16 needs"),
        (
            {"intermediate_size": 320},
            {"weights": "int4-g32"},
            "intermediate_size 320 is not a multiple of 128, as int4-g32 needs",
        ),
        ({"hidden_size": 192}, {"head": "int4-g128"}, "hidden_size 192 is not a multiple of 128, as int4-g128 needs"),
        (
            {"num_attention_heads": 4},
            {"weights": "int4-g128"},
            "num_attention_heads * head_dim 192 is not a multiple of 128, as int4-g128 needs",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            {},
            "rope type yarn is not supported; supported: default, linear, llama3",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, {}, "rope type linear lacks factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": "one"}},
            {},
            "rope type llama3 lacks low_freq_factor, high_freq_factor, original_max_position_embeddings",
        ),
    ],
)
def test_a_shape_beyond_the_engine_is_refused_with_its_reason(cell, tiny, shape, formats, reason):
    assert cell_reason(cell(tiny(**shape), **formats)) == reason


def test_a_quantised_head_alone_wants_nothing_of_the_other_widths(cell, tiny):
    assert cell_reason(cell(tiny(intermediate_size=36, num_attention_heads=4), head="int4-g32")) is None


def test_an_instruction_set_of_other_processors_is_refused_with_those_of_this_one(cell):
    usable = native().usable_isas()
    other = "avx2" if "neon" in usable else "neon"
    assert cell_reason(cell(options={"isa": other})) == f"isa={other} is not usable here; usable: {', '.join(usable)}"
    assert all(cell_reason(cell(options={"isa": isa})) is None for isa in usable)


def test_an_option_of_another_device_is_refused(cell):
    assert Engine.unavailable_reason(cell(options={"pdl": "off"})) == "option pdl is not for device cpu"
    assert Engine.unavailable_reason(cell(options={"launch": "eager"})) is None


def test_more_threads_than_processors_are_refused(cell):
    with pytest.raises(UsageError, match="threads must be 1 to"):
        build(cell(threads=4096), 3, 20, 0, print)


def test_a_context_beyond_the_model_is_refused_before_anything_is_loaded(cell):
    with pytest.raises(UsageError, match="context 257 is beyond tiny-qwen2's 256 positions"):
        Engine(DecodeRequest(cell(), 250, 7)).prepare()


def test_calls_of_several_steps_offer_no_kernel_by_kernel_trace(cell):
    for steps, traced in (("1", True), ("2", False)):
        engine = Engine(DecodeRequest(cell(threads=1, options={"steps": steps}), start_len=5, max_steps=4, seed=3))
        engine.prepare()
        assert (engine.traced_parts() is not None) == traced


@pytest.mark.parametrize("launch", ["graph", "eager"])
def test_a_prepared_engine_decodes_and_says_how(cell, launch):
    asked = cell(weights="int8", kv="int8", threads=1, options={"launch": launch, "isa": "portable"})
    engine = Engine(DecodeRequest(asked, start_len=5, max_steps=4, seed=3))
    engine.prepare()
    for _ in range(3):
        engine.step()
    path = engine.observed_path()
    assert path.operators["attention"] == 3
    assert path.facts == {
        "launch": launch,
        "max_len": "9",
        "isa": "portable",
        "pool_threads": "1",
        "residual_dtype": "float32",
    }


def test_the_seed_decides_weights_and_cache(cell):
    def tokens(seed):
        decoder = Decoder(build(cell(threads=1), 9, 20, seed, lambda text: None), "graph", 11)
        decoder.start(3, 9)
        decoder.step()
        return decoder.tokens(9, 11)

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


@pytest.mark.parametrize("weights", ["bf16", "int4-g32"])
def test_a_prefilled_cache_is_that_of_the_same_tokens_decoded(tiny, cpu_model, weights):
    prompt = [7, 300, 0, 21, 7, 90]
    model, stepped = (cpu_model(tiny("qwen3"), weights=weights, threads=2) for _ in range(2))
    model.prefill(prompt)
    decoder = Decoder(stepped, "eager")
    for position, token in enumerate(prompt):
        decoder.start(token, position)
        decoder.step()
    for one in (model, stepped):
        last = Decoder(one, "graph", 5)
        last.start(33, len(prompt))
        last.step()
    assert model.ring()[6:11] == stepped.ring()[6:11]
    assert np.array_equal(model.native_step.logits, stepped.native_step.logits)


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_decode_gives_its_thread_back_the_processors_it_had(cell, launch):
    cpus = os.sched_getaffinity(0)
    decoder = Decoder(build(cell(), 3, 20, 0, lambda text: None), launch)
    decoder.start(1, 3)
    decoder.step()
    assert os.sched_getaffinity(0) == cpus


def test_a_step_is_bound_to_the_first_processor_while_it_runs():
    cpus, seen = os.sched_getaffinity(0), []
    note = NativeCall("note", lambda: seen.append(os.sched_getaffinity(0)), 0)
    BoundPlan((note, note), min(cpus)).issue()
    assert seen == [{min(cpus)}] * 2
    assert os.sched_getaffinity(0) == cpus


def test_a_step_that_fails_gives_its_processors_back_too(cell):
    cpus = os.sched_getaffinity(0)
    replayed = build(cell(), 3, 20, 0, lambda text: None).capture(21)
    with pytest.raises(IndexError, match="no slot left"):
        replayed.issue()
    assert os.sched_getaffinity(0) == cpus
