"""The workers of a plan, by the executor of each machine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product

from memfloor.sweep.driver import Slot
from memfloor.sweep.machines import LocalMachine, Machine, RayMachine, SshMachine
from memfloor.sweep.pipe import PipeWorker, Worker, local_command, ssh_command
from memfloor.sweep.place import Setup
from memfloor.sweep.ray_cluster import connected, ray_slots


@contextmanager
def fleet(machines: Sequence[Machine], ray_address: str | None) -> Iterator[list[Slot]]:
    """Give the workers of machines, none of them started yet.

    Args:
        machines: Machines of a plan.
        ray_address: Of the Ray cluster; `auto` unless given.
    """
    needs_ray = any(isinstance(machine, RayMachine) for machine in machines)
    with connected(ray_address or "auto") if needs_ray else nullcontext():
        yield [slot for machine in machines for slot in _slots(machine)]


def _slots(machine: Machine) -> list[Slot]:
    match machine:
        case LocalMachine():
            return local_slots(machine)
        case SshMachine():
            return ssh_slots(machine)
        case RayMachine():
            return ray_slots(machine)


def local_slots(machine: LocalMachine) -> list[Slot]:
    """Return the workers on the driver's own machine."""
    if machine.gpus:
        setups = [Setup(device=machine.device, cpus=machine.cpus, gpu=gpu) for gpu in machine.gpus]
    else:
        setups = [Setup(device=machine.device, cpus=machine.cpus)] * machine.workers
    several = len(setups) > 1
    return [
        Slot(machine, f"{machine.name}/{number}" if several else machine.name, _opened(local_command(), setup))
        for number, setup in enumerate(setups)
    ]


def ssh_slots(machine: SshMachine) -> list[Slot]:
    """Return the workers on hosts that are reached over SSH."""
    slots = []
    for host, gpu in product(machine.hosts, machine.gpus or (None,)):
        setup = Setup(device=machine.device, cpus=machine.cpus, gpu=gpu)
        name = f"{machine.name}/{host}" if gpu is None else f"{machine.name}/{host}/{gpu}"
        slots.append(Slot(machine, name, _opened(ssh_command(host, machine.python), setup)))
    return slots


def _opened(command: list[str], setup: Setup) -> Callable[[Callable[[], bool]], Worker]:
    return lambda is_wanted: PipeWorker(command, setup)
