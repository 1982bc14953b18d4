"""A child that decodes nothing and behaves as the number of its tokens tells it to."""

import json
import os
import sys
import time

SLOW = 27


def main():
    job = json.load(sys.stdin)
    tokens = len(job["tokens"])
    time.sleep(0.3 if tokens == SLOW else 0.0)
    errors = {
        "relative_errors": [0.1] * tokens,
        "agrees": [True] * tokens,
        "kl_nats": [0.01] * tokens,
        "surprise_nats": [1.0] * (tokens - 1),
        "reference_surprise_nats": [1.0] * (tokens - 1),
    }
    os.write(int(sys.argv[1]), (json.dumps({"event": "errors", "errors": errors}) + "\n").encode())


if __name__ == "__main__":
    main()
