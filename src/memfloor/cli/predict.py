"""`memfloor predict`: how long a step would take where nothing was measured, and how wrong that may be."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_table, print_text
from memfloor.cli.records import read_store
from memfloor.errors import UsageError
from memfloor.hardware import find_device
from memfloor.spec import Workload, load_model
from memfloor.units import GIGA, format_seconds

if TYPE_CHECKING:
    from memfloor.report.prediction import Prediction
    from memfloor.report.summary import CellSummary

EXIT_CANNOT_TELL = 3
# The same kernels, or nearly, in one graph a step.
WITH_GRAPHS = {
    "hf-eager": "hf-static,launch=graph",
    "hf-static": "hf-static,launch=graph",
    "engine,launch=eager": "engine",
}


def predict(
    model: str,
    /,
    *,
    device: str,
    runtime: str = "hf-eager",
    context: int = 2048,
    weights: str = "bf16",
    head: str | None = None,
    kv: str = "bf16",
    bandwidth: float | None = None,
    graphs: Annotated[bool, Parameter(negative=())] = False,
    records: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Predict a decode step at batch 1 where nothing was measured, from what the same runtime took elsewhere.

    The model is fitted to the records of a folder and, for hf-eager, to the study's published steps. Beside the
    prediction stands how wrong the same model is on each device that it was not fitted to. The exit status is 3 where
    it cannot tell.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        device: Device of the catalogue.
        runtime: Runtime with its options and formats as tables name it, as in engine,weights=int8.
        context: Tokens in the KV cache.
        weights: Format of the attention and MLP weights; other than that of --runtime to ask what it would bring.
        head: Format of the output head.
        kv: Format of the KV cache.
        bandwidth: Peak bandwidth in GB/s in place of the device's, to ask what more would bring.
        graphs: Predict the runtime's step replayed as one CUDA Graph, and say how many times as fast that is.
        records: Folder with records.
        json: Print one JSON object instead.
    """
    from memfloor.report import prediction

    spec, workload = load_model(model), Workload.of(context, weights=weights, kv=kv, head=head)
    if bandwidth is not None and not bandwidth > 0:
        raise UsageError(f"bandwidth must be above 0 GB/s, not {bandwidth:g}")
    found = find_device(device)
    at = prediction.point(spec, workload, found.name, bandwidth * GIGA if bandwidth else found.peak_bytes_per_second)
    summaries = _summaries(records) if records else []
    names = [runtime, _with_graphs(runtime)] if graphs else [runtime]
    results = [prediction.predict(prediction.observations(name, summaries), at, name) for name in names]
    if json:
        print_json(results[-1].to_json() | ({"without_graphs": results[0].to_json()} if graphs else {}))
    else:
        for name, result in zip(names, results, strict=True):
            _show(result, name)
        if graphs:
            print_text(_gain(*results))
    if any(result.refusal for result in results):
        sys.exit(EXIT_CANNOT_TELL)


def _with_graphs(runtime: str) -> str:
    if runtime not in WITH_GRAPHS:
        raise UsageError.unknown("runtime without graphs", runtime, WITH_GRAPHS)
    return WITH_GRAPHS[runtime]


def _gain(without: "Prediction", with_graphs: "Prediction") -> str:
    if without.seconds is None or with_graphs.seconds is None:
        return "What graphs would bring cannot be told."
    return f"One graph a step would be {without.seconds / with_graphs.seconds:.3g} times as fast."


def _summaries(folder: Path) -> "list[CellSummary]":
    from memfloor.report.summary import summarise

    return summarise(read_store(folder))[0]


def _show(result: "Prediction", runtime: str) -> None:
    from memfloor.report.prediction_section import LEFT_OUT_COLUMNS, left_out_rows, model_sentence

    print_table(f"{runtime}: each device expected from the others", LEFT_OUT_COLUMNS, left_out_rows(result))
    print_text(model_sentence(result))
    print_text(_answer(result))


def _answer(result: "Prediction") -> str:
    at = result.at
    where = f"{at.model} at {at.context_len} on {at.device}"
    if result.seconds is None or result.range_seconds is None:
        return f"{where}: {result.refusal}."
    low, high = map(format_seconds, result.range_seconds)
    return (
        f"{where}: {format_seconds(result.seconds)}, or {low} to {high} by the largest errors on devices left out; "
        f"the floor is {format_seconds(at.matrix_seconds + at.kv_seconds)}."
    )
