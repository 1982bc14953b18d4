"""The energy of one cell in this process: idle with the model loaded, decode without a pause, idle again."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.experiments.job import Unavailable, describe_environment
from memfloor.measure.energy import EndlessDecode, WindowReader, too_short, wait_for, warm_up
from memfloor.measure.energy_meters import EnergyMeter, open_meter
from memfloor.measure.nvml import Unanswered
from memfloor.measure.telemetry import LoadWatch, read_sensors
from memfloor.record import Cell, DeviceInfo, EnergyProtocol, EnergyReading, EnergyWindow, MeasuredEnergy
from memfloor.runtimes import DecodeRequest, find_runtime


class EnergyJob(BaseModel):
    """Ask a child process for one energy run.

    Attributes:
        cell: What is decoded and how.
        protocol: How the run is taken.
        seed: Of weights and cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    protocol: EnergyProtocol
    seed: int


def do_energy(job: EnergyJob, device: DeviceInfo, on_phase: Callable[[str], None]) -> MeasuredEnergy:
    """Take one energy run in this process, on the device that `device_info` described.

    Nothing else is measured in it: no step is timed and no ceiling is read.

    Raises:
        Unavailable: There is no sensor, a window is too short for it, or the runtime cannot run this cell here.
        MemoryError: The model does not fit.
    """
    cell, runtime_class = job.cell, find_runtime(job.cell.runtime)
    # Before the runtime is prepared, which may bind this thread.
    threads = len(allowed_cpus(cell.threads))
    reason = runtime_class.unavailable_reason(cell)
    if reason is not None:
        raise Unavailable(reason)
    on_phase("looking for an energy sensor")
    meter = _meter(cell.device, job.protocol)
    request, calls = decode_request(job, runtime_class.steps_per_call(cell), on_phase)
    on_phase("loading")
    runtime = runtime_class(request)
    runtime.prepare()
    windows = _Windows(WindowReader(meter), device, job.protocol, on_phase)
    decode = EndlessDecode(runtime.step, runtime.rewind, wait_for(cell.device), calls)
    watch, before = LoadWatch(), read_sensors(device)
    taken = windows.take(decode)
    environment = describe_environment(device, threads, watch, before)
    on_phase("observing the path")
    runtime.rewind()
    return MeasuredEnergy(
        sensor=meter.sensor,
        **taken,
        calls=decode.calls,
        steps_per_call=runtime_class.steps_per_call(cell),
        start_len=request.start_len,
        span_calls=calls,
        rewinds=decode.rewinds,
        rewind_seconds=decode.rewind_seconds,
        environment=environment,
        path=runtime.observed_path(),
    )


def decode_request(
    job: EnergyJob, steps_per_call: int, report: Callable[[str], None] = lambda text: None
) -> tuple[DecodeRequest, int]:
    """Return what a runtime is asked for, and the calls after which the decode goes back.

    A span holds no more steps than the protocol says, nor than the context; its middle step finds the context.
    """
    context_len = job.cell.workload.context_len
    calls = max(1, min(job.protocol.span_steps, context_len) // steps_per_call)
    request = DecodeRequest(
        cell=job.cell,
        start_len=max(1, context_len - calls * steps_per_call // 2),
        # The census after the windows takes one more call.
        max_steps=(calls + 1) * steps_per_call,
        seed=job.seed,
        report=report,
    )
    return request, calls


@dataclass(frozen=True, slots=True)
class _Windows:
    """Take the windows of a run, and read the other sensors right after each."""

    reader: WindowReader
    device: DeviceInfo
    protocol: EnergyProtocol
    on_phase: Callable[[str], None]

    def take(self, decode: EndlessDecode) -> dict[str, EnergyWindow]:
        """Idle, decode and idle again; the decode's counts are those of its window afterwards."""
        return {
            "idle_before": self._idle("before"),
            "decoding": self._decoding(decode),
            "idle_after": self._idle("after"),
        }

    def _idle(self, when: str) -> EnergyWindow:
        self.on_phase(f"idling for {self.protocol.idle_seconds:g} s {when} it decodes")
        self.reader.sleep(self.protocol.settle_seconds)
        return self._window(self.reader.idle(self.protocol.idle_seconds))

    def _decoding(self, decode: EndlessDecode) -> EnergyWindow:
        self.on_phase(f"decoding for {self.protocol.seconds:g} s")
        warm_up(decode, self.protocol.warm_seconds)
        return self._window(self.reader.decoding(decode, self.protocol.seconds))

    def _window(self, readings: tuple[EnergyReading, ...]) -> EnergyWindow:
        return EnergyWindow(readings=readings, sensors=read_sensors(self.device))


def _meter(device: str, protocol: EnergyProtocol) -> EnergyMeter:
    try:
        meter = open_meter(device)
    except Unanswered as reason:
        raise Unavailable(str(reason)) from reason
    problem = too_short(meter, min(protocol.seconds, protocol.idle_seconds))
    if problem is not None:
        raise Unavailable(problem)
    return meter
