import json
import sys

import pytest
import torch

from memfloor.errors import UsageError
from memfloor.floor import projections, step_traffic
from memfloor.runtimes import DecodeRequest, bitsandbytes, find_runtime, library
from memfloor.runtimes.hf_compile import HfCompile
from memfloor.runtimes.hf_quantized import HfQuantized, path_taken, projection_names
from memfloor.spec import weight_format

SHAPE = {"hidden_size": 128, "intermediate_size": 256}
BF16_ROUNDING = 2.0**-8
# Forty operations in a row, each rounded by 2**-9 of its result; such errors add up as their root.
STEP_ROUNDING = 40**0.5 * 2.0**-9
# Half the widest gap between two values of NF4, which are in units of a block's largest weight.
NF4_HALF_GAP = (1 - 0.6961928) / 2
# Those that run on every CPU; bitsandbytes' NF4 has two layouts.
PATHS = [
    ("bitsandbytes", "nf4"),
    ("bitsandbytes", "nf4-g64"),
    ("bitsandbytes", "int8"),
    ("torchao", "int8"),
    ("torchao", "int4-g128"),
    ("torchao", "fp8"),
    ("hqq", "int4-g64"),
    ("hqq", "int8-g64"),
]
each_path = pytest.mark.parametrize(("runtime", "weights"), PATHS)
QUANTIZED = ("bitsandbytes", "torchao", "torchao-compile", "hqq")
each_runtime = pytest.mark.parametrize("runtime", QUANTIZED)
OWN, UNPACKED = "own product: ", "unpacked: "
TAKEN = {
    ("bitsandbytes", "nf4"): UNPACKED + "aten::linear x14, aten::mm x1, bitsandbytes::dequantize_4bit x14",
    ("bitsandbytes", "nf4-g64"): OWN + "bitsandbytes::gemv_4bit x14",
    # It needs AVX512; elsewhere the library turns both sides into float32 first.
    ("bitsandbytes", "int8"): OWN if torch.backends.cpu.get_cpu_capability() == "AVX512" else UNPACKED,
    ("torchao", "int8"): UNPACKED + "aten::mm x15",
    ("torchao", "int4-g128"): OWN + "aten::_weight_int4pack_mm_for_cpu x14",
    ("torchao", "fp8"): UNPACKED + "aten::mm x15",
    ("hqq", "int4-g64"): UNPACKED + "aten::mm x15",
    ("hqq", "int8-g64"): UNPACKED + "aten::mm x15",
}


@pytest.fixture
def asked(request_for, tiny):
    """Return a function that makes a request for quantised weights with head and cache in bf16."""

    def make(runtime, weights, head="bf16", kv="bf16", spec=None, **request):
        made = request_for(runtime, spec=spec or tiny("qwen2", **SHAPE), weights="bf16", **request)
        formats = {"weights": weights, "head": head, "kv": kv}
        cell = made.cell.model_copy(update={"workload": made.cell.workload.model_copy(update=formats)})
        return DecodeRequest(cell, made.start_len, made.max_steps, made.seed)

    return make


@pytest.fixture
def ready(asked, comparator, monkeypatch):
    """Return a function that prepares such a request; bitsandbytes' NF4 of other processors runs on all."""

    def prepare(runtime, weights, **request):
        comparator(runtime)
        if weights == "nf4":
            from bitsandbytes.nn import modules

            monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
            monkeypatch.setattr(bitsandbytes, "_packs", lambda: False)
        made = asked(runtime, weights, **request)
        reason = find_runtime(runtime).unavailable_reason(made.cell)
        if reason is not None and weights == "nf4-g64":
            pytest.skip(reason)
        assert reason is None
        system = find_runtime(runtime)(made)
        system.prepare()
        return system

    return prepare


def logits_of(system):
    with torch.no_grad():
        return system.forward().float()


