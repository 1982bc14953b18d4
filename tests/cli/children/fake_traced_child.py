"""A child that traces nothing and behaves as its cell's context tells it to."""

import json
import os
import sys
import time

SLOW, OTHER_TOKENS, NO_TRACE, EXIT = 27, 30, 31, 32

KERNEL = {"name": "k", "op": "k", "role": "weights", "start_seconds": [0.0] * 2, "seconds": [1e-3] * 2}
TRACE = {
    "tool": "fake",
    "device": "cpu",
    "step_seconds": [1e-3] * 2,
    "kernels": [KERNEL],
    "launches": {},
    "labelled": "plan",
}


def main():
    pipe = int(sys.argv[1])

    def send(event, **fields):
        os.write(pipe, (json.dumps({"event": event, **fields}) + "\n").encode())

    job = json.load(sys.stdin)
    behaviour = job["cell"]["workload"]["context_len"]
    if behaviour == EXIT:
        sys.exit("Traceback of the library\nArithmeticError: seven")
    time.sleep(0.3 if behaviour == SLOW else 0.0)
    graph = job["cell"]["options"].get("launch") == "graph"
    odd = 1 if graph and behaviour == OTHER_TOKENS else 0
    tokens = [[step + odd * (step == 5)] for step in range(job["output_steps"])]
    send("outputs", outputs={"tokens": tokens, "logits_sha256": "0" * 64})
    if behaviour == NO_TRACE:
        send("unavailable", reason="no profiler sees it")
    else:
        send("traced", traced=TRACE)


if __name__ == "__main__":
    main()
