"""A model as transformers makes it: of a checkpoint, or of random weights at the true shape."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfloor.record import Cell
from memfloor.runtimes.random_weights import fill_parameters
from memfloor.runtimes.stored_quantization import stored_quantization
from memfloor.spec import ModelSpec

if TYPE_CHECKING:
    import torch


def torch_dtype(name: str) -> "torch.dtype":
    """Return torch's type of a 16- or 32-bit weight format."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def load_model(cell: Cell, seed: int) -> Any:
    """Return the model of a cell in evaluation mode, from its checkpoint or with random weights.

    It is made in the type of the head, which stays 16 or 32 bits wide where projections are quantised afterwards.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    arguments: dict[str, Any] = {"dtype": torch_dtype(cell.workload.head), "attn_implementation": "sdpa"}
    if cell.weights_from is not None:
        if stored_quantization(cell.weights_from):
            # What is quantised cannot be moved afterwards.
            arguments["device_map"] = {"": cell.device}
        model: Any = AutoModelForCausalLM.from_pretrained(Path(cell.weights_from), local_files_only=True, **arguments)
        return (model if "device_map" in arguments else model.to(cell.device)).eval()
    config = AutoConfig.for_model(**hf_config_fields(cell.spec))
    with torch.device(cell.device), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, **arguments)
    # Without the library's own initialisation a tied head would stay a second tensor.
    model.tie_weights()
    fill_parameters(model, seed)
    return model.eval()


def hf_config_fields(spec: ModelSpec) -> dict[str, Any]:
    """Return the fields of a transformers config of this shape; the inverse of `spec.from_hf_config`."""
    fields = spec.model_dump(
        include={
            "model_type",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "vocab_size",
            "tie_word_embeddings",
            "max_position_embeddings",
            "rms_norm_eps",
        }
    )
    fields["rope_parameters"] = {"rope_theta": spec.rope_theta, **(spec.rope_scaling or {"rope_type": "default"})}
    if spec.model_type != "qwen2":
        fields["attention_bias"] = spec.attention_output_bias
    if spec.model_type == "llama":
        fields["mlp_bias"] = spec.mlp_bias
    if spec.model_type == "mistral":
        fields["sliding_window"] = spec.sliding_window
    elif spec.sliding_window:
        fields["sliding_window"] = spec.sliding_window
        fields["use_sliding_window"] = True
        fields["max_window_layers"] = spec.num_hidden_layers - spec.num_sliding_layers
    return fields
