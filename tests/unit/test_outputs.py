import pytest

from memfloor.record import ArmObservation, Outputs, StepTrace, TracedKernel
from memfloor.report.outputs import compare_outputs
from memfloor.spec import Workload

ONE, TWO = "1" * 64, "2" * 64


def seen(cell, tokens=((1,), (2,), (3,)), digest=ONE, **changes):
    fields = {"outputs": Outputs(tokens=tokens, logits_sha256=digest), **changes}
    identity = {
        "record_id": "a" * 32,
        "session_id": "b" * 32,
        "taken_at": "2026-11-23T10:00:00+00:00",
        "arm": "baseline",
        "seed": 0,
    }
    return ArmObservation(**identity, cell=cell, **fields)


@pytest.fixture
def modes(make_cell):
    return make_cell(runtime="engine", options={"launch": "eager"}), make_cell(runtime="engine")


@pytest.mark.parametrize(
    ("theirs", "text", "step"),
    [
        ({}, "equal: the tokens of 3 steps and every bit of the last logits", None),
        ({"digest": TWO}, "differ from step 3: the same tokens, other logits", 3),
        ({"digest": None}, "equal: the tokens of 3 steps; logits are not kept", None),
        ({"tokens": ((1,), (5,), (3,))}, "differ from step 2: tokens (2,) and (5,)", 2),
        ({"outputs": None, "outputs_problem": "it died"}, "not compared: the candidate gave none, it died", None),
    ],
)
def test_launch_modes_must_agree_in_every_bit(modes, theirs, text, step):
    found = compare_outputs(*modes, seen(modes[0]), seen(modes[1], **theirs))
    assert (found.text, found.first_difference) == (text, step)


def test_other_options_must_agree_in_tokens_alone(make_cell):
    cells = make_cell(options={"sdpa": "flash"}), make_cell()
    found = compare_outputs(*cells, seen(cells[0]), seen(cells[1], digest=TWO))
    assert found.text == "equal: the tokens of 3 steps"


def test_two_labels_of_one_cell_must_agree_in_every_bit(make_cell):
    cells = make_cell(arm="baseline"), make_cell(arm="candidate")
    assert compare_outputs(*cells, seen(cells[0]), seen(cells[1], digest=TWO)).first_difference == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"runtime": "engine"}, "random weights of two runtimes"),
        ({"runtime": "engine", "weights_from": "/w"}, "random KV caches of two runtimes"),
        ({"workload": Workload.of(512, weights="int8")}, "weights in bf16 and int8"),
        ({"workload": Workload.of(512, kv="int8")}, "kv in bf16 and int8"),
    ],
)
def test_what_cannot_agree_is_not_compared_and_says_so(make_cell, changes, reason):
    ours = make_cell(weights_from=changes.get("weights_from"))
    theirs = ours.model_copy(update=changes)
    found = compare_outputs(ours, theirs, seen(ours), seen(theirs, digest=TWO, tokens=((9,),)))
    assert found.first_difference is None
    assert found.text.startswith(f"not comparable: {reason}")


def test_two_runtimes_with_the_same_weights_and_prompt_are_compared(make_cell):
    ours = make_cell(weights_from="/w", prefill=True)
    theirs = ours.model_copy(update={"runtime": "engine"})
    assert compare_outputs(ours, theirs, seen(ours), seen(theirs, tokens=((9,),))).first_difference == 1


def test_an_arm_that_nobody_saw_is_named(modes):
    assert compare_outputs(*modes, seen(modes[0]), None).text == "not compared: nothing was seen of the candidate"


def test_a_difference_names_attention_that_does_not_repeat_itself(modes):
    def traced(name):
        times = (0.001, 0.001)
        kernel = TracedKernel(
            name=name, op="k", role="attention", start_seconds=(0.0, 0.0), seconds=times, launch_seconds=times
        )
        return StepTrace(tool="t", device="cuda", step_seconds=times, kernels=(kernel,), launches={}, labelled="names")

    def text(*names):
        ours, theirs = (traced(name) for name in names)
        return compare_outputs(*modes, seen(modes[0], trace=ours), seen(modes[1], trace=theirs, digest=TWO)).text

    cudnn = "cudnn_generated_fort_native_sdpa_sm80_flash_fprop"
    assert text(cudnn, cudnn).endswith(
        "cuDNN's attention ran in both, which was seen not to repeat its own bits; sdpa=efficient in both does"
    )
    assert text(cudnn, "fmha") == text("fmha", "fmha") == "differ from step 3: the same tokens, other logits"
