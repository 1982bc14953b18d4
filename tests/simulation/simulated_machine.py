"""A machine whose every cost is known.

A host launches kernels at a known cost each; kernels have known times at a known bandwidth; processes differ by an
offset, steps and kernels by noise; bandwidth drifts and may have two states; a profiler slows the host and, in a
replayed graph, adds to each kernel.
"""

from dataclasses import dataclass, replace

import numpy as np

from memfloor.floor import step_traffic
from memfloor.record import CeilingReading, Cell, Protocol
from memfloor.spec import Workload, load_model

# A decoder block as transformers runs it; the last but two copies keys and values.
BLOCK_ROLES = (
    "elementwise",
    "weights",
    "weights",
    "elementwise",
    "cache",
    "attention",
    "weights",
    "elementwise",
    "weights",
    "weights",
)
# What each role's kernels take over what their bytes would, or in all where they must read none.
SLOWER = {"weights": 1.3, "attention": 2.5}
TERMS = {
    "weights": "weight products",
    "attention": "attention",
    "cache": "cache copies",
    "elementwise": "norms and elementwise",
    "sampling": "sampling",
}
PASS_BYTES = 2**29


@dataclass(frozen=True)
class Machine:
    """Hold the truth.

    Attributes:
        launches: `eager`, one by one, or `graph`.
        blocks: Decoder blocks of ten kernels.
        ceiling: Bytes per second.
        extra_seconds: By role, the time of kernels that must read nothing.
        launch_seconds: The host's cost of a launch outside an operator.
        operator_seconds: The same inside an operator, where a trace of a CPU cannot tell it from its work.
        call_seconds: The last part of a launch, which a trace shows as the driver's call.
        before_seconds, after_seconds: What the host does before its first launch and after its last one.
        latency_seconds: From a launch to the earliest start of its kernel.
        gap_seconds: Between two kernels of a graph.
        replay_seconds: What a profiler adds between two kernels of a graph.
        profiler: The range of factors by which it slows the host.
        run_noise, step_noise, kernel_noise, host_noise, reading_noise, drift: Standard deviations of logarithms.
        flips: How likely bandwidth changes its state before a step or a reading.
        slow: By role, how much longer kernels take in the slower state; readings of the ceiling go as `weights`.
    """

    device: str
    launches: str
    model: str
    context: int
    ceiling: float
    blocks: int
    extra_seconds: dict
    launch_seconds: float
    operator_seconds: float = 0.0
    call_seconds: float = 5e-6
    before_seconds: float = 20e-6
    after_seconds: float = 10e-6
    latency_seconds: float = 3e-6
    gap_seconds: float = 0.3e-6
    replay_seconds: float = 0.0
    profiler: tuple = (1.2, 2.0)
    run_noise: float = 0.01
    step_noise: float = 0.005
    kernel_noise: float = 0.02
    host_noise: float = 0.03
    reading_noise: float = 0.005
    drift: float = 0.01
    flips: float = 0.0
    slow: dict | None = None

    @property
    def cell(self):
        options = {} if self.device == "cpu" and self.launches == "graph" else {"launch": self.launches}
        spec, workload = load_model(self.model), Workload.of(self.context)
        return Cell(spec=spec, workload=workload, runtime="hf-static", options=options, device=self.device)

    @property
    def protocol(self):
        return Protocol.on(self.device)

    @property
    def roles(self):
        return [*BLOCK_ROLES * self.blocks, "weights", "sampling"]

    @property
    def step_bytes(self):
        return step_traffic(self.cell.spec, self.cell.workload).total_bytes

    def role_bytes(self):
        """Return the bytes that each role must read; what is neither weights nor KV counts as elementwise."""
        traffic = step_traffic(self.cell.spec, self.cell.workload)
        weights = traffic.attention_weights + traffic.mlp_weights + traffic.head + traffic.scales
        rest = traffic.total_bytes - weights - traffic.kv_read
        return {"weights": weights, "attention": traffic.kv_read, "elementwise": rest, "cache": 0, "sampling": 0}

    def kernel_seconds(self):
        """Return the time of each kernel at the ceiling, without noise."""
        read, roles = self.role_bytes(), self.roles
        total = {
            role: SLOWER.get(role, 1.0) * read[role] / self.ceiling + self.extra_seconds.get(role, 0.0)
            for role in TERMS
        }
        return np.array([total[role] / roles.count(role) for role in roles])

    def truth(self):
        """Return every term of the ledger of this machine without noise, in seconds."""
        quiet = replace(
            self, run_noise=0, step_noise=0, kernel_noise=0, host_noise=0, drift=0, flips=0.0, replay_seconds=0.0
        )
        seconds, read = self.kernel_seconds(), self.role_bytes()
        steps, _ = Process(quiet, np.random.default_rng(0)).steps(1)
        terms = {"step": float(steps[0]), "floor": self.step_bytes / self.ceiling}
        for role, name in TERMS.items():
            mine = seconds[np.array(self.roles) == role].sum()
            terms[name] = float(mine - read[role] / self.ceiling)
        return terms | {"host and launch": float(steps[0] - seconds.sum()), "unexplained": 0.0}


