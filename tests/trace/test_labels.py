import pytest

from memfloor.errors import UsageError
from memfloor.spec import Workload, load_model
from memfloor.trace.labels import label_by_modules, label_by_names, label_by_plan
from memfloor.trace.steps import Kernel

SPEC, WORKLOAD = load_model("qwen2.5-7b"), Workload.of(2048)


def kernel(name="k", ops=(), scope="", seconds=1e-6):
    return Kernel(name=name, start=0.0, seconds=seconds, launch=0.0, ops=tuple(ops), scope=scope)


@pytest.mark.parametrize(
    ("ops", "scope", "role"),
    [
        (("aten::linear", "aten::addmm"), "model.layers.0.self_attn.q_proj", "weights"),
        (("aten::linear", "aten::mm"), "lm_head", "weights"),
        (("aten::add",), "model.layers.0.self_attn.q_proj", "elementwise"),
        (("aten::bmm",), "model.rotary_emb", "elementwise"),
        (("aten::scaled_dot_product_attention", "aten::mm"), "model.layers.0.self_attn", "attention"),
        (("aten::_scaled_dot_product_flash_attention",), "model.layers.0.self_attn", "attention"),
        (("aten::cat",), "layers.3.cache.update", "cache"),
        (("aten::cat",), "model.layers.0.self_attn", "elementwise"),
        (("aten::clone", "aten::copy_"), "model.layers.0.self_attn", "cache"),
        (("aten::argmax",), "", "sampling"),
        ((), "", "elementwise"),
    ],
)
def test_operator_and_module_give_the_role(ops, scope, role):
    (label,) = label_by_modules([kernel()], [kernel(ops=ops, scope=scope)], SPEC, WORKLOAD)
    assert label.role == role


@pytest.mark.parametrize(
    ("ops", "scope", "role"),
    [
        (("aten::linear", "aten::_weight_int8pack_mm"), "model.layers.0.mlp.up_proj", "weights"),
        (("aten::_weight_int4pack_mm_for_cpu",), "model.layers.0.mlp.up_proj", "weights"),
        (("torchao::int4mm_packed_weight_cpu",), "model.layers.0.mlp.up_proj", "weights"),
        (("bitsandbytes::gemv_4bit",), "model.layers.0.mlp.up_proj", "weights"),
        (("gptqmodel::gptq_marlin_gemm",), "model.layers.0.mlp.up_proj", "weights"),
        (("gptqmodel_exllamav3::bc_linear_exl3_run",), "model.layers.0.mlp.up_proj", "weights"),
        (("gptqmodel_exllamav3::reconstruct",), "model.layers.0.mlp.up_proj", "dequantization"),
        (("bitsandbytes::dequantize_4bit", "aten::mul"), "model.layers.0.mlp.up_proj", "dequantization"),
        # All of a product may lie in one operator; what it widens before it multiplies is no product.
        (("aten::linear", "aten::mm"), "model.layers.0.mlp.up_proj", "weights"),
        (("aten::linear", "aten::copy_"), "model.layers.0.mlp.up_proj", "dequantization"),
        (("aten::mul",), "model.layers.0.mlp.up_proj", "dequantization"),
        # The head is not quantised.
        (("aten::mul",), "lm_head", "elementwise"),
        (("aten::mm",), "lm_head", "weights"),
        (("aten::mul",), "model.layers.0.mlp", "elementwise"),
    ],
)
def test_what_serves_a_quantised_matrix_and_does_not_multiply_is_dequantisation(ops, scope, role):
    workload = Workload.of(2048, weights="int8")
    (label,) = label_by_modules([kernel()], [kernel(ops=ops, scope=scope)], SPEC, workload)
    assert label.role == role


def test_the_longest_of_the_kernels_that_share_a_matrix_has_its_bytes():
    scope = "model.layers.5.mlp.down_proj"
    ops = ("aten::linear", "aten::mm")
    taken = [kernel("product", seconds=3e-5), kernel("reduce", seconds=2e-6)]
    labels = label_by_modules(taken, [kernel(k.name, ops, scope) for k in taken], SPEC, WORKLOAD)
    assert [label.read_bytes for label in labels] == [2 * 3584 * 18944, 0]
    assert {label.layer for label in labels} == {5}


def test_a_variant_of_a_kernel_is_no_other_path_and_another_kernel_is():
    ours = [kernel("cat<1>"), *[kernel("add")] * 30]
    label_by_modules(ours, [kernel("cat<2>"), *[kernel("add")] * 30], SPEC, WORKLOAD)
    label_by_modules(ours, [kernel("concat"), *[kernel("add")] * 30], SPEC, WORKLOAD)
    with pytest.raises(UsageError, match="2 kernels differ"):
        label_by_modules(ours, [*[kernel("concat")] * 2, *[kernel("add")] * 29], SPEC, WORKLOAD)
    with pytest.raises(UsageError, match="31 kernels a step, the one with modules 2"):
        label_by_modules(ours, ours[:2], SPEC, WORKLOAD)


def test_calls_of_a_plan_give_layers_and_bytes():
    spec = SPEC.model_copy(update={"num_hidden_layers": 2})
    ops = ["qkv", "attention", "combine", "projection", "gate_up", "projection"] * 2 + ["head", "sample"]
    labels = label_by_plan(len(ops), ops, list(range(len(ops))), spec, WORKLOAD)
    assert [label.layer for label in labels] == [0] * 6 + [1] * 6 + [None] * 2
    assert [label.role for label in labels[:4]] == ["weights", "attention", "attention", "weights"]
    assert labels[-1].role == "sampling"
    # Keys and values of 2048 tokens, 4 heads of 128, two bytes.
    assert labels[1].read_bytes == 2 * 2048 * 4 * 128 * 2
    assert labels[3].read_bytes == 3
    with pytest.raises(UsageError, match="14 calls and the trace 13 kernels"):
        label_by_plan(13, ops, [0] * 14, spec, WORKLOAD)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("nvjet_sm90_tst_64x8", "weights"),
        ("void cublasLt::splitKreduce_kernel<32>", "weights"),
        ("cudnn_generated_fort_native_sdpa_sm80", "attention"),
        ("triton_red_fused_mean_3", "elementwise"),
        ("triton_red_fused_argmax_9", "sampling"),
    ],
)
def test_a_kernels_own_name_gives_a_role_and_no_bytes(name, role):
    (label,) = label_by_names([kernel(name)])
    assert (label.role, label.read_bytes, label.layer) == (role, 0, None)
