"""Did both arms compute the same? Their outputs compared, where they can be."""

from dataclasses import dataclass, replace

from memfloor.record import ArmObservation, Cell, Outputs

LAUNCH = "launch"
# Part of the name of an attention kernel that was seen to give other bits in a second pass of one process
# (docs/log.md, 2026-11-28).
UNREPEATED_KERNEL = "cudnn_generated"
UNREPEATED = "cuDNN's attention ran in both, which was seen not to repeat its own bits; sdpa=efficient in both does"


@dataclass(frozen=True, slots=True)
class OutputsFound:
    """Hold what a comparison of outputs says.

    Attributes:
        text: In words.
        first_difference: The first step, from 1, whose outputs differ; None where none does or none was compared.
        missing: Whether they should have been compared and could not.
    """

    text: str
    first_difference: int | None = None
    missing: bool = False

    @property
    def confounders(self) -> tuple[str, ...]:
        """Return what stands against arms that do the same; nothing where outputs need not agree."""
        return (f"outputs: {self.text}",) if self.missing or self.first_difference is not None else ()


def compare_outputs(
    baseline: Cell, candidate: Cell, ours: ArmObservation | None, theirs: ArmObservation | None
) -> OutputsFound:
    """Return what the first outputs of both arms say, from the same seed and start.

    Arms that differ in their launch alone must agree in every token, and in every bit of the last logits where both
    keep them; other arms must agree in every token.
    """
    reason = incomparable_reason(baseline, candidate)
    if reason is not None:
        return OutputsFound(f"not comparable: {reason}")
    for name, observation in (("baseline", ours), ("candidate", theirs)):
        if observation is None:
            return OutputsFound(f"not compared: nothing was seen of the {name}", missing=True)
        if observation.outputs is None:
            return OutputsFound(f"not compared: the {name} gave none, {observation.outputs_problem}", missing=True)
    assert ours is not None
    assert theirs is not None
    assert ours.outputs is not None
    assert theirs.outputs is not None
    found = _compare(ours.outputs, theirs.outputs, exact=differ_in_launch_alone(baseline, candidate))
    if found.first_difference is None or not all(map(_ran_unrepeated, (ours, theirs))):
        return found
    return replace(found, text=f"{found.text}; {UNREPEATED}")


def _ran_unrepeated(arm: ArmObservation) -> bool:
    return arm.trace is not None and any(UNREPEATED_KERNEL in kernel.name for kernel in arm.trace.kernels)


def incomparable_reason(baseline: Cell, candidate: Cell) -> str | None:
    """Say why the outputs of two cells need not agree even if both are right; None if they must."""
    ours, theirs = baseline.workload, candidate.workload
    for name in ("weights", "head", "kv"):
        formats = getattr(ours, name), getattr(theirs, name)
        if formats[0] != formats[1]:
            return f"{name} in {formats[0]} and {formats[1]}"
    if baseline.runtime == candidate.runtime:
        return None
    if baseline.weights_from is None:
        return "random weights of two runtimes; --weights-from gives both the same"
    return None if baseline.prefill else "random KV caches of two runtimes; --prefill gives both the same prompt"


def differ_in_launch_alone(baseline: Cell, candidate: Cell) -> bool:
    """Tell whether two cells differ in nothing but how their kernels are launched, or in nothing but their label."""

    def rest(cell: Cell) -> Cell:
        options = {name: value for name, value in cell.options.items() if name != LAUNCH}
        return cell.model_copy(update={"options": options, "arm": None})

    return rest(baseline) == rest(candidate)


def _compare(ours: Outputs, theirs: Outputs, *, exact: bool) -> OutputsFound:
    steps = min(len(ours.tokens), len(theirs.tokens))
    for step, (left, right) in enumerate(zip(ours.tokens, theirs.tokens, strict=False), 1):
        if left != right:
            return OutputsFound(f"differ from step {step}: tokens {left} and {right}", step)
    if not exact:
        return OutputsFound(f"equal: the tokens of {steps} steps")
    if ours.logits_sha256 is None or theirs.logits_sha256 is None:
        return OutputsFound(f"equal: the tokens of {steps} steps; logits are not kept")
    if ours.logits_sha256 != theirs.logits_sha256:
        return OutputsFound(f"differ from step {steps}: the same tokens, other logits", steps)
    return OutputsFound(f"equal: the tokens of {steps} steps and every bit of the last logits")
