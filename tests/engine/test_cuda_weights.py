"""Weights for a GPU out of a checkpoint's files: the same bits as out of transformers' own tensors."""

from dataclasses import astuple

import pytest
import torch

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.cuda.weights import CheckpointTensors, pack_weights
from memfloor.spec import load_model

CPU = torch.device("cpu")
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 131,
}


def tensors_in(weights):
    if isinstance(weights, torch.Tensor):
        return [weights]
    return [tensor for part in weights if part is not None for tensor in tensors_in(part)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("family", "tied"), [("Qwen2", True), ("Qwen3", False)])
def test_a_checkpoint_is_packed_like_the_state_it_was_saved_from(tmp_path, family, tied, dtype):
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE, tie_word_embeddings=tied)
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    spec = load_model(str(tmp_path))
    loaded = pack_weights(spec, CheckpointTensors(Checkpoint(tmp_path, spec)), CPU)
    wanted = pack_weights(spec, model.state_dict(), CPU)
    assert (loaded.head is loaded.embedding) == tied
    pairs = list(zip(tensors_in(astuple(loaded)), tensors_in(astuple(wanted)), strict=True))
    assert len(pairs) > 10
    assert all(one.dtype == torch.bfloat16 and torch.equal(one, other) for one, other in pairs)
