import gc
import mmap
import time

import pytest

from memfloor.measure import cycle_facts
from memfloor.measure.cycle_facts import CycleFacts
from memfloor.measure.nvml import Unanswered

PAGES = 64
COUNTS = {"minor_faults", "major_faults", "voluntary_switches", "involuntary_switches", "collections"}


def test_what_a_cycle_does_is_counted_and_what_lies_between_cycles_is_not():
    facts = CycleFacts("cpu")
    gc.collect()
    facts.begin()
    gc.collect()
    with mmap.mmap(-1, PAGES * mmap.PAGESIZE) as fresh:
        for page in range(PAGES):
            fresh[page * mmap.PAGESIZE] = 1
    time.sleep(0.001)
    found = facts.end()
    assert found.keys() >= COUNTS
    assert found["collections"] == 1
    assert found["minor_faults"] >= PAGES
    assert found["voluntary_switches"] >= 1
    assert found.get("moved_cpu", 0.0) in (0.0, 1.0)
    assert not found.keys() & facts.silent.keys()


def test_a_clock_that_answers_is_a_fact_and_one_that_stops_is_silent_in_its_own_words(monkeypatch):
    answers = [1980, 1980, Unanswered("GPU is lost")]

    def ask(question):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cycle_facts, "ask", ask)
    facts = CycleFacts("cuda")
    facts.begin()
    assert facts.end()["sm_clock_hz"] == pytest.approx(1.98e9)
    facts.begin()
    assert "sm_clock_hz" not in facts.end()
    assert facts.silent["sm_clock_hz"] == "GPU is lost"


def test_files_that_a_container_hides_are_silent(monkeypatch, tmp_path):
    for name in ("PRESSURE", "HOST_TIMES"):
        monkeypatch.setattr(cycle_facts, name, tmp_path / "none")
    facts = CycleFacts("cpu")
    facts.begin()
    assert not facts.end().keys() & {"stolen_seconds", "cpu_pressure_seconds"}
    assert {facts.silent[name] for name in ("stolen_seconds", "cpu_pressure_seconds")} == {"not supported"}
