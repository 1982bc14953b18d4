"""`memfloor floor`: bytes by cause and the time they take, without touching a device."""

from typing import Annotated, Any

from cyclopts import Parameter

from memfloor.cli.output import one_or_list, print_json, print_table
from memfloor.cli.parse import parse_counts
from memfloor.floor import CONVENTIONS, floor_seconds, step_traffic
from memfloor.hardware import catalogue, find_device
from memfloor.spec import ModelSpec, Workload, check_context, load_model
from memfloor.units import format_bandwidth, format_bytes, format_seconds

THIS_MACHINE = "this-machine"


def floor(
    model: str,
    /,
    *,
    context: str = "2048",
    batch: int = 1,
    weights: str = "bf16",
    head: str | None = None,
    kv: str = "bf16",
    device: Annotated[list[str] | None, Parameter(negative=())] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Print the analytic floor of one decode step: its bytes by cause and the time they take.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        context: Tokens in the KV cache, a comma list such as 2048,4096.
        batch: Sequences decoded together.
        weights: Format of the attention and MLP weights.
        head: Format of the output head; 16 bits unless given when the other weights are quantised.
        kv: Format of the KV cache.
        device: Device of the catalogue, repeatable; this-machine measures its ceiling first. Default: all.
        json: Print one JSON object instead, a list for several contexts.
    """
    spec = load_model(model)
    bandwidths = _bandwidths(device)
    workloads = [Workload.of(length, batch, weights, kv, head) for length in parse_counts(context, "context")]
    for workload in workloads:
        check_context(spec, workload.context_len)
    if json:
        print_json(one_or_list([_as_json(spec, workload, bandwidths) for workload in workloads]))
        return
    for workload in workloads:
        _print_bytes(spec, workload)
        _print_times(spec, workload, bandwidths)


def _bandwidths(names: list[str] | None) -> dict[str, float]:
    if names is None:
        return {device.name: device.peak_bytes_per_second for device in catalogue().values()}
    return {
        name: _this_machine() if name == THIS_MACHINE else find_device(name).peak_bytes_per_second for name in names
    }


def _this_machine() -> float:
    from memfloor.engine.cpu.native import allowed_cpus
    from memfloor.measure.ceiling import ceiling_for
    from memfloor.measure.environment import default_device

    ceiling = ceiling_for(default_device(), allowed_cpus())
    ceiling.read(2)
    return ceiling.read(8).bytes_per_second


def _as_json(spec: ModelSpec, workload: Workload, bandwidths: dict[str, float]) -> dict[str, Any]:
    traffic = {name: step_traffic(spec, workload, name) for name in CONVENTIONS}
    return {
        "model": spec.name,
        "context_len": workload.context_len,
        "batch": workload.batch,
        "weights": workload.weights,
        "head": workload.head,
        "kv": workload.kv,
        "bytes": {name: {"total": item.total_bytes, **item.by_cause()} for name, item in traffic.items()},
        "floors": [
            {
                "device": device,
                "peak_bytes_per_second": bandwidth,
                "measured": device == THIS_MACHINE,
                "convention": name,
                "floor_seconds": floor_seconds(traffic[name], bandwidth),
            }
            for device, bandwidth in bandwidths.items()
            for name in CONVENTIONS
        ],
    }


def _print_bytes(spec: ModelSpec, workload: Workload) -> None:
    traffic = [step_traffic(spec, workload, name) for name in CONVENTIONS]
    causes = traffic[0].by_cause()
    rows = [[cause.replace("_", " "), *(format_bytes(item.by_cause()[cause]) for item in traffic)] for cause in causes]
    rows.append(["total", *(format_bytes(item.total_bytes) for item in traffic)])
    formats = f"{workload.weights} weights, {workload.head} head, {workload.kv} KV"
    title = f"{spec.name}, context {workload.context_len}, batch {workload.batch}: {formats}"
    print_table(title, ["bytes of one step", *CONVENTIONS], rows)


def _print_times(spec: ModelSpec, workload: Workload, bandwidths: dict[str, float]) -> None:
    traffic = [step_traffic(spec, workload, name) for name in CONVENTIONS]
    rows = [
        [device, format_bandwidth(bandwidth), *(format_seconds(floor_seconds(item, bandwidth)) for item in traffic)]
        for device, bandwidth in bandwidths.items()
    ]
    print_table("Floor of one step", ["device", "bandwidth", *CONVENTIONS], rows)