def dequantised(layer, columns):
    """Return what a layer multiplies by, [N, K], as it tells of the unit vectors."""
    bias, layer.bias = layer.bias, None
    with torch.no_grad():
        products = layer(torch.eye(columns, dtype=torch.bfloat16)[None])
    layer.bias = bias
    return products[0].T.float()


def groups_of(weight, size):
    return weight.reshape(-1, size or weight.shape[1])


def error_bound(weights, source):
    """Return how far each weight may be off, [N, K], by the format's definition and by bf16 rounding."""
    group = groups_of(source, weight_format(weights).group_size)
    largest, spread = group.abs().amax(1, keepdim=True), group.amax(1, keepdim=True) - group.amin(1, keepdim=True)
    rounding = largest * BF16_ROUNDING
    if weights.startswith("nf4"):
        # 64 steps of a scale's own 8 bits span 0.9 of the largest difference from the mean; where it is bf16, less.
        scale = (largest - largest.mean()).abs().max() * 0.9 / 128
        bound = largest * NF4_HALF_GAP + scale + rounding
    elif weights == "fp8":
        # Three bits behind the point, and steps of 2**-9 below the smallest normal number; 448 is the largest.
        bound = group.abs() * 2.0**-4 + largest / 448 * 2.0**-10 + rounding
    elif weights.startswith("int4"):
        # Codes are found in bf16, by three roundings of numbers up to 15.
        bound = spread / 15 * (0.5 + 3 * 15 * 2.0**-9) + 2 * rounding
    else:
        bound = largest / 127 / 2 + rounding
    return bound.expand_as(group).reshape(source.shape)


@pytest.mark.comparators
@each_path
def test_each_layer_holds_its_own_weights_as_exactly_as_the_format_can(ready, asked, runtime, weights):
    system = ready(runtime, weights)
    model = find_runtime("hf-eager")(asked("hf-eager", "bf16")).make_model()
    for name in projection_names(model):
        source = model.get_submodule(name).weight.detach().float()
        error = (dequantised(system.model.get_submodule(name), source.shape[1]) - source).abs()
        if runtime == "hqq":
            # It moves zeros for a smaller mean error than that of rounding both weight and zero, with no bound on one.
            levels = 2 ** weight_format(weights).bits - 1
            spread = groups_of(source, 64).amax(1) - groups_of(source, 64).amin(1)
            assert error.mean() <= spread.mean() / levels + source.abs().max() * BF16_ROUNDING, name
        else:
            assert (error <= error_bound(weights, source)).all(), name
        assert error.max() > 0


@pytest.mark.comparators
@each_path
def test_logits_are_those_of_the_weights_that_each_layer_holds(ready, asked, tiny, runtime, weights):
    spec = tiny("qwen2", tie_word_embeddings=True, **SHAPE)
    system = ready(runtime, weights, spec=spec, batch=2)
    plain = find_runtime("hf-eager")(asked("hf-eager", "bf16", spec=spec, batch=2))
    plain.prepare()
    before = logits_of(plain)
    plain.fill, plain.cache, plain.token = None, system.cache, system.token.clone()
    for name in projection_names(plain.model):
        held = dequantised(system.model.get_submodule(name), plain.model.get_submodule(name).in_features)
        plain.model.get_submodule(name).weight.data.copy_(held)
    found = logits_of(system)
    system.cache.crop(-1)
    expected = logits_of(plain)
    # int8 activations round by a 254th of the largest of 256 numbers, three times their size, in fourteen projections.
    rounding = STEP_ROUNDING + (14**0.5 * 3 / 254 if (runtime, weights) == ("bitsandbytes", "int8") else 0)
    assert (found - expected).abs().max() <= 2 * rounding * expected.abs().max()
    assert not torch.equal(before, expected)
    assert system.model.get_output_embeddings().weight is system.model.get_input_embeddings().weight


