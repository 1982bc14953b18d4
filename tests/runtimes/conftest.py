import warnings

import pytest

from memfloor.record import Cell
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.gptqmodel import GptqModel
from memfloor.spec import Workload, from_hf_config

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}


@pytest.fixture
def gptqmodel_library():
    """Skip a test where GPTQModel is not installed; import it without its own warnings and its banner."""
    reason = GptqModel.library.reason()
    if reason is not None:
        pytest.skip(reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gptqmodel.utils.model  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _imported_libraries():
    """Import the libraries once, so that no warning of theirs counts as one of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import torch._inductor.compile_fx
        import transformers  # noqa: F401

        threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny():
    """Return a function that makes the spec of a tiny model of a family."""

    def make(model_type="qwen2", **changes):
        return from_hf_config({"model_type": model_type, **SHAPE, **changes}, name=f"tiny-{model_type}")

    return make


@pytest.fixture
def request_for(tiny):
    """Return a function that makes a request for a runtime to decode a tiny model on the CPU."""

    def make(runtime="hf-eager", spec=None, start_len=7, max_steps=8, seed=0, weights="fp32", batch=1, **cell):
        workload = Workload.of(start_len + 2, batch, weights, weights)
        cell = Cell(spec=spec or tiny(), workload=workload, runtime=runtime, device="cpu", **cell)
        return DecodeRequest(cell=cell, start_len=start_len, max_steps=max_steps, seed=seed)

    return make


@pytest.fixture
def prepared(request_for):
    """Return a function that prepares a runtime for such a request."""

    def make(runtime="hf-eager", **request):
        system = find_runtime(runtime)(request_for(runtime, **request))
        system.prepare()
        return system

    return make


@pytest.fixture
def checkpoint(tmp_path):
    """Return a function that saves a seeded checkpoint of a spec, as transformers itself makes it."""

    def save(spec, seed=0):
        import torch
        import torch._inductor.compile_fx
        from transformers import AutoConfig, AutoModelForCausalLM

        from memfloor.runtimes.hf_model import hf_config_fields

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**hf_config_fields(spec)), dtype=torch.float32)
        # The library's own initialisation is so flat that a random model repeats one token for ever.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        folder = tmp_path / f"{spec.name}-{seed}"
        model.save_pretrained(folder)
        return folder

    return save
