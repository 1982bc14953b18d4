"""The read-only bandwidth of a device, read in the process whose steps it is compared with."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Protocol

from memfloor.engine.cpu import native as cpu
from memfloor.engine.cuda import backend as cuda
from memfloor.engine.cuda.launch_shapes import StreamShape
from memfloor.measure.environment import last_level_cache_bytes
from memfloor.record import CeilingReading

MIN_BUFFER_BYTES = 512 * 2**20
# A pass must be far beyond the last-level cache, or it measures the cache.
CACHE_MULTIPLE = 8
# Buffers are whole numbers of every block size that a kernel reads in.
ALIGNMENT_BYTES = 2**20


class Ceiling(Protocol):
    """Read a buffer far larger than the last-level cache, again and again."""

    def read(self, passes: int, after_steps: int = 0) -> CeilingReading:
        """Take one reading of several passes."""


def buffer_bytes(cache_bytes: int | None) -> int:
    """Return the size of a buffer that no cache of the given size can help with."""
    wanted = max(MIN_BUFFER_BYTES, CACHE_MULTIPLE * (cache_bytes or 0))
    return -(-wanted // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


class CpuCeiling:
    """Stream with the native kernel, one contiguous part per pinned thread, on huge pages where there are any.

    The kernel asks ahead in software or leaves that to the processor, whichever is faster when the ceiling is opened.
    """

    ROUNDS = 5

    def __init__(self, cpus: Sequence[int], size_bytes: int | None = None) -> None:
        self._native = cpu.native()
        self._cpus = list(cpus)
        self._buffer = self._native.Buffer(size_bytes or buffer_bytes(last_level_cache_bytes()))
        self._native.stream_fill(self._buffer, self._cpus)
        self._ahead = self._faster_ahead()
        how = "software prefetch" if self._ahead else "hardware prefetch"
        self.method = f"native stream_read {self._native.stream_isa()}, {how}, {len(self._cpus)} threads"

    def read(self, passes: int, after_steps: int = 0) -> CeilingReading:
        """Take one reading of several passes."""
        seconds = self._native.stream_read(self._buffer, self._cpus, passes, self._ahead).pass_seconds
        return _reading(seconds, self._buffer.size_bytes, after_steps, self.method)

    def copy(self, passes: int) -> CeilingReading:
        """Copy one half of the buffer to the other; both halves count."""
        return self._reading(self._native.stream_copy, passes, "native stream_copy")

    def triad(self, passes: int) -> CeilingReading:
        """Take STREAM's triad over thirds of the buffer; all three count."""
        return self._reading(self._native.stream_triad, passes, "native stream_triad")

    def _reading(self, kernel: Callable[..., Any], passes: int, method: str) -> CeilingReading:
        seconds = kernel(self._buffer, self._cpus, passes).pass_seconds
        return _reading(seconds, self._buffer.size_bytes, 0, method)

    def _faster_ahead(self) -> bool:
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(self.ROUNDS):
            for ahead, taken in seconds.items():
                taken += self._native.stream_read(self._buffer, self._cpus, 1, ahead).pass_seconds
        return median(seconds[True]) < median(seconds[False])


class CudaCeiling:
    """Stream with the engine's own Triton kernel, in the launch shape that is fastest on this device."""

    LAUNCHES_PER_PASS = 4
    # A launch ramps up and drains; the larger the buffer, the less of that is in the figure.
    MAX_BUFFER_BYTES = 4 * 2**30
    # Block, blocks in flight, warps, programs per multiprocessor.
    SHAPES = (
        (1024, 4, 4, None),
        (1024, 8, 4, None),
        (2048, 4, 8, None),
        (2048, 8, 8, None),
        (4096, 8, 16, None),
        (2048, 4, 8, 4),
        (1024, 4, 4, 8),
        (2048, 4, 8, 8),
    )

    def __init__(self, size_bytes: int | None = None) -> None:
        import torch

        from memfloor.engine.cuda.calls import stream_call

        self._torch, self._call = torch, stream_call
        properties = torch.cuda.get_device_properties(0)
        self._sms = properties.multi_processor_count
        size = size_bytes or self._default_bytes(properties)
        self._source = torch.empty(size // 4, dtype=torch.int32, device="cuda").random_()
        shape = self._fastest_shape()
        self._launch = self._launches(shape)
        self.method = f"triton stream {shape}"

    def read(self, passes: int, after_steps: int = 0) -> CeilingReading:
        """Take one reading of several passes; a pass is several launches between two events."""
        seconds = [self._time(self._launch) for _ in range(passes)]
        return _reading(seconds, self.LAUNCHES_PER_PASS * self._source.nbytes, after_steps, self.method)

    def copy(self, passes: int) -> CeilingReading:
        """Copy one half of the buffer to the other with the driver's copy; both halves count."""
        left, right = self._source.chunk(2)
        seconds = [self._time(lambda: right.copy_(left)) for _ in range(passes)]
        return _reading(seconds, self._source.nbytes, 0, "torch copy_")

    def triad(self, passes: int) -> CeilingReading:
        """Take STREAM's triad over quarters of the buffer; the three in use count."""
        target, left, right, _ = self._source.view(self._torch.float32).chunk(4)
        seconds = [self._time(lambda: self._torch.add(left, right, alpha=3, out=target)) for _ in range(passes)]
        return _reading(seconds, 3 * target.nbytes, 0, "torch add")

    def _default_bytes(self, properties: Any) -> int:
        # A sixteenth of the memory leaves room for a model that almost fills the device.
        roomy = min(self.MAX_BUFFER_BYTES, int(properties.total_memory) // 16 // ALIGNMENT_BYTES * ALIGNMENT_BYTES)
        return max(roomy, buffer_bytes(properties.L2_cache_size))

    def _fastest_shape(self) -> StreamShape:
        candidates = [StreamShape(*shape) for shape in self.SHAPES]
        for shape in candidates:
            self._time(self._launches(shape))
        return min(candidates, key=lambda shape: median(self._time(self._launches(shape)) for _ in range(3)))

    def _launches(self, shape: StreamShape) -> Callable[[], None]:
        programs = shape.programs(self._source.numel(), self._sms)
        partial = self._torch.empty(programs, dtype=self._torch.int32, device="cuda")
        call = self._call(self._source, partial, shape.block, shape.unroll, shape.warps)

        def launch() -> None:
            for _ in range(self.LAUNCHES_PER_PASS):
                call.issue()

        return launch

    def _time(self, call: Callable[[], object]) -> float:
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


def _reading(seconds: Sequence[float], pass_bytes: int, after_steps: int, method: str) -> CeilingReading:
    return CeilingReading(after_steps=after_steps, pass_bytes=pass_bytes, pass_seconds=tuple(seconds), method=method)


def unavailable_reason(device: str) -> str | None:
    """Say why the memory of a device kind cannot be read here, so that no run would have a ceiling; None if it can."""
    return cuda.library_reason() if device == "cuda" else cpu.unavailable_reason()


def ceiling_for(device: str, cpus: Sequence[int]) -> Ceiling:
    """Return the ceiling of a device kind, `cpu` or `cuda`, its buffer filled and its kernel warm.

    Args:
        device: Whose memory is read.
        cpus: The processors that read the memory of a CPU.
    """
    return CudaCeiling() if device == "cuda" else CpuCeiling(cpus)
