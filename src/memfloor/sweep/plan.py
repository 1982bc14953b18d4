"""The plan of a sweep: a TOML file of grids and machines, with every mistake named by file and key."""

import hashlib
import tomllib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from memfloor.errors import UsageError, first_problem
from memfloor.experiments.study import grid
from memfloor.floor import step_traffic
from memfloor.hardware import find_device
from memfloor.record import Cell, Protocol, parse_runtime
from memfloor.sweep.machines import NAME, Machine, Said
from memfloor.units import format_bytes


class Grid(Said):
    """Say which cells are taken, and on which machines.

    Attributes:
        models: Catalogue names, or paths on the driver's machine.
        contexts: Tokens in the KV cache.
        runtimes: Runtimes and their options, as the command line takes them.
        batches: Sequences decoded together.
        weights: Format of the weights.
        head: Format of the output head.
        kv: Format of the KV cache.
        threads: CPU threads; those of the CPUs that a run is bound to unless given.
        prefill: Whether the KV cache is filled by a real prefill.
        weights_from: Checkpoint directory, under the same path on the driver's machine and on all others.
        machines: Names of the machines that take these cells; all unless given.
    """

    models: tuple[str, ...] = Field(min_length=1)
    contexts: tuple[int, ...] = Field(min_length=1)
    runtimes: tuple[str, ...] = Field(min_length=1)
    batches: tuple[int, ...] = Field(default=(1,), min_length=1)
    weights: str = "bf16"
    head: str | None = None
    kv: str | None = None
    threads: int | None = Field(default=None, ge=1)
    prefill: bool = False
    weights_from: str | None = None
    machines: tuple[str, ...] = ()

    def cells(self, machine: Machine) -> list[Cell]:
        """Return the cells for a machine; on a CPU those that are bound to some CPUs have as many threads.

        Raises:
            UsageError: A name, option, format or context is unknown or impossible.
        """
        bound = machine.cpus if machine.device == "cpu" else None
        if bound is not None and self.threads is not None and self.threads > bound:
            raise UsageError(f"threads {self.threads} are more than the {bound} cpus of machine {machine.name!r}")
        return grid(
            self.models,
            self.contexts,
            [parse_runtime(text) for text in self.runtimes],
            machine.device,
            batch=self.batches,
            weights=self.weights,
            head=self.head,
            kv=self.kv,
            threads=self.threads or bound,
            prefill=self.prefill,
            weights_from=self.weights_from,
        )


class SweepPlan(Said):
    """Hold what a plan file says.

    Attributes:
        name: Of the sweep; part of the identity of its runs.
        runs: Runs of each cell on each machine's name.
        seed: Of the order within blocks, of weights and cache.
        warmup_steps: Steps before the timed ones.
        timed_steps: Timed steps of a run.
        time_limit_seconds: Time after which a run is ended and recorded as a failure.
        attempts: How often a run is tried whose worker was lost, and a worker that cannot be reached.
        grid: The cells.
        machine: The machines.
    """

    name: str = Field(pattern=NAME)
    runs: int = Field(default=10, ge=1)
    seed: int = 0
    warmup_steps: int = Field(default=5, ge=1)
    timed_steps: int = Field(default=30, ge=2)
    time_limit_seconds: float = Field(default=900.0, gt=0, allow_inf_nan=False)
    attempts: int = Field(default=3, ge=1)
    grid: tuple[Grid, ...] = Field(min_length=1)
    machine: tuple[Annotated[Machine, Field(discriminator="executor")], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [machine.name for machine in self.machine]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"machine name {twice[0]!r} is given twice")
        for name in chain.from_iterable(item.machines for item in self.grid):
            if name not in names:
                raise UsageError.unknown("machine of a grid", name, names)
        return self

    def protocol(self, machine: Machine) -> Protocol:
        """Return how a run is taken on a machine."""
        return Protocol.on(machine.device, warmup_steps=self.warmup_steps, timed_steps=self.timed_steps)

    def cells(self, machine: Machine) -> list[Cell]:
        """Return the cells that a machine takes, each once.

        Raises:
            UsageError: A name, option, format or context is unknown or impossible.
        """
        wanted = [item for item in self.grid if not item.machines or machine.name in item.machines]
        return list({cell.key: cell for item in wanted for cell in item.cells(machine)}.values())

    def run_id(self, machine: Machine, cell: Cell, block: int) -> str:
        """Return the identity of a run, the same in every attempt at it and after every restart of the driver."""
        protocol = self.protocol(machine).model_dump_json()
        return digest(self.name, self.seed, protocol, machine.name, cell.key, block)

    def session_id(self, machine: Machine, place: str) -> str:
        """Return the session of one place's runs: what was taken on another machine is never paired with them."""
        return digest(self.name, self.seed, machine.name, place)


def digest(*parts: object) -> str:
    """Return 32 hexadecimal digits that differ between any two different lists of parts."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:32]


def read_plan(path: Path) -> SweepPlan:
    """Return the plan of a file, once everything in it is known to be possible as far as this machine can tell.

    Raises:
        UsageError: The file cannot be read, is not TOML, or a value in it is unknown or impossible.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        plan = SweepPlan.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}") from error
    for number, item in enumerate(plan.grid):
        _check_cells(f"{path}: grid.{number}", item, plan.machine)
    idle = [machine.name for machine in plan.machine if not plan.cells(machine)]
    if idle:
        raise UsageError(f"{path}: no grid names machine {idle[0]!r}")
    return plan


def _check_cells(where: str, item: Grid, machines: Sequence[Machine]) -> None:
    for machine in machines:
        if item.machines and machine.name not in item.machines:
            continue
        try:
            cells = item.cells(machine)
            _check_memory(cells, machine)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error


def _check_memory(cells: Sequence[Cell], machine: Machine) -> None:
    if machine.hardware is None:
        return
    memory_bytes = find_device(machine.hardware).memory_bytes
    for cell in cells:
        # What a step reads lies in memory, so this is too little, and what does not hold it is impossible.
        needed_bytes = step_traffic(cell.spec, cell.workload).total_bytes
        if needed_bytes > memory_bytes:
            raise UsageError(
                f"{cell.spec.name} in {cell.workload.weights} reads {format_bytes(needed_bytes)} a step; machine "
                f"{machine.name!r} is {machine.hardware} with {format_bytes(memory_bytes)}"
            )
