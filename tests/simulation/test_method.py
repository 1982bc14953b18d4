"""The method on machines whose truth is known; the whole study is `benchmarks/method_study.py` with its result."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated_machine import TERMS
from simulated_records import make_anatomy
from simulated_study import MACHINES, TWO_STATES, first_studies, study_two_states

from memfloor.report.breakdown import entries_of

STUDY = json.loads((Path(__file__).parents[2] / "results" / "method" / "simulated.json").read_text())
QUIET = {"run_noise": 0.0, "step_noise": 0.0, "kernel_noise": 0.0, "host_noise": 0.0, "drift": 0.0}


@pytest.mark.parametrize("name", MACHINES)
def test_without_noise_the_ledger_finds_every_true_term(name):
    machine = replace(MACHINES[name], **QUIET, reading_noise=0.0, profiler=(1.7, 1.7))
    truth = machine.truth()
    found = entries_of(make_anatomy(machine, np.random.default_rng(0)))
    for term in ("floor", *TERMS.values()):
        assert found[term] == pytest.approx(truth[term], abs=1e-9), term
    # A graph's first kernel starts a little after the host has issued it, and the profiler widens its gaps.
    late = machine.latency_seconds if machine.device == "cuda" and machine.launches == "graph" else 0.0
    widened = machine.replay_seconds * (len(machine.roles) - 1)
    assert found["host and launch"] == pytest.approx(truth["host and launch"] - late + widened, abs=1e-9)
    assert found["unexplained"] == pytest.approx(late - widened, abs=1e-9)


def test_the_committed_study_is_what_these_machines_and_this_method_give():
    for name, studies in first_studies(STUDY["seed"], count=1).items():
        for line, values in studies[0].items():
            assert values == pytest.approx(STUDY["first"][name][0][line], rel=1e-6, abs=1e-9), (name, line)


@pytest.mark.parametrize("name", MACHINES)
def test_bias_is_below_half_a_percent_of_the_step(name):
    for lines in STUDY["ledgers"][name]["anatomies"].values():
        assert all(abs(line["bias"]) < 0.005 for line in lines.values())


def test_intervals_cover_as_often_as_their_number_of_runs_lets_them():
    # The median of N runs lies within their range but for 2 in 2^N; a bootstrap of ten is a little narrower than 95 %.
    expected = {"2": 0.5, "3": 0.75, "5": 0.94, "10": 0.9}
    error = 4 * np.sqrt(0.25 / STUDY["studies"])
    for count, share in expected.items():
        assert STUDY["steps"][count]["cell median coverage"] == pytest.approx(share, abs=error)
        for machine in ("gpu, eager, busy", "gpu, eager, host-bound", "cpu, eager"):
            lines = STUDY["ledgers"][machine]["anatomies"][count]
            assert all(line["coverage"] > share - error for line in lines.values()), (machine, count)
        # A t interval holds the truth as often as it says; 300 studies tell that within 4 points.
        assert STUDY["steps"][count]["ratio coverage"] > 0.91


def test_matching_steps_by_their_bandwidth_takes_the_two_states_out():
    found = study_two_states(STUDY["seed"], 45)
    assert TWO_STATES.flips > 0
    assert found["all steps"]["refused"] > 4 * found["matched steps"]["refused"]
    assert found["kernel times scaled by the ceiling"]["refused"] > 4 * found["matched steps"]["refused"]
    assert found["all steps"]["refused, middle of three"] > 4 * found["matched steps"]["refused, middle of three"]
    assert abs(found["matched steps"]["mean"]) < 0.01