@pytest.mark.comparators
@each_path
def test_every_matrix_holds_the_bytes_that_the_floor_counts(ready, tiny, runtime, weights):
    system = ready(runtime, weights, spec=tiny("qwen3", **SHAPE))
    cell, total = system.request.cell, 0
    for name in projection_names(system.model):
        shape = projections(cell.spec)[name.rpartition(".")[2]]
        held = sum(tensor.nbytes for tensor in system.quantized_tensors(system.model.get_submodule(name)))
        assert held == weight_format(weights).weight_bytes(*shape) + weight_format(weights).scales_bytes(*shape), name
        total += held
    traffic = step_traffic(cell.spec, cell.workload)
    # The head is bf16 and has no scales.
    assert total == traffic.attention_weights + traffic.mlp_weights + traffic.scales


@pytest.mark.comparators
def test_what_the_floor_leaves_out_of_nf4_are_tables_and_offsets(ready):
    system = ready("bitsandbytes", "nf4")
    for name in projection_names(system.model):
        state = system.model.get_submodule(name).weight.quant_state
        left_out = (state.code, state.state2.code, state.offset)
        assert [tensor.nbytes for tensor in left_out] == [16 * 4, 256 * 4, 4]


@pytest.mark.comparators
@each_path
def test_steps_give_the_same_tokens_each_time_by_a_path_that_is_told(ready, runtime, weights):
    whole, halves = (ready(runtime, weights, batch=2, max_steps=6) for _ in range(2))
    first, second = halves.outputs(2), halves.outputs(3)
    found = whole.outputs(5)
    assert found.tokens == first.tokens + second.tokens
    assert found.logits_sha256 == second.logits_sha256
    assert {len(tokens) for tokens in found.tokens} == {2}
    facts = whole.observed_path().facts
    assert facts["path"].startswith(TAKEN[runtime, weights]), facts["path"]
    assert facts["cache_class"] == "DynamicCache"


@pytest.mark.comparators
@each_path
def test_a_checkpoint_is_quantised_in_place(ready, tiny, checkpoint, runtime, weights):
    spec = tiny("llama", **SHAPE)
    system = ready(runtime, weights, spec=spec, weights_from=str(checkpoint(spec)), prefill=True)
    other = ready(runtime, weights, spec=spec, prefill=True)
    assert torch.isfinite(logits_of(system)).all()
    assert not torch.equal(logits_of(system), logits_of(other))


@pytest.mark.comparators
def test_other_bytes_than_the_formats_are_refused(ready, monkeypatch):
    kind = find_runtime("torchao")
    monkeypatch.setattr(kind, "quantized_tensors", lambda self, layer: [torch.zeros(1)])
    with pytest.raises(UsageError, match=r"torchao holds 56 bytes of projections, where int8 says \d+: this version"):
        ready("torchao", "int8")


@pytest.mark.comparators
@pytest.mark.parametrize("bits", [4, 8])
def test_a_checkpoint_that_bitsandbytes_has_quantised_decodes_as_it_was_saved(ready, asked, tiny, tmp_path, bits):
    system = ready("bitsandbytes", "nf4-g64" if bits == 4 else "int8", spec=tiny("llama", **SHAPE))
    source, stored = tmp_path / "source", tmp_path / "stored"
    plain = find_runtime("hf-eager")(asked("hf-eager", "bf16", spec=tiny("llama", **SHAPE)))
    plain.make_model().save_pretrained(source)
    save_quantised(source, stored, bits)
    again = ready(
        "bitsandbytes", system.request.cell.workload.weights, spec=tiny("llama", **SHAPE), weights_from=str(stored)
    )
    if bits == 8:
        assert torch.equal(logits_of(again), logits_of(system))
    else:
        # It was saved with scales of 8 bits and their mean as an offset, and these are read back as bf16.
        torch.testing.assert_close(logits_of(again), logits_of(system), rtol=0.05, atol=0.1)
    cell = again.request.cell
    refused = find_runtime("hf-eager").unavailable_reason(
        cell.model_copy(update={"workload": cell.workload.model_copy(update={"weights": "bf16"})})
    )
    assert refused == f"{stored} is quantised by bitsandbytes; hf-eager cannot run it"


