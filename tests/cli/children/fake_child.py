"""A child that measures nothing and behaves as its cell's context tells it to."""

import json
import os
import signal
import sys
import time

from memfloor.measure.environment import device_info, git_commit, package_versions
from memfloor.measure.process import die_with_parent

OUT_OF_MEMORY, UNAVAILABLE, EXIT, KILLED, HANG, SILENT, GARBAGE, SLOW = 20, 21, 22, 23, 24, 25, 26, 27
# Ends before it has measured with the first seed, and measures with every other.
FIRST_EXITS = 28
# Takes the process that started it along.
KILLS_PARENT = 29

FACTS = {"attention_implementation": "sdpa", "cpus": str(sorted(os.sched_getaffinity(0)))}


def measured(job, device):
    protocol = job["protocol"]
    # A launch as a whole takes half the time.
    seconds = 1e-3 * (job["seed"] + 1) * (0.5 if job["cell"]["options"].get("launch") == "graph" else 1.0)
    timed, first = protocol["timed_steps"], protocol["timed_steps"] // 2
    phases = ["warmup"] * protocol["warmup_steps"] + ["timed"] * first + ["settle"] + ["timed"] * (timed - first)
    places = [protocol["warmup_steps"] - 1, protocol["warmup_steps"] + first, len(phases)]
    return {
        "timings": {
            "steps": [{"phase": phase, "host_seconds": seconds} for phase in phases],
            "ceilings": [
                {"after_steps": place, "pass_bytes": 10**6, "pass_seconds": [1e-3] * 8, "method": "fake"}
                for place in places
            ],
        },
        "environment": {
            "device": device,
            "cpu_name": device["name"],
            "logical_cpus": 2,
            "host_memory_bytes": 1,
            "kernel": "fake",
            "python": "3",
            "packages": package_versions(),
            "git_commit": git_commit(),
            "huge_pages": "unknown",
            "threads": 1,
            "load_average": 0.0,
            "foreign_load": 0.0,
            "sensors_before": {"cpu_clock_hz": "not supported"},
            "sensors_after": {"cpu_clock_hz": "not supported"},
        },
        "path": {"operators": {"aten::mm": 15}, "facts": FACTS},
    }


def misbehave(behaviour, send):
    if behaviour == EXIT:
        sys.exit("Traceback of the library\nArithmeticError: seven")
    elif behaviour == KILLED:
        os.write(1, b"about to be killed\n")
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == KILLS_PARENT:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    elif behaviour == HANG:
        os.write(1, b"still loading\n")
        time.sleep(600)
    elif behaviour == OUT_OF_MEMORY:
        send("out_of_memory", message="the model needs 9 TB")
    elif behaviour == UNAVAILABLE:
        send("unavailable", reason="this runtime needs another machine")


def main():
    die_with_parent()
    pipe = int(sys.argv[1])

    def send(event, **fields):
        os.write(pipe, (json.dumps({"event": event, **fields}) + "\n").encode())

    job = json.load(sys.stdin)
    device = device_info("cpu").model_dump()
    send("device", device=device)
    behaviour = job["cell"]["workload"]["context_len"]
    if behaviour == FIRST_EXITS and job["seed"] == 0:
        misbehave(EXIT, send)
    if behaviour in (OUT_OF_MEMORY, UNAVAILABLE, EXIT, KILLED, HANG, KILLS_PARENT):
        misbehave(behaviour, send)
        return
    if behaviour == SILENT:
        return
    if behaviour == GARBAGE:
        os.write(1, b"{\xff\x00 no event\n" * 100)
    send("phase", phase="decoding")
    time.sleep(0.3 if behaviour == SLOW else 0.0)
    send("steps", count=1, p50_seconds=1e-3)
    send("measured", measured=measured(job, device))


if __name__ == "__main__":
    main()
