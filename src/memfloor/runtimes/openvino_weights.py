"""OpenVINO's graph of a cell, with its weights compressed by NNCF as a user of OpenVINO would."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.random_tensors import RandomTensors
from memfloor.record import Cell
from memfloor.runtimes.openvino_graph import build_graph
from memfloor.spec import unquantized

if TYPE_CHECKING:
    import openvino


@dataclass(frozen=True, slots=True)
class Compression:
    """Say how NNCF compresses the weights of a format.

    Attributes:
        mode: NNCF's name of it.
        group_size: Weights along K that share a scale; None stands for a whole row.
        head: Format of the head and of the embedding table, which NNCF keeps in 8 bits unless told to do otherwise.
        reads: The plugin's names of the types that matrices and head are then read in.
    """

    mode: str
    group_size: int | None
    head: str
    reads: tuple[str, ...]


COMPRESSIONS = {
    "nncf-int8-sym": Compression("INT8_SYM", None, "nncf-int8-sym", ("i8",)),
    "nncf-int8-asym": Compression("INT8_ASYM", None, "nncf-int8-asym", ("u8",)),
    "nncf-int4-sym-g128": Compression("INT4_SYM", 128, "nncf-int8-asym", ("i4", "u8")),
}


def build_model(cell: Cell, seed: int) -> "openvino.Model":
    """Return the graph of a cell with its weights in the cell's format."""
    spec, weights = cell.spec, cell.workload.weights
    source = Checkpoint(Path(cell.weights_from), spec) if cell.weights_from else RandomTensors(spec, seed)
    model = build_graph(spec, unquantized(weights), source)
    if weights not in COMPRESSIONS:
        return model
    # It would report its use over the network, from threads of the process that is timed.
    os.environ["NNCF_CI"] = "1"
    import nncf

    nncf.set_log_level(logging.ERROR)
    asked = COMPRESSIONS[weights]
    compressed: openvino.Model = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode[asked.mode], group_size=asked.group_size
    )
    return compressed
