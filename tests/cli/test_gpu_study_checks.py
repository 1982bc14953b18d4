"""The study of a GPU machine measures only what has been checked there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_study_checks


@pytest.mark.parametrize(
    ("counts", "passed"),
    [
        ({"tests": 9, "skipped": 2}, 7),
        ({"tests": 9, "skipped": 9}, 0),
        ({"tests": 9, "failures": 1}, 0),
        ({"tests": 9, "errors": 1}, 0),
        ({"tests": 0}, 0),
    ],
)
def test_checks_pass_only_if_some_ran_and_none_failed(tmp_path, counts, passed):
    path = tmp_path / "checks.xml"
    assert gpu_study_checks.passed_tests(path) == 0
    attributes = " ".join(f'{name}="{count}"' for name, count in counts.items())
    path.write_text(f"<testsuites><testsuite {attributes}/></testsuites>")
    assert gpu_study_checks.passed_tests(path) == passed


def test_each_format_is_checked_for_its_logits_and_for_its_bits():
    pytest.importorskip("triton")
    script = Path(__file__).with_name("children") / "collect_chosen.py"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, script, *gpu_study_checks.CHOSEN.values()]
    done = subprocess.run(command, cwd=gpu_study_checks.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bf16, *quantised = json.loads(done.stdout)
    launches = ("eager-1", "graph-1", "graph-8")
    assert set(bf16) == {
        *(
            f"test_logits_agree_with_float32[{pdl}-qwen2.5-7b-{layers}-{kv}-None-2048]"
            for pdl in ("off", "preload")
            for layers, kv in ((2, "bf16"), (1, "fp8"))
        ),
        *(
            f"test_every_launch_gives_the_bits_of_eager_without_overlap[{pdl}-{launch}]"
            for pdl in ("off", "preload")
            for launch in launches
        ),
    }
    assert [set(names) for names in quantised] == [
        {
            f"{test}[{name}-qwen2.5-{size}]"
            for test in (
                "test_logits_agree_with_float32_over_dequantised_weights",
                "test_every_way_to_launch_gives_the_same_bits",
            )
            for size in ("7b", "0.5b")
        }
        for name in ("int8", "fp8", "int4-g128")
    ]


def test_without_a_gpu_the_checks_do_not_pass_and_nothing_is_stamped(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_study_checks, "device_name", lambda kind: "a GPU")
    monkeypatch.setattr(gpu_study_checks, "run_python", lambda *arguments: "2 skipped in 0.1s")
    with pytest.raises(
        gpu_study_checks.UsageError, match=r"the checks of bf16 failed, so nothing is measured.*\n2 skipped"
    ):
        gpu_study_checks.check(tmp_path, 60.0, print)
    assert not (tmp_path / "checks.passed").exists()


def test_checks_are_taken_again_when_the_software_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_study_checks, "device_name", lambda kind: "a GPU")
    said = []
    (tmp_path / "checks.passed").write_text(gpu_study_checks.fingerprint())
    gpu_study_checks.check(tmp_path, 60.0, said.append)
    assert said == ["checks passed before, on these kernels"]
    monkeypatch.setattr(gpu_study_checks, "package_versions", lambda: {"triton": "9"})
    monkeypatch.setattr(gpu_study_checks, "run_python", lambda *arguments: "")
    with pytest.raises(gpu_study_checks.UsageError, match="checks of bf16 failed"):
        gpu_study_checks.check(tmp_path, 60.0, said.append)


def test_a_process_that_hangs_is_ended_in_time():
    with pytest.raises(gpu_study_checks.UsageError, match="waiting did not end within 0 s"):
        gpu_study_checks.run_python(["-c", "import time; time.sleep(60)"], 0.0, "waiting")
