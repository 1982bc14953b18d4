import os
import textwrap
import time

import psutil
import pytest


@pytest.fixture
def write_child(tmp_path, monkeypatch):
    """Return a function that makes a child's module out of its source and returns its name."""
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *([inherited] if inherited else [])]))

    def write(source):
        (tmp_path / "child_under_test.py").write_text(textwrap.dedent(source))
        return "child_under_test"

    return write


@pytest.fixture
def wait_until_gone():
    """Return a function that waits for a process to end; an unreaped orphan has ended too."""

    def wait(pid, patience_seconds=20.0):
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            try:
                if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                    return True
            except psutil.NoSuchProcess:
                return True
            time.sleep(0.02)
        return False

    return wait
