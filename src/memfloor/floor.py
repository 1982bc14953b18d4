"""The analytic floor: the bytes one decode step must move, by cause, and the time they take at a bandwidth.

Three conventions answer "which bytes": `paper` counts every parameter, as the study does; `streamed` counts
what a step really reads; `blocks` counts the decoder blocks alone, as the study's Figure 2 does.
Source: arXiv 2605.30571, section 3.4.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from memfloor.errors import UsageError
from memfloor.spec import ModelSpec, WeightFormat, Workload, check_context, kv_format, weight_format

CONVENTIONS = ("streamed", "paper", "blocks")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class StepTraffic:
    """Hold the bytes of one decode step, by cause.

    Activations are left out: at batch 1 they stay in cache.
    """

    attention_weights: int
    mlp_weights: int
    head: int
    embedding: int
    norms_and_biases: int
    scales: int
    kv_read: int
    kv_write: int

    @property
    def total_bytes(self) -> int:
        """Sum all causes."""
        return sum(self.by_cause().values())

    def by_cause(self) -> dict[str, int]:
        """Return the bytes keyed by cause, in the order of the fields."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def projections(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Return the [N, K] shape of each weight matrix of one decoder block, by its Hugging Face name."""
    query = spec.num_attention_heads * spec.head_dim
    kv = spec.num_key_value_heads * spec.head_dim
    return {
        "q_proj": (query, spec.hidden_size),
        "k_proj": (kv, spec.hidden_size),
        "v_proj": (kv, spec.hidden_size),
        "o_proj": (spec.hidden_size, query),
        "gate_proj": (spec.intermediate_size, spec.hidden_size),
        "up_proj": (spec.intermediate_size, spec.hidden_size),
        "down_proj": (spec.hidden_size, spec.intermediate_size),
    }


def matrix_format(spec: ModelSpec, workload: Workload, name: str, layer: int = 0) -> WeightFormat:
    """Return the format that one matrix is kept in, by its Hugging Face name: one of `projections`, or `lm_head`."""
    if name == "lm_head":
        return weight_format(workload.head).of_matrix(name, spec.hidden_size)
    columns = projections(spec)[name][1]
    return weight_format(workload.weights).of_matrix(name, columns, layer, spec.num_hidden_layers)


def parameter_count(spec: ModelSpec) -> int:
    """Return the number of distinct parameters; a tied head is counted once."""
    block = sum(rows * columns for rows, columns in projections(spec).values()) + _vectors_per_block(spec)
    tables = 1 if spec.tie_word_embeddings else 2
    return spec.num_hidden_layers * block + tables * spec.vocab_size * spec.hidden_size + spec.hidden_size


def kv_bytes_per_token(spec: ModelSpec, kv: str = "bf16") -> int:
    """Return the bytes that one token adds to the KV cache over all layers."""
    return 2 * spec.num_hidden_layers * spec.num_key_value_heads * kv_format(kv).vector_bytes(spec.head_dim)


# A report asks it of each run, and thousands of runs are of a few hundred workloads.
@lru_cache(maxsize=4096)
def step_traffic(spec: ModelSpec, workload: Workload, convention: str = "streamed") -> StepTraffic:
    """Return the bytes one decode step moves.

    Args:
        spec: The model.
        workload: Context, batch and formats.
        convention: `streamed` (one embedding row per sequence, the head once, KV read and the KV write),
            `paper` (all parameters and the KV read) or `blocks` (decoder blocks and the KV read).

    Raises:
        UsageError: The convention is unknown or the context is beyond the model's.
    """
    if convention not in CONVENTIONS:
        raise UsageError.unknown("convention", convention, CONVENTIONS)
    check_context(spec, workload.context_len)
    streamed = _streamed(spec, workload)
    if convention == "paper":
        table = _vector_bytes(workload, spec.vocab_size * spec.hidden_size)
        # A tied table is one tensor: it is read whole as the head and not a second time.
        return replace(streamed, embedding=0 if spec.tie_word_embeddings else table, kv_write=0)
    if convention == "blocks":
        final_norm = _vector_bytes(workload, spec.hidden_size)
        head = matrix_format(spec, workload, "lm_head")
        head_scales = head.scales_bytes(spec.vocab_size, spec.hidden_size)
        return replace(
            streamed,
            head=0,
            embedding=0,
            kv_write=0,
            norms_and_biases=streamed.norms_and_biases - final_norm,
            scales=streamed.scales - head_scales,
        )
    return streamed


def decode_bytes(spec: ModelSpec, workload: Workload, steps: int) -> int:
    """Return the bytes that so many decode steps, one after another, must move.

    Args:
        spec: The model.
        workload: Formats, and as context that of the first step.
        steps: Decode steps.

    Raises:
        UsageError: The last step is beyond the model's positions.
    """
    check_context(spec, workload.context_len + steps)
    deeper = (workload.model_copy(update={"context_len": workload.context_len + step}) for step in range(steps))
    return sum(_streamed(spec, at).total_bytes for at in deeper)


def prompt_bytes(spec: ModelSpec, workload: Workload) -> int:
    """Return the bytes that a prompt, the context, must move: every weight once, and its keys and values."""
    traffic = _streamed(spec, workload)
    # Of as many embedding rows as the prompt has tokens some may be one row.
    return replace(traffic, kv_read=0, kv_write=workload.context_len * traffic.kv_write).total_bytes


