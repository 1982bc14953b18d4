"""GPTQModel on the CPU: its int4 kernels really run, and it reads back what its CUDA layers are filled with."""

import json
import sys
import warnings

import pytest
import torch

from memfloor.errors import UsageError
from memfloor.floor import step_traffic
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.gptq_checkpoint import ONES, PackedCheckpoint, Packing, read_packing
from memfloor.runtimes.gptq_kernels import KERNELS
from memfloor.runtimes.gptq_packing import pack, round_to_nearest
from memfloor.runtimes.gptqmodel import GptqModel, GptqModelStatic, make_layer, operators_file
from memfloor.runtimes.hf_quantized import projection_names

CPU_KERNELS = [name for name, kernel in KERNELS.items() if kernel.device == "cpu"]
SHAPE = {"hidden_size": 256, "intermediate_size": 384}


@pytest.fixture
def library(comparator):
    """Import GPTQModel once, so that no warning of its own or of what it imports counts as one of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparator("gptqmodel")


@pytest.fixture
def asked(request_for, tiny):
    """Return a function that makes a request for a kernel, in the formats it reads."""

    def make(kernel="aten-gptq", runtime="gptqmodel", family="qwen2", options=None, **request):
        made = request_for(runtime, spec=tiny(family, **SHAPE), weights="bf16", **request)
        formats = {"weights": KERNELS[kernel].weights}
        update = {
            "workload": made.cell.workload.model_copy(update=formats),
            "options": {"kernel": kernel, **(options or {})},
            "device": KERNELS[kernel].device,
        }
        return DecodeRequest(made.cell.model_copy(update=update), made.start_len, made.max_steps, made.seed)

    return make


@pytest.fixture
def ready(library, asked):
    """Return a function that prepares GPTQModel for such a request."""

    def prepare(kernel="aten-gptq", **request):
        made = asked(kernel, **request)
        runtime = find_runtime(made.cell.runtime)
        assert runtime.unavailable_reason(made.cell) is None
        system = runtime(made)
        system.prepare()
        return system

    return prepare
