"""What gpu_study.py asks of a GPU before it measures: right logits, equal bits, and a reading of the ceiling."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from memfloor.errors import UsageError
from memfloor.experiments.probe import ProbeResult
from memfloor.measure.environment import device_name, package_versions
from memfloor.measure.nvml import Unanswered, ask
from memfloor.units import format_bandwidth

ROOT = Path(__file__).resolve().parent.parent
# A cut of two layers in each format, quantised ones of a large and of a small model: logits, and bits when launched
# eagerly, as one graph, and several steps per graph.
# They run side by side, for most of their time is the compiler's.
QUANTISED = "test_every_way_to_launch_gives_the_same_bits or test_logits_agree_with_float32_over"
CHOSEN = {
    "bf16": (
        "(test_logits_agree_with_float32 and (qwen2.5-7b-2-bf16-None-2048 or qwen2.5-7b-1-fp8-None-2048) and not flags)"
        " or (test_every_launch_gives_the_bits and not flags)"
    ),
    **{name: f"[{name}- and not 1.5b and ({QUANTISED})" for name in ("int8", "fp8", "int4-g128")},
}
PROBE = "from memfloor.experiments.probe import take_probe; print(take_probe('cuda', None, 5).model_dump_json())"
LAST_LINES = 15


def require_gpu(say: Callable[[str], None]) -> None:
    """Say which GPU this is and who else is on it.

    Raises:
        UsageError: No NVIDIA GPU answers.
    """
    say(f"{device_name('cuda')}, {', '.join(f'{name} {version}' for name, version in package_versions().items())}")
    try:
        # This process has no CUDA context: every process on the GPU is somebody else's.
        others = len(ask(lambda nvml, gpu: nvml.nvmlDeviceGetComputeRunningProcesses(gpu)))
    except Unanswered as reason:
        say(f"whether the GPU is free cannot be told: {reason}")
        return
    if others:
        say(f"BUSY: {others} other processes are on this GPU; their share of its memory is in every figure below")


def check(out: Path, limit_seconds: float, say: Callable[[str], None]) -> None:
    """Run the chosen tests of tests/gpu, unless they passed before on this device, this software and these kernels.

    Raises:
        UsageError: A test failed, none ran, or they did not end in time.
    """
    stamp, wanted = out / "checks.passed", fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        say("checks passed before, on these kernels")
        return
    with ThreadPoolExecutor(len(CHOSEN)) as pool:
        jobs = {name: pool.submit(run_tests, out, name, chosen, limit_seconds) for name, chosen in CHOSEN.items()}
        counts = {name: job.result() for name, job in jobs.items()}
    stamp.write_text(wanted)
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    say(f"checks passed ({said}): logits against float32, and the same bits however a step is launched")


def run_tests(out: Path, name: str, chosen: str, limit_seconds: float) -> int:
    """Run the tests of tests/gpu that an expression chooses; return how many passed.

    Raises:
        UsageError: A test failed, none ran, or they did not end in time.
    """
    results, log = out / f"checks-{name}.xml", out / f"checks-{name}.log"
    results.unlink(missing_ok=True)
    options = ["-q", "-x", "-m", "gpu", "-k", chosen, f"--junitxml={results.resolve()}", "-p", "no:cacheprovider"]
    text = run_python(["-m", "pytest", *options, "tests/gpu"], limit_seconds, f"the checks of {name}")
    log.write_text(text)
    passed = passed_tests(results)
    if not passed:
        last = "\n".join(text.splitlines()[-LAST_LINES:])
        raise UsageError(f"the checks of {name} failed, so nothing is measured; see {log}\n{last}")
    return passed


def passed_tests(results: Path) -> int:
    """Return how many tests passed; 0 where one failed or nothing was written."""
    if not results.is_file():
        return 0
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))
    counts = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    if counts["failures"] or counts["errors"]:
        return 0
    return counts["tests"] - counts["skipped"]


def fingerprint() -> str:
    """Name the device, the software and the engine's source that checks hold for."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "src/memfloor/engine").rglob("*.py"), *(ROOT / "tests/gpu").glob("*.py")]):
        digest.update(path.read_bytes())
    return json.dumps([device_name("cuda"), package_versions(), digest.hexdigest()])


def read_ceiling(out: Path, limit_seconds: float, say: Callable[[str], None]) -> None:
    """Read the ceiling and a copy once in a process of its own, and keep it; every run reads its own ceiling too.

    Raises:
        UsageError: It did not end in time, or failed.
    """
    text = run_python(["-c", PROBE], limit_seconds, "the ceiling")
    answers = [line for line in text.splitlines() if line.startswith("{")]
    if not answers:
        raise UsageError(f"the ceiling could not be read: {text.splitlines()[-1] if text else 'no last words'}")
    probe = ProbeResult.model_validate_json(answers[-1])
    with (out / "ceiling.jsonl").open("a") as file:
        file.write(json.dumps({"at": time.time(), **probe.model_dump()}) + "\n")
    rates = {item.kind: item.median_bytes_per_second for item in probe.bandwidths}
    say("ceiling: " + ", ".join(f"{kind} {format_bandwidth(rate)}" for kind, rate in rates.items()))


def run_python(arguments: list[str], limit_seconds: float, what: str) -> str:
    """Return what a Python process printed, its errors last.

    Raises:
        UsageError: It did not end in time.
    """
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=max(1.0, limit_seconds),
        )
    except subprocess.TimeoutExpired as expired:
        raise UsageError(f"{what} did not end within {limit_seconds:.0f} s") from expired
    return done.stdout