class Process:
    """Be one process on a machine: its own offsets, and a bandwidth that goes on from step to step."""

    def __init__(self, machine, generator, shared=1.0):
        """Start; `shared` slows all that this process does, as its neighbours in a block are slowed."""
        self.machine, self.generator = machine, generator
        self.kernels = shared * np.exp(generator.normal(0, machine.run_noise))
        self.host = shared * np.exp(generator.normal(0, machine.host_noise))
        self.drift = generator.normal(0, machine.drift)
        self.is_slow = bool(machine.flips) and generator.random() < 0.5

    def advance(self):
        """Return by role how much longer kernels take for the length of one step or reading."""
        machine = self.machine
        # Keeps the spread it began with.
        self.drift = 0.9 * self.drift + np.sqrt(1 - 0.81) * self.generator.normal(0, machine.drift)
        if machine.flips and self.generator.random() < machine.flips:
            self.is_slow = not self.is_slow
        slow = machine.slow if self.is_slow else dict.fromkeys(TERMS, 1.0)
        return {role: slow[role] * np.exp(-self.drift) for role in TERMS}

    def reading(self, after_steps):
        machine = self.machine
        slower = self.advance()["weights"]
        noise = np.exp(self.generator.normal(0, machine.reading_noise, machine.protocol.ceiling_passes))
        passes = PASS_BYTES / machine.ceiling * slower * noise
        return CeilingReading(
            after_steps=after_steps, pass_bytes=PASS_BYTES, pass_seconds=tuple(passes), method="simulated"
        )

    def work(self, count):
        """Return the time of each kernel in each of a number of steps, as [steps, kernels]."""
        machine, noise = self.machine, self.generator
        states = [self.advance() for _ in range(count)]
        slower = np.array([[state[role] for role in machine.roles] for state in states])
        steps = np.exp(noise.normal(0, machine.step_noise, (count, 1)))
        kernels = np.exp(noise.normal(0, machine.kernel_noise, slower.shape))
        return machine.kernel_seconds() * self.kernels * slower * steps * kernels

    def launches(self, count, factor=1.0):
        """Return when the driver is called for each kernel, as [steps, kernels], and when the host is done."""
        machine = self.machine
        scale = factor * self.host * np.exp(self.generator.normal(0, machine.step_noise, (count, 1)))
        returned = machine.before_seconds + machine.launch_seconds * np.arange(1, len(machine.roles) + 1)
        return scale * (returned - machine.call_seconds), scale[:, 0] * (returned[-1] + machine.after_seconds)

    def queue(self, work, launches):
        """Return the start of each kernel: when it was launched and the one before has ended."""
        starts, end = np.empty_like(work), np.zeros(len(work))
        for kernel in range(work.shape[1]):
            starts[:, kernel] = np.maximum(end, launches[:, kernel] + self.machine.latency_seconds)
            end = starts[:, kernel] + work[:, kernel]
        return starts

    def replay(self, work, issue, added=0.0):
        """Return the start of each kernel of a graph that the host issues at once."""
        ends = np.cumsum(work + self.machine.gap_seconds + added, axis=1)
        first = issue[:, None] + self.machine.latency_seconds
        return np.hstack([first, first + ends[:, :-1]])

    def host_only(self, count, factor=1.0):
        """Return what a CPU's step takes beside its work: in operators, and outside of them."""
        machine, kernels = self.machine, len(self.machine.roles)
        scale = factor * self.host * np.exp(self.generator.normal(0, machine.step_noise, count))
        outside = machine.before_seconds + kernels * machine.launch_seconds
        return scale * kernels * machine.operator_seconds, scale * outside

    def steps(self, count):
        """Return the time of a number of steps, and the time in which the host issues each; None on a CPU."""
        machine, work = self.machine, self.work(count)
        if machine.device == "cpu":
            inside, outside = self.host_only(count)
            return work.sum(axis=1) + (inside + outside if machine.launches == "eager" else 0.0), None
        if machine.launches == "eager":
            launches, issued = self.launches(count)
            starts = self.queue(work, launches)
        else:
            issued = self.host * np.full(count, machine.before_seconds)
            starts = self.replay(work, issued)
        return starts[:, -1] + work[:, -1], issued
