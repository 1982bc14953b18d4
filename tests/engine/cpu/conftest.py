"""Tiny models as transformers makes and saves them, and the engine's model of them on this CPU."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.cpu.model import CpuModel
from memfloor.engine.cpu.native import allowed_cpus, native, unavailable_reason
from memfloor.engine.cpu.weights import ModelWeights, Packer
from memfloor.engine.random_tensors import RandomTensors
from memfloor.engine.tensors import TensorSource, expected_tensors
from memfloor.spec import ModelSpec, Workload, from_hf_config, load_model

# Rows of no whole tile of 16, and grouped heads; int4 needs rows of whole blocks of 128.
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "vocab_size": 325,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}


@pytest.fixture(autouse=True)
def _kernels():
    """Skip where there are no kernels."""
    if unavailable_reason() is not None:
        pytest.skip(str(unavailable_reason()))


@pytest.fixture(scope="session")
def transformers() -> Any:
    """Import the library once, so that no warning of its own counts as one of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("transformers")
    library.utils.logging.disable_progress_bar()
    return library


@pytest.fixture(scope="session")
def hf_model(transformers) -> Callable[..., Any]:
    """Make a seeded float32 model of a family whose weights bf16 holds exactly."""
    import torch
    from transformers.initialization import no_init_weights

    def make(family: str, seed: int = 0, **changes: Any) -> Any:
        config = getattr(transformers, f"{family}Config")(**{**SHAPE, "tie_word_embeddings": False, **changes})
        with no_init_weights():
            model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval().requires_grad_(False)
        model.tie_weights()
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            # Matrices keep activations near one, norms are near one.
            scale = weight.shape[-1] ** -0.5 if weight.dim() == 2 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale + (1.0 if "norm" in name else 0.0))
        # Tokens of many sizes, so that seldom two of them are nearly as likely.
        head = model.get_output_embeddings().weight
        head.mul_(torch.exp(0.5 * torch.randn(head.shape[0], 1, generator=generator)))
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
        return model

    return make


@pytest.fixture(scope="session")
def rounded_cache(transformers) -> Callable[..., Any]:
    """Make a cache of transformers that rounds keys and values as the engine stores them."""

    def rounded(numbers: Any, kv: str) -> Any:
        if kv == "bf16":
            return numbers.bfloat16().float()
        scale = numbers.abs().amax(-1, keepdim=True) / 127
        return (numbers / scale).round() * scale

    class RoundedCache(transformers.DynamicCache):
        def __init__(self, config: Any, kv: str) -> None:
            super().__init__(config=config)
            self.kv = kv

        def update(self, keys: Any, values: Any, *place: Any, **options: Any) -> Any:
            return super().update(rounded(keys, self.kv), rounded(values, self.kv), *place, **options)

    return RoundedCache


@pytest.fixture(scope="session")
def save(tmp_path_factory) -> Callable[..., Path]:
    """Save a model as transformers does, in bf16 unless told."""
    import torch

    def save_model(model: Any, dtype: Any = torch.bfloat16, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        # A copy, as rotary frequencies would stay rounded.
        deepcopy(model).to(dtype).save_pretrained(folder, **options)
        return folder

    return save_model


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelSpec]:
    """Make the spec of a tiny model of a family."""

    def make(model_type: str = "qwen2", **changes: Any) -> ModelSpec:
        return from_hf_config({"model_type": model_type, **SHAPE, **changes}, name=f"tiny-{model_type}")

    return make


@pytest.fixture(scope="session")
def cpu_model() -> Callable[..., CpuModel]:
    """Pack a model, random or from a folder, into buffers with an empty cache."""

    def make(
        spec: ModelSpec | None = None,
        folder: Path | None = None,
        weights: str = "bf16",
        head: str = "bf16",
        kv: str = "bf16",
        max_len: int = 80,
        isa: str | None = None,
        threads: int = 1,
    ) -> CpuModel:
        spec = spec or load_model(str(folder))
        source: TensorSource = RandomTensors(spec, 1) if folder is None else Checkpoint(folder, spec)
        cpus = allowed_cpus()
        # More threads than CPUs take turns.
        pool = native().Pool([cpus[thread % len(cpus)] for thread in range(threads)])
        packed = Packer(spec, source, pool).pack(Workload.of(1, 1, weights, kv, head))
        cache = native().KVCache(kv, spec.num_hidden_layers, spec.num_key_value_heads, max_len, spec.head_dim)
        return CpuModel(spec, packed, cache, max_len, isa or native().usable_isas()[0], pool)

    return make


@pytest.fixture(scope="session")
def dequantized() -> Callable[[ModelSpec, ModelWeights], dict[str, np.ndarray]]:
    """Give a model's matrices as the kernels see them, float32 by their Hugging Face names."""

    def unpack(matrix: Any) -> np.ndarray:
        out = np.empty((matrix.rows, matrix.columns), np.float32)
        matrix.dequantize(0, matrix.rows, out)
        return out

    def matrices(spec: ModelSpec, weights: ModelWeights) -> dict[str, np.ndarray]:
        shapes = expected_tensors(spec)
        found = {"model.embed_tokens.weight": unpack(weights.embedding), "lm_head.weight": unpack(weights.head)}
        for index, layer in enumerate(weights.layers):
            prefix = f"model.layers.{index}"
            names = [f"{prefix}.self_attn.{name}_proj.weight" for name in "qkv"]
            ends = np.cumsum([shapes[name][0] for name in names])
            found |= dict(zip(names, np.split(unpack(layer.qkv), ends[:-1]), strict=True))
            found[f"{prefix}.self_attn.o_proj.weight"] = unpack(layer.o_proj)
            gate_up = unpack(layer.gate_up)
            found |= {f"{prefix}.mlp.gate_proj.weight": gate_up[0::2], f"{prefix}.mlp.up_proj.weight": gate_up[1::2]}
            found[f"{prefix}.mlp.down_proj.weight"] = unpack(layer.down_proj)
        return found

    return matrices
