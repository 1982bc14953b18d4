"""What do Ray's own processes cost the measurement? One cell with and without them, in interleaved blocks.

The baseline's runs are those of a local worker on a machine where no Ray runs; the candidate's those of a worker in a
cluster of one node on the same machine, which is started for each of its runs and ended after it. All else is equal, so
it is an A/A whose verdict should be equivalent. Writes the records to DIR, where `memfloor report` reads them, and
prints the ratio with its interval, and the processor time that Ray took meanwhile. Needs memfloor[ray] and a quiet
machine; on a GPU machine say --device cuda and Ray's name of the GPU. Started again it goes on.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil
from ray.cluster_utils import Cluster

from memfloor.experiments import comparing
from memfloor.experiments.blocks import CHILD_MODULE
from memfloor.experiments.one_run import RunOrder
from memfloor.experiments.session import Session
from memfloor.experiments.study import grid
from memfloor.record import Cell, Protocol, Store, parse_runtime
from memfloor.report.compared import compare
from memfloor.report.comparison_tables import comparison_lines
from memfloor.sweep.machines import RayMachine
from memfloor.sweep.pipe import PipeWorker, Worker, local_command
from memfloor.sweep.place import Setup
from memfloor.sweep.ray_cluster import RayWorker, connected
from memfloor.units import format_percent

MARGIN, STORE_BYTES = 0.02, 100 * 2**20
# After the cluster has come up and its workers are started, before the run.
SETTLE_SECONDS = 5.0


def main() -> None:
    options = parse_arguments()
    (cell,) = grid([options.model], [options.context], [parse_runtime(options.runtime)], options.device)
    store = Store(options.out)
    store.open_for_writing()
    protocol = Protocol.on(options.device, timed_steps=options.timed_steps)
    terms = comparing.Terms("aa", options.runs, protocol, seed=0, margin=MARGIN)
    session = comparing.open_session(comparing.twice([cell]), terms, store)
    shares = take(session, store, options)
    session = replace(session, records=store.contents().of_session(session.session_id).runs)
    session = comparing.observe_arms(session, store, options.time_limit_seconds, say)
    (compared,) = compare(session.comparisons, session.observations, session.records)
    ratio = f"{compared.ratio.value:.4f} {compared.ratio.ci95}" if compared.ratio else "none"
    print("\n  ".join([f"without over with Ray: {ratio}; {compared.verdict}", *comparison_lines(compared)]))
    if shares:
        print(f"Ray's own processes took {format_percent(median(shares))} of one processor, the median over runs")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--runtime", default="engine", help="runtime and its options")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--accelerator-type", help="Ray's name of the GPU, such as H100")
    parser.add_argument("--runs", type=int, default=10, help="blocks, each a run without and a run with Ray")
    parser.add_argument("--timed-steps", type=int, default=30)
    parser.add_argument("--time-limit-seconds", type=float, default=900.0)
    return parser.parse_args()


def take(session: Session, store: Store, options: argparse.Namespace) -> list[float]:
    """Take the runs that a session lacks, and return the share of a processor that Ray took during each of its own."""
    (comparison,) = session.comparisons
    arms = {"without": comparison.baseline, "with": comparison.candidate}
    shares: list[float] = []
    for block in range(comparison.planned_runs):
        for arm in random.Random(block).sample(sorted(arms), 2):
            cell = arms[arm]
            if block in session.done.get(cell.key, set()):
                continue
            say(f"block {block + 1} of {comparison.planned_runs}, {arm} Ray")
            order = RunOrder(
                record_id=comparing.identity(session.session_id)["record_id"],
                session_id=session.session_id,
                block=block,
                seed=block,
                cell=cell,
                protocol=comparison.protocol,
                time_limit_seconds=options.time_limit_seconds,
                child_module=CHILD_MODULE,
            )
            with local_worker(cell) if arm == "without" else ray_worker(cell, options) as worker:
                begin, before = time.monotonic(), ray_seconds()
                store.add(worker.take(order, lambda event: None))
                if arm == "with":
                    shares.append((ray_seconds() - before) / (time.monotonic() - begin))
    return shares


@contextmanager
def local_worker(cell: Cell) -> Iterator[Worker]:
    worker = PipeWorker(local_command(), Setup(device=cell.device))
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def ray_worker(cell: Cell, options: argparse.Namespace) -> Iterator[Worker]:
    """Start a cluster of this machine alone, and end it with its worker."""
    cpus = len(os.sched_getaffinity(0))
    resources = {f"accelerator_type:{options.accelerator_type}": 1} if options.accelerator_type else {}
    settings = {"num_cpus": cpus, "resources": resources, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=settings)
    try:
        with connected(cluster.address):
            machine = RayMachine(
                name="node",
                executor="ray",
                device=cell.device,
                cpus=cpus,
                accelerator_type=options.accelerator_type,
            )
            worker = RayWorker(machine, lambda: True)
            time.sleep(SETTLE_SECONDS)
            yield worker
            worker.close()
    finally:
        cluster.shutdown()


def ray_seconds() -> float:
    """Return the processor time of all of Ray's processes; its driver and worker, which wait, are among them."""
    total = 0.0
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        times, command = process.info["cpu_times"], " ".join(process.info["cmdline"] or [])
        if times and ("ray::" in command or "/ray/" in command):
            total += times.user + times.system
    own = psutil.Process().cpu_times()
    return total + own.user + own.system


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
