import numpy as np
import pytest
import torch

from memfloor.runtimes import find_runtime
from memfloor.runtimes.hf_model import hf_config_fields, load_model
from memfloor.runtimes.hf_static import HfStatic
from memfloor.spec import from_hf_config, model_names
from memfloor.spec import load_model as load_spec

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
STEPS = 8


def decode(system, steps=STEPS):
    tokens = []
    for _ in range(steps):
        system.step()
        tokens.append(int(system.token))
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("runtime", ["hf-eager", "hf-static"])
def test_a_checkpoint_decodes_what_generate_decodes(request_for, tiny, checkpoint, family, runtime):
    from transformers import AutoModelForCausalLM

    folder = checkpoint(tiny(family))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    prompt = torch.randint(320, (1, 9), generator=torch.Generator().manual_seed(3))
    expected = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=STEPS, do_sample=False, eos_token_id=-1
    )[0, prompt.shape[1] :].tolist()
    assert len(set(expected)) > 2, "a model that repeats itself shows nothing"

    system = find_runtime(runtime)(
        request_for(runtime, spec=tiny(family), start_len=1, max_steps=20, weights_from=str(folder))
    )
    system.prepare()
    system.cache = system.make_cache()
    # Feed all but the last token of the prompt; the last is the first step's own.
    with torch.no_grad():
        system.model(input_ids=prompt[:, :-1], past_key_values=system.cache, use_cache=True)
    system.token = prompt[:, -1:].clone()
    assert decode(system) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefill", [False, True])
def test_the_static_cache_decodes_what_the_dynamic_one_does(prepared, tiny, family, prefill):
    spec = tiny(family)
    eager, static = (prepared(name, spec=spec, prefill=prefill) for name in ("hf-eager", "hf-static"))
    assert decode(static) == decode(eager)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_static_cache_gives_the_logits_of_the_dynamic_one(prepared, tiny, family):
    logits = []
    for name in ("hf-eager", "hf-static"):
        system = prepared(name, spec=tiny(family))
        system.model.register_forward_hook(lambda module, arguments, output: logits.append(output.logits))
        system.step()
    # The mask changes the order of float32 sums over at most 96 terms of order one.
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=96 * torch.finfo(torch.float32).eps)


def test_a_checkpoint_is_loaded_and_not_random_weights(request_for, tiny, checkpoint):
    spec = tiny("llama")
    from safetensors.torch import load_file

    folder = checkpoint(spec)
    saved = load_file(folder / "model.safetensors")
    model = load_model(request_for(spec=spec, weights_from=str(folder)).cell, seed=0)
    assert all(torch.equal(parameter, saved[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_the_embedding_table_only_where_the_model_ties_them(prepared, tiny, tied):
    model = prepared(spec=tiny("llama", tie_word_embeddings=tied)).model
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


def test_a_static_cache_has_room_for_the_whole_request(prepared):
    system = prepared("hf-static", start_len=5, max_steps=11)
    assert all(layer.keys.shape[-2] >= 5 + 11 for layer in system.cache.layers)


def test_a_static_step_writes_the_next_token_into_the_same_buffer(prepared):
    system = prepared("hf-static")
    address = system.token.data_ptr()
    system.step()
    assert system.token.data_ptr() == address


def test_launch_defaults_to_eager(request_for):
    assert HfStatic(request_for("hf-static")).launch == "eager"
    assert HfStatic(request_for("hf-static", options={"launch": "graph"})).launch == "graph"


def test_nothing_is_allocated_before_prepare(request_for):
    system = find_runtime("hf-eager")(request_for())
    assert (system.model, system.cache, system.token) == (None, None, None)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 5e5}),
        ("mistral", {"sliding_window": 16}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
        ("qwen3", {"attention_bias": True, "head_dim": 24}),
        ("qwen2", {"tie_word_embeddings": True}),
    ],
)
def test_a_spec_survives_the_way_through_a_config_of_transformers(tiny, family, changes):
    from transformers import AutoConfig

    spec = tiny(family, **changes)
    config = AutoConfig.for_model(**hf_config_fields(spec))
    assert from_hf_config(config.to_dict(), spec.name) == spec


@pytest.mark.parametrize("name", model_names())
def test_a_catalogued_model_survives_the_way_through_a_config_of_transformers(name):
    from transformers import AutoConfig

    spec = load_spec(name)
    config = AutoConfig.for_model(**hf_config_fields(spec))
    assert from_hf_config(config.to_dict(), name).fingerprint == spec.fingerprint


def test_a_restart_brings_a_static_cache_back_to_its_start(prepared):
    system = prepared("hf-static", max_steps=6)
    first = system.token.clone()
    whole = system.outputs(6)
    system.restart(first)
    assert system.outputs(6) == whole


def test_the_prompt_of_a_prefill_is_every_runtimes(prepared, monkeypatch):
    system = prepared("hf-eager", seed=3)
    seen = []
    monkeypatch.setattr(system, "model", lambda input_ids, **_: seen.append(input_ids))
    system._prefill()
    assert seen[0].tolist() == [np.random.default_rng(3).integers(320, size=7).tolist()]
