"""What loading a checkpoint takes: the packed weights and little more, measured in a process of its own."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memfloor.engine.tensors import expected_tensors, to_bf16

CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 8000,
    "max_position_embeddings": 64,
}
# Prints the packed bytes and by how much the process's resident memory grew at most.
LOAD = """
import sys
from pathlib import Path
from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.cpu.native import allowed_cpus, native
from memfloor.engine.cpu.weights import Packer
from memfloor.spec import Workload, load_model

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

spec, weights = load_model(sys.argv[1]), sys.argv[2]
pool = native().Pool(allowed_cpus())
before = resident("VmRSS")
packed = Packer(spec, Checkpoint(Path(sys.argv[1]), spec), pool).pack(Workload.of(1, 1, weights, head=weights))
matrices = [packed.embedding, packed.head]
for layer in packed.layers:
    matrices += [layer.qkv, layer.o_proj, layer.gate_up, layer.down_proj]
print(sum(matrix.size_bytes for matrix in matrices), resident("VmHWM") - before)
"""
NUMPY_TYPES = {"BF16": np.uint16, "F32": np.float32}


@pytest.fixture(scope="module", params=NUMPY_TYPES)
def folder(request, tiny, tmp_path_factory):
    """Write a checkpoint of some hundred megabytes; its numbers repeat."""
    folder, header, at = tmp_path_factory.mktemp("large"), {}, 0
    spec = tiny(**CONFIG)
    itemsize = NUMPY_TYPES[request.param]().itemsize
    for name, shape in expected_tensors(spec).items():
        end = at + int(np.prod(shape)) * itemsize
        header[name] = {"dtype": request.param, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    numbers = np.random.default_rng(0).standard_normal(2**20, dtype=np.float32) * np.float32(0.02)
    block = (to_bf16(numbers) if request.param == "BF16" else numbers).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for begin in range(0, at, len(block)):
            file.write(block[: at - begin])
    (folder / "config.json").write_text(json.dumps(spec.model_dump(exclude={"name", "source"}, exclude_none=True)))
    yield folder
    (folder / "model.safetensors").unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("weights", ["bf16", "int8", "int4-g128", "int4-g32"])
def test_loading_takes_little_more_than_the_packed_weights(folder, weights):
    done = subprocess.run([sys.executable, "-c", LOAD, folder, weights], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packed_bytes, peak_bytes = map(int, done.stdout.split())
    assert packed_bytes > 50e6
    assert peak_bytes < 1.3 * packed_bytes
