"""The floor's arithmetic against the tensors that models really hold."""

import pytest
import torch

from memfloor.floor import kv_bytes_per_token, parameter_count, step_traffic
from memfloor.runtimes.hf_model import hf_config_fields
from memfloor.spec import load_model, model_names

SHAPES = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("mistral", {"head_dim": 32}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"attention_bias": True}),
]


def on_meta(spec):
    """Return transformers' own model of a spec, without its numbers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**hf_config_fields(spec)))


def parameter_bytes(model, *parts):
    """Return the bytes of the parameters whose names contain one of the parts; of all without any."""
    return sum(
        parameter.nbytes
        for name, parameter in model.named_parameters()
        if not parts or any(part in name for part in parts)
    )


@pytest.mark.parametrize("name", model_names())
def test_the_parameters_of_a_catalogued_model_are_those_of_transformers(name):
    spec = load_model(name)
    assert parameter_count(spec) == sum(parameter.numel() for parameter in on_meta(spec).parameters())


@pytest.mark.parametrize(("family", "changes"), SHAPES)
def test_the_parameters_of_a_tiny_model_are_those_of_transformers(tiny, family, changes):
    spec = tiny(family, **changes)
    assert parameter_count(spec) == sum(parameter.numel() for parameter in on_meta(spec).parameters())


@pytest.mark.parametrize(("family", "changes"), SHAPES)
@pytest.mark.parametrize("weights", ["bf16", "fp16", "fp32"])
def test_the_paper_convention_counts_the_bytes_of_all_parameters_and_the_cache(
    prepared, tiny, family, changes, weights
):
    system = prepared(spec=tiny(family, **changes), weights=weights, start_len=9)
    workload = system.request.cell.workload.model_copy(update={"context_len": 9})
    traffic = step_traffic(system.request.cell.spec, workload, "paper")
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in system.cache.layers)
    assert traffic.kv_read == cache
    assert traffic.total_bytes == parameter_bytes(system.model) + cache


@pytest.mark.parametrize(("family", "changes"), SHAPES)
@pytest.mark.parametrize("weights", ["bf16", "fp32"])
def test_each_cause_counts_the_bytes_of_its_tensors(prepared, tiny, family, changes, weights):
    system = prepared(spec=tiny(family, **changes), weights=weights)
    cell, model = system.request.cell, system.model
    traffic = step_traffic(cell.spec, cell.workload, "streamed")
    size = torch.tensor([], dtype=model.dtype).element_size()
    projections = [f"{name}_proj.weight" for name in "qkvo"]
    assert traffic.attention_weights == parameter_bytes(model, *projections)
    assert traffic.mlp_weights == parameter_bytes(model, "gate_proj.weight", "up_proj.weight", "down_proj.weight")
    assert traffic.norms_and_biases == parameter_bytes(model, "norm", ".bias")
    assert traffic.head == model.get_output_embeddings().weight.nbytes
    assert traffic.embedding == cell.spec.hidden_size * size


@pytest.mark.parametrize(("family", "changes"), SHAPES)
def test_a_step_writes_the_bytes_of_one_token_into_the_cache(prepared, tiny, family, changes):
    system = prepared(spec=tiny(family, **changes), weights="bf16")

    def cached():
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in system.cache.layers)

    before = cached()
    system.step()
    assert cached() - before == kv_bytes_per_token(system.request.cell.spec, "bf16")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_streamed_step_reads_the_tensors_it_names(prepared, tiny, family):
    """Sum the operands that the matrix products of one step really take."""
    from torch.utils._python_dispatch import TorchDispatchMode

    system = prepared(spec=tiny(family), weights="bf16")
    matrices = {
        parameter.data_ptr(): parameter.nbytes for parameter in system.model.parameters() if parameter.dim() == 2
    }
    table = system.model.get_input_embeddings().weight.data_ptr()
    read = {}

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.name() != "aten::embedding":
                for tensor in (item for item in args if isinstance(item, torch.Tensor)):
                    if tensor.data_ptr() in matrices:
                        read[tensor.data_ptr()] = tensor.nbytes
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Reads():
        system.forward()
    traffic = step_traffic(system.request.cell.spec, system.request.cell.workload, "streamed")
    assert table not in read
    assert sum(read.values()) == traffic.attention_weights + traffic.mlp_weights + traffic.head
