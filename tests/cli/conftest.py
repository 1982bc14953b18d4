import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, namedtuple
from pathlib import Path

import pytest

from memfloor.cli import main
from memfloor.experiments import blocks, comparing
from memfloor.experiments.study import grid
from memfloor.record import Run, Store

CHILDREN = Path(__file__).parent / "children"
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    # So large that a context can be asked for that fits into no memory.
    "max_position_embeddings": 2**40,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
# A process that a shell starts in the background inherits that interrupts are ignored.
DRIVER = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from memfloor.experiments import anatomy, blocks, comparing, quality; "
    "blocks.CHILD_MODULE = anatomy.TIMED_CHILD = 'fake_child'; "
    "anatomy.TRACED_CHILD = comparing.TRACED_CHILD = 'fake_traced_child'; "
    "quality.QUALITY_CHILD = 'fake_quality_child'; "
    "from memfloor.cli import main; main()"
)
# However busy the machine is, a process that takes longer hangs.
HANGS_SECONDS = 600
Result = namedtuple("Result", "status out err")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Return the folder of a tiny model that is nothing but its config."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder)


@pytest.fixture
def cells(tiny_model):
    """Return a function that gives cells of the tiny model on a GPU."""

    def make(runtimes=(("engine", {}), ("hf-eager", {})), contexts=(64,)):
        return grid([tiny_model], contexts, runtimes, "cuda")

    return make


@pytest.fixture
def memfloor(capfd):
    """Return a function that runs a command in this process."""

    def run(*arguments):
        capfd.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code or 0
        return Result(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def shell():
    """Return a function that runs a command in a process of its own."""

    def run(*arguments, **options):
        command = [sys.executable, "-m", "memfloor", *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        done = subprocess.run(command, check=False, timeout=300, **options)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def python_path(monkeypatch):
    """Return a function that puts a folder first on the path of every process started from here."""

    def put(folder):
        monkeypatch.setenv("PYTHONPATH", with_folder(folder)["PYTHONPATH"])

    return put


@pytest.fixture
def fake_child(monkeypatch, python_path):
    """Let every run and trace be taken by the children in `children/`, which measure nothing and take no time."""
    python_path(CHILDREN)
    monkeypatch.setattr(blocks, "CHILD_MODULE", "fake_child")
    monkeypatch.setattr(comparing, "TRACED_CHILD", "fake_traced_child")


@pytest.fixture(scope="session")
def start_memfloor():
    """Return a function that starts a command as a process of its own, to be interrupted or killed.

    Runs are taken by the fake child; a control loop is a real one.
    """

    def start(*arguments):
        command = [sys.executable, "-c", DRIVER, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=with_folder(CHILDREN), **pipes)

    return start


@pytest.fixture(scope="session")
def start_study(start_memfloor, tiny_model):
    """Return a function that starts a study of the tiny model as a process of its own."""

    def start(folder, *arguments):
        return start_memfloor("study", "--model", tiny_model, "--device", "cpu", "--out", folder, *arguments)

    return start


@pytest.fixture(scope="session")
def wait_until():
    """Return a function that waits until something holds while a process runs."""

    def wait(holds, process):
        deadline = time.monotonic() + HANGS_SECONDS
        while not holds():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def wait_for_records(wait_until):
    """Return a function that waits until a process has put so many records into a folder."""

    def wait(folder, count, process):
        wait_until(lambda: len(list(folder.glob("*.json"))) >= count, process)

    return wait


@pytest.fixture(scope="session")
def end_of():
    """Return a function that waits for the end of a process and returns its status and what it said."""

    def end(process):
        out, err = process.communicate(timeout=HANGS_SECONDS)
        return Result(process.returncode, out, err)

    return end


@pytest.fixture(scope="session")
def contents():
    """Return a function that gives the bytes of each record in a folder by its name."""
    return lambda folder: {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.fixture(scope="session")
def read():
    """Return a function that gives the runs, failures and skips in a folder, all of them whole."""

    def records(folder):
        found, unreadable = Store(folder).read() if folder.is_dir() else ([], [])
        assert unreadable == []
        return found

    return records


@pytest.fixture(scope="session")
def taken(read):
    """Return a function that counts how often each block of each cell is on record in a folder."""
    return lambda folder: Counter((run.cell.key, run.block) for run in read(folder) if isinstance(run, Run))


@pytest.fixture
def write_plan(tiny_model, tmp_path, monkeypatch):
    """Return a function that writes the plan of a sweep of the tiny model, and let nobody else's claims disturb it."""
    (tmp_path / "claims").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "claims"))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def write(*machines, contexts=(64, 128), runtimes=("hf-eager", "hf-static"), runs=3, more=""):
        grid = {"models": [tiny_model], "contexts": list(contexts), "runtimes": list(runtimes)}
        lines = ['name = "tried"', f"runs = {runs}", "warmup_steps = 2", "timed_steps = 4", more, "[[grid]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in grid.items()]
        for machine in machines:
            lines += ["[[machine]]", *(f"{key} = {json.dumps(value)}" for key, value in machine.items())]
        path = tmp_path / "plan.toml"
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.fixture(scope="session")
def start_sweep(start_memfloor):
    """Return a function that starts a sweep as a process of its own."""
    return lambda plan, folder, *arguments: start_memfloor("sweep", plan, "--out", folder, *arguments)


@pytest.fixture(scope="session")
def fake_records(start_study, end_of, tmp_path_factory):
    """Return a folder with two cells of two runs each, a failure and a skip; a test that writes there copies it."""
    folder = tmp_path_factory.mktemp("fake") / "records"
    study = start_study(folder, *("--context", "20,21,64,128", "--runs", 2, "--warmup-steps", 2, "--timed-steps", 4))
    ended = end_of(study)
    assert ended.status == 0, ended.err
    return folder


def with_folder(folder):
    """Return this process's environment with a folder first on Python's path."""
    rest = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *([rest] if rest else [])])}
