"""Write a model as a graph of OpenVINO, as optimum-intel exports it: stateful, in patterns that its plugin fuses.

transformers 5.23 has an exporter of its own. The CPU plugin of OpenVINO 2026.4 does not fuse its graphs' attention
and copies keys and values for every query head, and it takes 7 to 13 s of processor time for a model of two layers.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from memfloor.engine.rope import rope_frequencies
from memfloor.engine.tensors import TensorSource, expected_tensors, to_bf16, to_float32
from memfloor.spec import ModelSpec

if TYPE_CHECKING:
    import openvino

Array = np.ndarray[Any, np.dtype[Any]]

MASKED = float(np.finfo(np.float32).min)


def build_graph(spec: ModelSpec, dtype: str, source: TensorSource) -> "openvino.Model":
    """Return a model that takes T tokens of one sequence and keeps its keys and values in states.

    Inputs are input_ids [1, T] and position_ids [1, T], int64, and beam_idx [1], int32, which reorders the states; the
    output is logits [1, T, V]. Matrices are constants in the given type, converted to float32 where they are used: the
    plugin leaves that out and reads them as they are.

    Args:
        spec: The model.
        dtype: Type of its matrices, `bf16`, `fp16` or `fp32`.
        source: Where the numbers come from.
    """
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    graph = _Graph(spec, dtype, source)
    outputs = graph.outputs()
    model = openvino.Model(outputs, [*graph.inputs, *graph.past])
    apply_make_stateful_transformation(model, {name: name.replace("past", "present") for name in graph.past_names})
    graph.start_empty(model)
    return model


class _Graph:
    """Build the nodes of a model layer by layer."""

    def __init__(self, spec: ModelSpec, dtype: str, source: TensorSource) -> None:
        from openvino import opset13

        self.op: Any = opset13
        self.spec, self.dtype, self.source = spec, dtype, source
        self.shapes = expected_tensors(spec)
        self.ids = self._parameter("input_ids", [1, -1], np.int64)
        self.positions = self._parameter("position_ids", [1, -1], np.int64)
        self.beams = self._parameter("beam_idx", [1], np.int32)
        self.inputs = [self.ids, self.positions, self.beams]
        self.past: list[Any] = []
        self.past_names: list[str] = []
        self.present: list[Any] = []
        self.matrices: dict[str, Any] = {}
        self.cos, self.sin = self._turns()
        self.mask: Any = None

    def outputs(self) -> list[Any]:
        """Return the logits and the keys and values of every layer."""
        op, spec = self.op, self.spec
        hidden = op.gather(self._matrix("model.embed_tokens.weight"), self.ids, op.constant(0))
        for layer in range(spec.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            attended = self._attention(self._norm(hidden, f"{prefix}.input_layernorm"), layer)
            hidden = op.add(hidden, attended)
            hidden = op.add(hidden, self._mlp(self._norm(hidden, f"{prefix}.post_attention_layernorm"), prefix))
        head = "model.embed_tokens" if spec.tie_word_embeddings else "lm_head"
        logits = op.result(self._linear(self._norm(hidden, "model.norm"), head), name="logits")
        return [logits, *self.present]

    def start_empty(self, model: "openvino.Model") -> None:
        """Let the states of a model begin without a token."""
        op, spec = self.op, self.spec
        batch = op.gather(op.shape_of(self.ids), op.constant([0]), op.constant(0))
        # Not a constant zero, which the plugin would take for the fixed length of the state.
        none = op.subtract(batch, batch)
        heads, dim = op.constant([spec.num_key_value_heads]), op.constant([spec.head_dim])
        shape = op.concat([batch, heads, none, dim], 0)
        for node in model.get_ops():
            if node.get_type_name() == "ReadValue":
                node.set_arguments([op.broadcast(op.constant(np.float32(0.0)), shape)])
        model.validate_nodes_and_infer_types()

    def _attention(self, hidden: Any, layer: int) -> Any:
        op, spec, prefix = self.op, self.spec, f"model.layers.{layer}.self_attn"
        query = self._turned(self._heads(hidden, f"{prefix}.q_proj", spec.num_attention_heads))
        key = self._cached(
            self._turned(self._heads(hidden, f"{prefix}.k_proj", spec.num_key_value_heads)), f"key.{layer}"
        )
        value = self._cached(self._heads(hidden, f"{prefix}.v_proj", spec.num_key_value_heads), f"value.{layer}")
        mask = self._causal_mask(key)
        attended = op.scaled_dot_product_attention(query, self._shared(key), self._shared(value), mask, causal=False)
        joined = op.reshape(
            op.transpose(attended, op.constant([0, 2, 1, 3])), op.constant([0, 0, -1]), special_zero=True
        )
        return self._linear(joined, f"{prefix}.o_proj")

    def _mlp(self, hidden: Any, prefix: str) -> Any:
        op = self.op
        gate = op.swish(self._linear(hidden, f"{prefix}.mlp.gate_proj"))
        return self._linear(op.multiply(gate, self._linear(hidden, f"{prefix}.mlp.up_proj")), f"{prefix}.mlp.down_proj")

    def _heads(self, hidden: Any, name: str, count: int) -> Any:
        op, spec = self.op, self.spec
        shape = op.constant([0, 0, count, spec.head_dim])
        heads = op.reshape(self._linear(hidden, name), shape, special_zero=True)
        norm = name.replace("_proj", "_norm")
        if f"{norm}.weight" in self.shapes:
            heads = self._norm(heads, norm)
        return op.transpose(heads, op.constant([0, 2, 1, 3]))

    def _turned(self, heads: Any) -> Any:
        op, half = self.op, self.spec.head_dim // 2
        step, axis = op.constant([1]), op.constant([3])
        first = op.slice(heads, op.constant([0]), op.constant([half]), step, axis)
        second = op.slice(heads, op.constant([half]), op.constant([np.iinfo(np.int64).max]), step, axis)
        rotated = op.concat([op.multiply(second, op.constant(np.full((1, 1, 1, 1), -1.0, np.float32))), first], -1)
        return op.add(op.multiply(heads, self.cos), op.multiply(rotated, self.sin))

    def _turns(self) -> tuple[Any, Any]:
        op = self.op
        frequencies = op.constant(rope_frequencies(self.spec)[None, :, None])
        positions = op.convert(op.unsqueeze(self.positions, op.constant(1)), np.float32)
        angles = op.transpose(op.matmul(frequencies, positions, False, False), op.constant([0, 2, 1]))
        both = op.concat([angles, angles], -1)
        return op.unsqueeze(op.cos(both), op.constant(1)), op.unsqueeze(op.sin(both), op.constant(1))

    def _cached(self, heads: Any, name: str) -> Any:
        op, spec = self.op, self.spec
        past = self._parameter(f"past.{name}", [1, spec.num_key_value_heads, -1, spec.head_dim], np.float32)
        self.past.append(past)
        self.past_names.append(f"past.{name}")
        both = op.concat([op.gather(past, self.beams, op.constant(0)), heads], 2)
        both.output(0).get_tensor().set_names({f"present.{name}"})
        self.present.append(op.result(both, name=f"present.{name}"))
        return both

    def _shared(self, heads: Any) -> Any:
        """Let the query heads of a group see its keys or values, [1, H, S, D]."""
        op, spec = self.op, self.spec
        group = spec.num_attention_heads // spec.num_key_value_heads
        if group == 1:
            return heads
        shape = op.constant([1, 1, group, 1, 1])
        repeated = op.broadcast(op.unsqueeze(heads, op.constant(2)), shape, broadcast_spec="BIDIRECTIONAL")
        flat = op.constant([0, spec.num_attention_heads, -1, spec.head_dim])
        return op.reshape(repeated, flat, special_zero=True)

    def _causal_mask(self, key: Any) -> Any:
        """Return 0 where a position sees another and -inf elsewhere, [1, 1, T, S + T]."""
        op = self.op
        if self.mask is None:
            length = op.gather(op.shape_of(key), op.constant(2), op.constant(0))
            seen = op.range(op.constant(np.int64(0)), length, op.constant(np.int64(1)), output_type="i64")
            visible = op.less_equal(seen, op.unsqueeze(self.positions, op.constant([1, 3])))
            self.mask = op.select(visible, op.constant(np.float32(0.0)), op.constant(np.float32(MASKED)))
        return self.mask

    def _norm(self, hidden: Any, name: str) -> Any:
        op = self.op
        squares = op.reduce_mean(op.power(hidden, op.constant(np.float32(2.0))), op.constant([-1]), keep_dims=True)
        length = op.sqrt(op.add(squares, op.constant(np.float32(self.spec.rms_norm_eps))))
        scaled = op.multiply(hidden, op.divide(op.constant(np.float32(1.0)), length))
        return op.multiply(op.constant(self._vector(f"{name}.weight")), scaled)

    def _linear(self, hidden: Any, name: str) -> Any:
        op = self.op
        product = op.matmul(hidden, self._matrix(f"{name}.weight"), False, True)
        if f"{name}.bias" in self.shapes:
            product = op.add(product, op.constant(self._vector(f"{name}.bias")[None, None]))
        return product

    def _vector(self, name: str) -> Array:
        return _as_type(self.source.rows(name, 0, self.shapes[name][0]), "fp32")

    def _matrix(self, name: str) -> Any:
        # A tied table is one constant with two users.
        if name not in self.matrices:
            import openvino

            rows = self.source.rows(name, 0, self.shapes[name][0])
            kind = {"bf16": openvino.Type.bf16, "fp16": openvino.Type.f16, "fp32": openvino.Type.f32}[self.dtype]
            # A tensor with memory of its own: one over an array would not keep it alive.
            tensor = openvino.Tensor(kind, list(rows.shape))
            numbers = _as_type(rows, self.dtype)
            tensor.data.view(numbers.dtype)[...] = numbers
            constant = openvino.op.Constant(tensor)
            constant.set_friendly_name(name)
            self.matrices[name] = constant if self.dtype == "fp32" else self.op.convert(constant, np.float32)
        return self.matrices[name]

    def _parameter(self, name: str, shape: list[int], dtype: type[np.generic]) -> Any:
        parameter = self.op.parameter(shape, dtype, name=name)
        parameter.output(0).get_tensor().set_names({name})
        return parameter


def _as_type(rows: Array, dtype: str) -> Array:
    if dtype == "bf16":
        return rows if rows.dtype == np.uint16 else to_bf16(rows)
    numbers = to_float32(rows) if rows.dtype == np.uint16 else rows
    return numbers.astype(np.float16 if dtype == "fp16" else np.float32)
