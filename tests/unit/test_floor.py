import pytest

from memfloor.errors import UsageError
from memfloor.floor import (
    CONVENTIONS,
    floor_seconds,
    kv_bytes_per_token,
    parameter_count,
    projections,
    step_traffic,
)
from memfloor.spec import ModelSpec, Workload, check_context, load_model

QWEN_7B = load_model("qwen2.5-7b")


def test_qwen_7b_by_hand():
    """Every term of the 7B model counted from its shapes, in bf16, at context 2048."""
    traffic = step_traffic(QWEN_7B, Workload.of(2048))
    assert traffic.attention_weights == 28 * 2 * (3584 * 3584 + 512 * 3584 + 512 * 3584 + 3584 * 3584)
    assert traffic.mlp_weights == 28 * 2 * 3 * 3584 * 18944
    assert traffic.head == 2 * 152064 * 3584
    assert traffic.embedding == 2 * 3584
    assert traffic.norms_and_biases == 2 * (28 * (2 * 3584 + 3584 + 512 + 512) + 3584)
    assert traffic.scales == 0
    assert traffic.kv_read == 57_344 * 2048
    assert traffic.kv_write == 57_344


@pytest.mark.parametrize(("convention", "gigabytes"), [("paper", 15.349), ("streamed", 14.259), ("blocks", 13.169)])
def test_qwen_7b_gives_the_studys_totals(convention, gigabytes):
    assert round(step_traffic(QWEN_7B, Workload.of(2048), convention).total_bytes / 1e9, 3) == gigabytes


def test_the_paper_convention_counts_every_parameter():
    assert parameter_count(QWEN_7B) == 7_615_616_512
    total = step_traffic(QWEN_7B, Workload.of(2048), "paper").total_bytes
    assert total == 2 * 7_615_616_512 + 57_344 * 2048


def test_a_tied_table_is_counted_once_by_every_convention():
    spec = load_model("qwen2.5-0.5b")
    paper = step_traffic(spec, Workload.of(512), "paper")
    assert paper.embedding == 0
    assert paper.total_bytes == 2 * parameter_count(spec) + kv_bytes_per_token(spec) * 512


def test_int4_with_a_bf16_head_gives_the_studys_gptq_bytes():
    total = step_traffic(QWEN_7B, Workload.of(2048, weights="int4-g128")).total_bytes
    assert round(total / 1e9, 3) == pytest.approx(4.674, abs=0.001)


def test_kv_bytes_per_token_are_the_studys():
    assert kv_bytes_per_token(QWEN_7B) == 57_344
    assert kv_bytes_per_token(load_model("mistral-7b-v0.3")) == 131_072
    assert kv_bytes_per_token(load_model("llama-3.1-8b")) == 131_072
    assert kv_bytes_per_token(QWEN_7B, "int8") == 2 * 28 * 4 * (128 + 4)


def test_a_batch_shares_the_weights_and_not_the_cache():
    one, four = (step_traffic(QWEN_7B, Workload.of(2048, batch=batch)) for batch in (1, 4))
    assert four.mlp_weights == one.mlp_weights
    assert (four.kv_read, four.kv_write, four.embedding) == (4 * one.kv_read, 4 * one.kv_write, 4 * one.embedding)


def test_a_sliding_window_bounds_the_read_of_its_layers(tiny):
    spec = ModelSpec(**{**tiny.model_dump(), "sliding_window": 100, "num_sliding_layers": 1})
    per_layer = kv_bytes_per_token(spec) // 2
    assert step_traffic(spec, Workload.of(1000)).kv_read == per_layer * (1000 + 100)
    assert step_traffic(spec, Workload.of(50)).kv_read == per_layer * (50 + 50)


def test_every_optional_vector_is_counted(tiny):
    plain = parameter_count(ModelSpec(**{**tiny.model_dump(), "qkv_bias": False}))
    for field, count in (
        ("qkv_bias", 64 + 2 * 32),
        ("attention_output_bias", 64),
        ("mlp_bias", 2 * 96 + 64),
        ("qk_norm", 2 * 16),
    ):
        with_field = ModelSpec(**{**tiny.model_dump(), "qkv_bias": False, field: True})
        assert parameter_count(with_field) - plain == 2 * count


def test_blocks_leave_out_head_embedding_final_norm_and_write(tiny):
    workload = Workload.of(100, weights="int8", head="int8")
    streamed, blocks = (step_traffic(tiny, workload, name) for name in ("streamed", "blocks"))
    assert (blocks.head, blocks.embedding, blocks.kv_write) == (0, 0, 0)
    assert streamed.norms_and_biases - blocks.norms_and_biases == 2 * 64
    assert streamed.scales - blocks.scales == 100 * 4


def test_wide_models_keep_wide_vectors(tiny):
    narrow, wide = (step_traffic(tiny, Workload.of(100, weights=name)) for name in ("bf16", "fp32"))
    assert wide.norms_and_biases == 2 * narrow.norms_and_biases
    assert wide.mlp_weights == 2 * narrow.mlp_weights


def test_total_is_the_sum_of_its_causes(tiny):
    for name in CONVENTIONS:
        traffic = step_traffic(tiny, Workload.of(100), name)
        assert traffic.total_bytes == sum(traffic.by_cause().values())


def test_shapes_are_rows_by_columns():
    assert projections(QWEN_7B)["k_proj"] == (512, 3584)
    assert projections(QWEN_7B)["down_proj"] == (3584, 18944)


def test_the_h100_floor_is_the_studys():
    traffic = step_traffic(QWEN_7B, Workload.of(2048), "paper")
    assert floor_seconds(traffic, 3.35e12) == pytest.approx(4.58e-3, abs=5e-6)


def test_wrong_arguments_are_refused(tiny):
    with pytest.raises(UsageError, match="unknown convention 'all'; allowed: blocks, paper, streamed"):
        step_traffic(tiny, Workload.of(10), "all")
    with pytest.raises(UsageError, match="context 4097 is beyond tiny's 4096 positions"):
        check_context(tiny, 4097)
    with pytest.raises(UsageError, match="above zero"):
        floor_seconds(step_traffic(tiny, Workload.of(10)), 0)