def prompt_flop(spec: ModelSpec, prompt_len: int) -> int:
    """Return the floating-point operations that a prompt cannot do without, each product and each sum one.

    Counted are the products with the matrices of every block, and causal attention. Of the last block a prompt needs
    the keys and values alone, and no logits.

    Args:
        spec: The model.
        prompt_len: Its tokens.
    """
    shapes = {name: rows * columns for name, (rows, columns) in projections(spec).items()}
    products = (spec.num_hidden_layers - 1) * sum(shapes.values()) + shapes["k_proj"] + shapes["v_proj"]
    windows = attention_lengths(spec, prompt_len)[:-1]
    # Each token meets itself and those before it, in a layer that slides no more than its window: QK and then V.
    pairs = sum(_causal_pairs(prompt_len, window) for window in windows)
    return 2 * prompt_len * products + 4 * pairs * spec.num_attention_heads * spec.head_dim


def _causal_pairs(tokens: int, window: int) -> int:
    return window * (window + 1) // 2 + (tokens - window) * window


def attention_traffic(spec: ModelSpec, workload: Workload) -> StepTraffic:
    """Return the bytes that the attention of all layers of one decode step moves: the KV cache is read, nothing else.

    Raises:
        UsageError: The context is beyond the model's.
    """
    check_context(spec, workload.context_len)
    read = workload.batch * _kv_read_bytes(spec, workload)
    return StepTraffic(**dict.fromkeys(StepTraffic.__dataclass_fields__, 0) | {"kv_read": read})


def attention_lengths(spec: ModelSpec, context_len: int) -> list[int]:
    """Return the cached tokens that each layer attends to, the token's own included; the last layers may slide."""
    windowed = min(context_len, spec.sliding_window or context_len)
    full = spec.num_hidden_layers - spec.num_sliding_layers
    return [context_len] * full + [windowed] * spec.num_sliding_layers


def floor_seconds(traffic: StepTraffic, bytes_per_second: float) -> float:
    """Return the time the traffic takes at a bandwidth."""
    if not bytes_per_second > 0:
        raise UsageError(f"bandwidth must be above zero, not {bytes_per_second}")
    return traffic.total_bytes / bytes_per_second


def _streamed(spec: ModelSpec, workload: Workload) -> StepTraffic:
    head = matrix_format(spec, workload, "lm_head")
    attention, mlp, scales = _block_bytes(spec, workload.weights)
    vectors = spec.num_hidden_layers * _vectors_per_block(spec) + spec.hidden_size
    return StepTraffic(
        attention_weights=attention,
        mlp_weights=mlp,
        head=head.weight_bytes(spec.vocab_size, spec.hidden_size),
        embedding=workload.batch * _vector_bytes(workload, spec.hidden_size),
        norms_and_biases=_vector_bytes(workload, vectors),
        scales=scales + head.scales_bytes(spec.vocab_size, spec.hidden_size),
        kv_read=workload.batch * _kv_read_bytes(spec, workload),
        kv_write=workload.batch * kv_bytes_per_token(spec, workload.kv),
    )


@lru_cache(maxsize=512)
def _block_bytes(spec: ModelSpec, weights: str) -> tuple[int, int, int]:
    """Return the bytes of all decoder blocks: attention weights, MLP weights, and the scales of both."""
    blocks = list(_block_matrices(spec, weight_format(weights)))
    attention = sum(form.weight_bytes(*shape) for name, form, shape in blocks if name in ATTENTION)
    mlp = sum(form.weight_bytes(*shape) for name, form, shape in blocks if name not in ATTENTION)
    return attention, mlp, sum(form.scales_bytes(*shape) for _, form, shape in blocks)


def _block_matrices(spec: ModelSpec, weights: WeightFormat) -> Iterator[tuple[str, WeightFormat, tuple[int, int]]]:
    shapes = projections(spec)
    for layer in range(spec.num_hidden_layers):
        for name, shape in shapes.items():
            yield name, weights.of_matrix(name, shape[1], layer, spec.num_hidden_layers), shape


def _vectors_per_block(spec: ModelSpec) -> int:
    # Two norms, the optional per-head norms of Q and K, and the biases.
    query = spec.num_attention_heads * spec.head_dim
    kv = spec.num_key_value_heads * spec.head_dim
    return (
        2 * spec.hidden_size
        + 2 * spec.head_dim * spec.qk_norm
        + (query + 2 * kv) * spec.qkv_bias
        + spec.hidden_size * spec.attention_output_bias
        + (2 * spec.intermediate_size + spec.hidden_size) * spec.mlp_bias
    )


def _vector_bytes(workload: Workload, count: int) -> int:
    # Embedding rows, norms and biases stay in the model's own type when the matrices are quantised.
    weights = weight_format(workload.weights)
    return count * (2 if weights.is_quantized else weights.bits // 8)


def _kv_read_bytes(spec: ModelSpec, workload: Workload) -> int:
    per_layer_token = kv_bytes_per_token(spec, workload.kv) // spec.num_hidden_layers
    return per_layer_token * sum(attention_lengths(spec, workload.context_len))
