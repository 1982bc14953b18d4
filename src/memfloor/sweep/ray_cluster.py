"""Workers in a Ray cluster: connected to, asked for what it has, and each an actor of its own."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.one_run import OnEvent, RunOrder
from memfloor.record import Failure, Run, Skip
from memfloor.sweep.driver import Slot
from memfloor.sweep.machines import RayMachine
from memfloor.sweep.pipe import WorkerLost, parse_answer
from memfloor.sweep.place import Hello, Setup
from memfloor.sweep.ray_actor import RemoteWorker

CONNECT_SECONDS = 5.0
# Time in which the cluster is to give a worker its place.
START_SECONDS, LOOK_SECONDS = 300.0, 1.0
# What a client of HTTP/2, and so of gRPC, says first: the preface and empty settings.
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SETTINGS_FRAME = 4


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to a cluster.

    Args:
        address: HOST:PORT of its head, or `auto` for the one on this machine.

    Raises:
        UsageError: Ray is not installed, there is no cluster, or it has other versions of Ray or Python.
    """
    # Ray prints there the last pages of a dead node's log; that it is dead is said of its worker.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        ray = _connect(address)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed; pip install 'memfloor[ray]'") from None
    try:
        where = _resolve(address)
        _check_reachable(where)
        ray.init(address=where, log_to_driver=False, logging_level="ERROR", namespace="memfloor")
    except (ConnectionError, ValueError, RuntimeError) as error:
        # Ray says in many lines which versions of itself and of Python do not match.
        raise UsageError(f"Ray cluster {address!r}: {error}") from error
    return ray


def ray_slots(machine: RayMachine) -> list[Slot]:
    """Return the workers of a machine in the cluster that this process is connected to.

    Raises:
        UsageError: The cluster has no node with what a worker needs, or fewer than are wanted.
    """
    import ray

    places = count_places(machine, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if machine.workers is not None and machine.workers > places:
        raise UsageError(f"machine {machine.name!r}: {machine.workers} workers do not fit; the cluster takes {places}")
    wanted = places if machine.workers is None else machine.workers
    return [Slot(machine, f"{machine.name}/{number}", partial(RayWorker, machine)) for number in range(wanted)]


def count_places(machine: RayMachine, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many workers of a machine the nodes of a cluster have place for.

    Args:
        machine: What a worker needs.
        nodes: Resources of each node.

    Raises:
        UsageError: No node has what a worker needs.
    """
    prefix = "accelerator_type:"
    if machine.accelerator_type is not None:
        types = sorted({name.removeprefix(prefix) for node in nodes for name in node if name.startswith(prefix)})
        if machine.accelerator_type not in types:
            raise UsageError(
                f"machine {machine.name!r}: no node of the cluster has accelerator_type {machine.accelerator_type!r}; "
                f"there are: {', '.join(types) or 'none'}"
            )
        nodes = [node for node in nodes if prefix + machine.accelerator_type in node]
    cpus, most = machine.cpus or 1, int(max((node.get("CPU", 0) for node in nodes), default=0))
    places = [int(node.get("CPU", 0)) // cpus for node in nodes]
    if machine.accelerator_type is not None:
        places = [min(place, int(node.get("GPU", 0))) for place, node in zip(places, nodes, strict=True)]
    if not sum(places):
        raise UsageError(f"machine {machine.name!r}: no node has {cpus} CPUs for a worker; the largest has {most}")
    return sum(places)


class RayWorker:
    """Be a worker that is an actor in the cluster that this process is connected to."""

    def __init__(self, machine: RayMachine, is_wanted: Callable[[], bool]) -> None:
        """Start the actor and wait until it has said what it is.

        Args:
            machine: What it needs.
            is_wanted: Whether to go on waiting for a place.

        Raises:
            UsageError: It refuses to be what is wanted.
            WorkerLost: It does not come up in time.
        """
        import ray

        # Never restarted by Ray: the driver alone decides what is tried again.
        self._actor: Any = ray.remote(**_needs(machine), max_restarts=0)(RemoteWorker).remote()
        setup = Setup(device=machine.device, cpus=machine.cpus)
        try:
            answer = _wait(self._actor.hello.remote(setup.model_dump_json()), is_wanted)
            if "refused" in answer:
                raise UsageError(answer["refused"])
        except BaseException:
            self.stop()
            raise
        self.hello = Hello.model_validate(answer["hello"])

    def take(self, order: RunOrder, on_event: OnEvent) -> Run | Failure | Skip:
        """Take one run in a fresh process; see `Worker`."""
        import ray

        try:
            for answered in self._actor.take.options(num_returns="streaming").remote(order.model_dump_json()):
                answer = json.loads(ray.get(answered))
                if "record" in answer:
                    return parse_answer(answer["record"], order)
                on_event(answer["event"])
        except ray.exceptions.RayError as error:
            raise WorkerLost(_last_line(error)) from error
        raise WorkerLost("the actor ended without a record")

    def stop(self) -> None:
        """End the actor and whatever it is taking; see `Worker`."""
        import ray

        ray.kill(self._actor)

    def close(self) -> None:
        """End the actor, which leaves nothing here; see `Worker`."""
        self.stop()


def _wait(hello: Any, is_wanted: Callable[[], bool]) -> dict[str, Any]:
    import ray

    deadline = time.monotonic() + START_SECONDS
    try:
        while not ray.wait([hello], timeout=LOOK_SECONDS)[0]:
            if not is_wanted():
                raise WorkerLost("its place came too late")
            if time.monotonic() > deadline:
                raise WorkerLost(f"the cluster gave it no place in {START_SECONDS:g} s")
        answer: dict[str, Any] = json.loads(ray.get(hello))
    except ray.exceptions.RayError as error:
        raise WorkerLost(_last_line(error)) from error
    return answer


def _needs(machine: RayMachine) -> dict[str, Any]:
    needs: dict[str, Any] = {"num_cpus": machine.cpus or 1}
    if machine.accelerator_type is None:
        return needs | {"scheduling_strategy": "SPREAD"}
    return needs | {"num_gpus": 1, "accelerator_type": machine.accelerator_type}


def _resolve(address: str) -> str:
    # Ray's own way to what `auto` means; `init` would try a dead cluster for more than a minute, then end the process.
    from ray._private.services import canonicalize_bootstrap_address_or_die

    return str(canonicalize_bootstrap_address_or_die(address))


def _check_reachable(where: str) -> None:
    host, _, port = where.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
            connection.sendall(HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        raise ConnectionError(f"cannot be reached at {where}: {error.strerror or error}") from error
    if len(answer) < 4 or answer[3] != SETTINGS_FRAME:
        raise ConnectionError(f"what answers at {where} is no Ray cluster")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
