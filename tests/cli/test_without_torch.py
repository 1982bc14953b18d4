"""What the core installation alone can do: no torch, and no attempt to find it."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "triton", "safetensors")
BLOCKED = f"""
import sys

class Blocker:
    asked = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            self.asked.append(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from memfloor.cli import main
try:
    main()
finally:
    print("asked for", Blocker.asked, file=sys.stderr)
"""


@pytest.fixture
def blocked():
    """Return a function that runs a command in a process that has no torch."""

    def run(*arguments):
        command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["floor", "qwen2.5-7b"],
        ["floor", "qwen2.5-7b", "--json"],
        ["paper"],
        ["runs", "RECORDS"],
        ["query", "RECORDS", "SELECT * FROM runs"],
        ["report", "RECORDS", "-o", "OUT/page.html"],
        ["figure", "1", "RECORDS", "-o", "OUT"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_core_works_and_never_looks_for_torch(blocked, fake_records, tmp_path, arguments):
    places = {"RECORDS": str(fake_records), "OUT": str(tmp_path)}
    arguments = [argument.replace("OUT", str(tmp_path)) for argument in arguments]
    done = blocked(*(places.get(argument, argument) for argument in arguments))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "asked for []\n"
    assert done.stdout


def test_the_modules_of_the_core_import_without_torch():
    check = f"""
import sys
from memfloor import cli, floor, hardware, record, spec, stats, units
from memfloor.report import figures, page, paper, sentences, sql, summary, tables
raise SystemExit(" ".join(heavy for heavy in {HEAVY!r} if heavy in sys.modules) or 0)
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_names_what_to_install(blocked):
    done = blocked("doctor", "--json")
    parts = json.loads(done.stdout)
    assert parts["runtime hf-eager"] == {
        "usable": False,
        "reason": "torch is not installed; pip install 'memfloor[torch]'",
    }
    assert not parts["CUDA GPU"]["usable"]
    assert parts["native kernels"]["usable"]


def test_measure_records_a_skip_with_the_install_line(shell, python_path, tiny_model, tmp_path):
    for library in ("torch", "transformers"):
        (tmp_path / "path" / library).mkdir(parents=True)
        (tmp_path / "path" / library / "__init__.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{library}'\", name='{library}')"
        )
    python_path(tmp_path / "path")
    done = shell("measure", tiny_model, "--context", "64", "--runs", "2", "--out", tmp_path / "out", "--json")
    assert done.status == 1
    cell = json.loads(done.out)
    assert cell["invalid"] == "torch is not installed; pip install 'memfloor[torch]'"
    assert len(list((tmp_path / "out").glob("*skip*.json"))) == 1
