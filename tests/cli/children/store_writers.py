"""Eight writers of one store, and random kills: `store_writers.py FOLDER ACKS` with a run on standard input.

Every writer adds all shared records once, and records of its own. A writer that was killed is started again until all
have come to their end. What a writer was told of a record goes to ACKS, a line each.
"""

import os
import random
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path

from memfloor.record import Run, Store

WRITERS, SHARED, OWN, KILLS = 8, 60, 10, 40


def record_id(*parts):
    return sha256(repr(parts).encode()).hexdigest()[:32]


def write(writer, start, folder, acks, template):
    """Add records in an order of this start's own; own ones are new in each start, for nothing may replace a record."""
    store = Store(folder)
    jobs = [("shared", record_id(number)) for number in range(SHARED)]
    jobs += [("own", record_id(writer, start, number)) for number in range(OWN)]
    random.Random(f"{writer} {start}").shuffle(jobs)
    for kind, name in jobs:
        record = template.model_copy(update={"record_id": name, "session_id": record_id(writer, start)})
        won = store.add_once(record) if kind == "shared" else bool(store.add(record))
        # One call, which a kill does not tear.
        os.write(acks, f"{kind} {name} {record.session_id} {won}\n".encode())


def fork(*job):
    child = os.fork()
    if child == 0:
        write(*job)
        os._exit(0)
    return child


def main():
    folder, template = Path(sys.argv[1]), Run.model_validate_json(sys.stdin.read())
    acks = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    moments, starts = random.Random(20261128), 0
    running = {fork(writer, 0, folder, acks, template): writer for writer in range(WRITERS)}
    killed = 0
    while running:
        if starts < KILLS:
            time.sleep(moments.uniform(0.0, 0.04))
            os.kill(moments.choice(sorted(running)), signal.SIGKILL)
        child, status = os.wait()
        writer = running.pop(child)
        if os.WIFSIGNALED(status) or starts < KILLS:
            killed += os.WIFSIGNALED(status)
            starts += 1
            running[fork(writer, starts, folder, acks, template)] = writer
        elif status:
            sys.exit("a writer failed")
    sys.stdout.write(f"{killed}\n")


if __name__ == "__main__":
    main()