def save_quantised(source, stored, bits):
    """Save a checkpoint as a user of transformers quantises it."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    config = BitsAndBytesConfig(**(four if bits == 4 else {"load_in_8bit": True}))
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, device_map={"": "cpu"}, dtype=torch.bfloat16
    )
    model.save_pretrained(stored)


@pytest.mark.parametrize(("weights", "asked_for"), [("nf4", "int8"), ("fp4", "nf4-g64")])
def test_a_checkpoint_of_another_format_is_refused(asked, tmp_path, weights, asked_for):
    config = {"quantization_config": {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": weights}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    cell = asked("bitsandbytes", asked_for, weights_from=str(tmp_path)).cell
    reason = find_runtime("bitsandbytes").refused_checkpoint(cell)
    assert reason == f"{tmp_path} holds weights {weights}, not {asked_for.partition('-')[0]}"


@pytest.mark.comparators
@pytest.mark.filterwarnings("ignore:.*_stable_hash_for_caching")
@pytest.mark.skipif(HfCompile.unavailable_reason() is not None, reason=str(HfCompile.unavailable_reason()))
def test_the_compiled_step_decodes_what_the_eager_one_does_with_products_of_int8(ready, monkeypatch):
    import torch._dynamo
    from torch._dynamo.utils import counters
    from torch._inductor import config
    from torch._inductor.codecache import PyCodeCache

    torch._dynamo.reset()
    PyCodeCache.cache_clear()
    counters.clear()
    # torchao sets what it recommends for the whole process.
    with config.patch(coordinate_descent_tuning=config.coordinate_descent_tuning):
        compiled, eager = ready("torchao-compile", "int8"), ready("torchao", "int8")
        tokens = [step[0] for step in compiled.outputs(5).tokens]
        facts = compiled.observed_path().facts
    for token in tokens:
        # Fused, a step rounds elsewhere: the token that it chose is the most likely one, or as likely up to rounding.
        logits = logits_of(eager).flatten()
        assert logits.max() - logits[token] <= 2 * STEP_ROUNDING * logits.abs().max()
        eager.token = torch.tensor([[token]])
    assert facts["path"] == "own product: extern_kernels._weight_int8pack_mm x14, 14 projections"
    assert facts["cache_class"] == "StaticCache"
    assert (facts["graphs"], facts["graph_breaks"]) == ("1", "0")


@each_runtime
def test_formats_that_a_library_lacks_are_refused_with_those_it_has(asked, runtime):
    kind = find_runtime(runtime)
    known = ", ".join(kind.formats)
    assert kind.refused_formats(asked(runtime, "int8-g32").cell) == f"{runtime} runs weights {known}, not int8-g32"
    weights = next(name for name, devices in kind.formats.items() if "cpu" in devices)
    assert kind.refused_formats(asked(runtime, weights).cell) is None
    head = kind.refused_formats(asked(runtime, weights, head=weights).cell)
    assert head == f"{runtime} keeps the head in bf16, not {weights}; --head bf16"
    cache = kind.refused_formats(asked(runtime, weights, kv="int8").cell)
    assert cache == f"{runtime} keeps the KV cache in the head's type bf16, not int8; --kv bf16"


@pytest.mark.parametrize(
    ("runtime", "weights", "columns"),
    [("torchao", "int4-g128", 192), ("hqq", "int8-g64", 96), ("bitsandbytes", "nf4", 96)],
)
def test_a_group_that_does_not_divide_the_columns_is_refused(asked, tiny, runtime, weights, columns):
    cell = asked(runtime, weights, spec=tiny("qwen2", hidden_size=128, intermediate_size=columns)).cell
    group = weight_format(weights).group_size
    reason = find_runtime(runtime).refused_formats(cell)
    assert reason == f"groups of {group} weights, as in {weights}, do not divide the {columns} columns of down_proj"


def test_a_layout_of_another_device_is_refused(asked):
    reason = find_runtime("torchao").refused_formats(asked("torchao", "int4-g128-k1024").cell)
    assert reason == "torchao runs weights int4-g128-k1024 on cuda, not on cpu"


def test_a_threshold_belongs_to_int8(asked):
    cell = asked("bitsandbytes", "nf4", options={"threshold": "6"}).cell
    assert find_runtime("bitsandbytes").refused_formats(cell) == "threshold belongs to weights int8, not to nf4"


@each_runtime
def test_a_missing_library_is_a_reason_with_its_install_line(monkeypatch, runtime):
    name = find_runtime(runtime).library.name
    monkeypatch.setitem(sys.modules, name, None)
    reason = find_runtime(runtime).unavailable_reason()
    assert reason == f"{name} is not installed; pip install 'memfloor[{name}]'"


@pytest.mark.parametrize(
    ("found", "known"), [("0.17.9", False), ("0.18.0", True), ("0.18.1+cpu", True), ("0.19.0", False)]
)
def test_a_version_that_was_not_tried_is_refused(monkeypatch, found, known):
    tried = library.Library("json", extra="torchao", at_least=(0, 18), below=(0, 19), package="torchao")
    monkeypatch.setattr(library, "version", lambda name: found)
    refused = f"json {found} was not tried; pip install 'memfloor[torchao]', which needs torchao>=0.18,<0.19"
    assert tried.reason() == (None if known else refused)


def test_a_library_that_does_not_load_says_what_it_said(monkeypatch):
    def fail(name):
        raise ImportError("undefined symbol: _ZN5torch\nfrom somewhere")

    monkeypatch.setattr(library, "import_module", fail)
    reason = find_runtime("torchao").library.reason()
    assert reason == "torchao does not load (undefined symbol: _ZN5torch); pip install 'memfloor[torchao]'"


def test_memory_must_hold_the_weights_as_they_are_loaded(asked):
    system = find_runtime("torchao")(asked("torchao", "int8"))
    assert system.loaded_cell().workload == system.request.cell.workload.model_copy(update={"weights": "bf16"})


def test_padded_columns_are_counted():
    padded, plain = weight_format("int4-g128-k1024"), weight_format("int4-g128")
    # 3584 columns become 4096: 2048 bytes of codes and 32 groups of 4 bytes a row.
    assert (padded.weight_bytes(3, 3584), padded.scales_bytes(3, 3584)) == (3 * 2048, 3 * 32 * 4)
    assert (padded.weight_bytes(3, 2048), padded.scales_bytes(3, 2048)) == (
        plain.weight_bytes(3, 2048),
        plain.scales_bytes(3, 2048),
    )


@pytest.mark.parametrize(
    ("own", "unpacks", "products", "path"),
    [
        ({"q::mm": 14}, {}, {"aten::mm": 1}, "own product: q::mm x14, 14 projections"),
        ({}, {}, {"aten::mm": 1}, "unseen: torch's dispatcher shows no product of the 14 projections"),
        ({"q::mm": 14}, {}, {"aten::mm": 15}, "unpacked: aten::mm x15, 14 projections and the head"),
        (
            {"q::mm": 14},
            {"q::deq": 14},
            {"aten::mm": 1},
            "unpacked: aten::mm x1, q::deq x14, 14 projections and the head",
        ),
        ({"q::mm": 6}, {}, {"aten::mm": 9}, "mixed: aten::mm x9, q::mm x6, 14 projections and the head"),
    ],
)
def test_a_path_is_told_by_the_operators_of_a_step(own, unpacks, products, path):
    assert path_taken(14, own, unpacks, products) == path


def test_every_quantised_runtime_is_tested_here():
    from memfloor.runtimes import REGISTRY

    here = {name for name, kind in REGISTRY.items() if issubclass(kind, HfQuantized)}
    assert set(QUANTIZED) <= here
