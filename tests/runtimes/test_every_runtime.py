import numpy as np
import pytest
import torch

from memfloor.errors import UsageError
from memfloor.runtimes import REGISTRY, Prefilling, check_options, find_runtime
from memfloor.runtimes.hf_model import hf_config_fields
from memfloor.runtimes.random_weights import fill_parameters

each_runtime = pytest.mark.parametrize("runtime", REGISTRY)
# A token passes two layers of 13 roundings each and 3 more; the error of a sum of 96 terms counts as 96 of them. A
# token or a place that is wrong gives an error of the order of one.
ROUNDINGS = 2 * 13 + 3
FORCED_BOUND = {"bf16": ROUNDINGS * 2.0**-9, "fp32": ROUNDINGS * 96 * 2.0**-24}
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture
def usable(request_for):
    """Return a function that prepares a runtime on a tiny bf16 model, or skips where it says that it cannot run."""

    def prepare(name, **request):
        asked = request_for(name, weights="bf16", **request)
        reason = find_runtime(name).unavailable_reason(asked.cell)
        if reason is not None:
            pytest.skip(reason)
        if name == "hf-compile":
            pytest.skip("compiling takes up to a minute: test_hf_compile.py does so once, and traces every family")
        system = find_runtime(name)(asked)
        system.prepare()
        return system

    return prepare


@each_runtime
def test_the_registry_calls_a_runtime_by_its_own_name(runtime):
    assert find_runtime(runtime).name == runtime
    assert find_runtime(runtime).summary


@each_runtime
def test_every_declared_option_is_accepted(runtime):
    for option, values in REGISTRY[runtime].options.items():
        for value in values:
            check_options(REGISTRY[runtime], {option: value})


@each_runtime
def test_an_unknown_option_is_refused_with_the_known_ones(runtime):
    known = ", ".join(sorted(REGISTRY[runtime].options) or ["none"])
    with pytest.raises(UsageError, match=f"unknown option of {runtime} 'turbo'; allowed: {known}"):
        check_options(REGISTRY[runtime], {"turbo": "on"})


@each_runtime
def test_an_unknown_value_is_refused_with_the_known_ones(runtime):
    for option, values in REGISTRY[runtime].options.items():
        with pytest.raises(UsageError, match=f"unknown {runtime} {option} 'nonsense'; allowed: ") as refusal:
            check_options(REGISTRY[runtime], {option: "nonsense"})
        assert all(value in str(refusal.value) for value in values)


def test_an_unknown_runtime_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown runtime 'vllm'; allowed: " + ", ".join(sorted(REGISTRY))):
        find_runtime("vllm")


@each_runtime
def test_a_runtime_that_cannot_run_here_says_what_is_missing(runtime):
    reason = REGISTRY[runtime].unavailable_reason()
    assert reason is None or "install" in reason or "needs" in reason or "need one" in reason


@each_runtime
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_step_of_a_request_and_the_census_can_be_taken(usable, tiny, runtime, family):
    system = usable(runtime, spec=tiny(family), start_len=3, max_steps=5)
    for _ in range(4):
        system.step()
    path = system.observed_path()
    assert path.operators
    assert path.facts


@each_runtime
def test_outputs_are_the_tokens_of_the_next_steps_and_the_same_each_time(usable, runtime):
    whole = usable(runtime, max_steps=6).outputs(5)
    halves = usable(runtime, max_steps=6)
    first, second = halves.outputs(2), halves.outputs(3)
    assert len(whole.tokens) == 5
    assert whole.tokens == first.tokens + second.tokens
    assert whole.logits_sha256 == second.logits_sha256 != first.logits_sha256


@each_runtime
def test_a_rewound_decode_gives_the_same_again(usable, tiny, runtime):
    system = usable(runtime, max_steps=4)
    first = system.outputs(4)
    system.rewind()
    again = system.outputs(2)
    system.rewind()
    assert system.outputs(4) == first
    assert again.tokens == first.tokens[:2]


@pytest.mark.parametrize("runtime", ["hf-eager", "hf-static"])
def test_a_window_that_has_moved_on_is_filled_again(usable, tiny, runtime):
    # The window of 6 tokens has left the first behind before the first step.
    system = usable(runtime, spec=tiny("mistral", sliding_window=6), max_steps=4)
    first = system.outputs(4)
    system.rewind()
    assert system.outputs(4) == first


@pytest.fixture
def seeded(tmp_path):
    """Return a function that saves a checkpoint of a spec whose activations keep their size over its layers."""

    def save(spec):
        from transformers import AutoConfig, AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**hf_config_fields(spec)), dtype=torch.bfloat16)
        fill_parameters(model, seed=1)
        model.save_pretrained(tmp_path / "seeded")
        return tmp_path / "seeded"

    return save


@each_runtime
@pytest.mark.parametrize("weights", FORCED_BOUND)
def test_forced_logits_are_those_of_one_causal_pass_in_float32(request_for, seeded, tiny, runtime, weights):
    from transformers import AutoModelForCausalLM

    folder = seeded(tiny("qwen2"))
    asked = request_for(runtime, start_len=0, max_steps=len(TOKENS), weights=weights, weights_from=str(folder))
    reason = find_runtime(runtime).unavailable_reason(asked.cell)
    if reason is not None or runtime == "hf-compile":
        pytest.skip(reason or "test_hf_compile.py does so once")
    system = find_runtime(runtime)(asked)
    system.prepare()
    found = np.concatenate([system.forced_logits(TOKENS[:5]), system.forced_logits(TOKENS[5:])])
    with torch.inference_mode():
        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([TOKENS]))
    expected = whole.logits[0].numpy()
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < FORCED_BOUND[weights]


@each_runtime
def test_every_option_has_a_default_and_no_value_twice(runtime):
    for values in REGISTRY[runtime].options.values():
        assert values
        assert len(set(values)) == len(values)


@each_runtime
def test_a_step_leaves_no_gradient_mode_behind(usable, runtime):
    system = usable(runtime)
    system.step()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@each_runtime
def test_going_back_decodes_the_same_tokens_again_as_every_cycle_of_a_loop_must(usable, runtime):
    system = usable(runtime, start_len=6, max_steps=4)
    first = system.outputs(3)
    for _ in range(2):
        system.rewind()
        assert system.outputs(3) == first


@each_runtime
def test_a_prompt_in_every_cycle_is_the_one_that_was_prepared(usable, runtime):
    if not issubclass(REGISTRY[runtime], Prefilling):
        pytest.skip(f"{runtime} cannot take a prompt again")
    system = usable(runtime, start_len=6, max_steps=4, prefill=True)
    first = system.outputs(3)
    for _ in range(2):
        system.prefill()
        assert system.outputs(3) == first
