"""A checkpoint's files: what is read, and that anything wrong with them is one line before a tensor is loaded."""

import json
import struct

import numpy as np
import pytest

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.tensors import expected_tensors, to_bf16
from memfloor.errors import UsageError
from memfloor.spec import from_hf_config

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 35,
    "max_position_embeddings": 64,
}
SPEC = from_hf_config(CONFIG, "tiny")
TIED = SPEC.model_copy(update={"tie_word_embeddings": True})
NAME = "model.layers.1.mlp.down_proj.weight"


def tensors_of(spec=SPEC):
    """Return random bf16 bits for every tensor of a model."""
    random = np.random.default_rng(0)
    shapes = expected_tensors(spec)
    return {name: to_bf16(random.standard_normal(shape, dtype=np.float32)) for name, shape in shapes.items()}


def header_of(tensors, dtype="BF16"):
    header, at = {}, 0
    for name, numbers in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(numbers.shape), "data_offsets": [at, at + numbers.nbytes]}
        at += numbers.nbytes
    return header


def write(path, tensors, header=None, dtype="BF16"):
    text = json.dumps(header_of(tensors, dtype) if header is None else header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(numbers.tobytes() for numbers in tensors.values()))


def write_shards(folder, tensors, per_shard=9):
    names = list(tensors)
    parts = [names[i : i + per_shard] for i in range(0, len(names), per_shard)]
    files = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        write(folder / file, {name: tensors[name] for name in part})
    weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def refusal(folder, spec=SPEC):
    with pytest.raises(UsageError) as refused:
        Checkpoint(folder, spec)
    message = str(refused.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_rows_and_vectors_are_those_of_the_file(tmp_path, file):
    tensors = tensors_of()
    write(file, tensors)
    checkpoint = Checkpoint(tmp_path, SPEC)
    assert np.array_equal(checkpoint.rows(NAME, 0, 32), tensors[NAME])
    assert np.array_equal(checkpoint.rows(NAME, 5, 12), tensors[NAME][5:12])
    assert checkpoint.rows(NAME, 3, 3).shape == (0, 36)
    assert np.array_equal(checkpoint.vector("model.norm.weight"), tensors["model.norm.weight"])


@pytest.mark.parametrize(("dtype", "numpy_type"), [("F32", np.float32), ("F16", np.float16)])
def test_wider_types_come_as_float32_and_their_vectors_as_bf16(tmp_path, file, dtype, numpy_type):
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape).astype(numpy_type) for name, shape in expected_tensors(SPEC).items()}
    write(file, tensors, dtype=dtype)
    checkpoint = Checkpoint(tmp_path, SPEC)
    rows = checkpoint.rows(NAME, 5, 12)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, tensors[NAME][5:12].astype(np.float32))
    vector = checkpoint.vector("model.norm.weight")
    assert np.array_equal(vector, to_bf16(tensors["model.norm.weight"].astype(np.float32)))


def test_shards_are_found_by_their_index(tmp_path):
    tensors = tensors_of()
    files = write_shards(tmp_path, tensors)
    assert len(files) > 2
    # What the index does not name is no part of the checkpoint.
    (tmp_path / "consolidated.safetensors").write_bytes(b"garbage")
    checkpoint = Checkpoint(tmp_path, SPEC)
    for name, numbers in tensors.items():
        assert np.array_equal(checkpoint.rows(name, 0, len(numbers)), numbers)


def test_the_safetensors_library_writes_what_is_read(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    tensors = {name: bits.astype(np.float32) for name, bits in tensors_of().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint(tmp_path, SPEC)
    assert all(np.array_equal(checkpoint.rows(name, 0, len(rows)), rows) for name, rows in tensors.items())


@pytest.mark.parametrize("extra", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_what_no_decode_needs_may_be_there(tmp_path, file, extra):
    write(file, {**tensors_of(TIED), extra: np.zeros((35, 32), np.uint16)})
    Checkpoint(tmp_path, TIED)


@pytest.mark.parametrize(
    "missing", [NAME, "model.norm.weight", "lm_head.weight", "model.layers.0.self_attn.k_proj.bias"]
)
def test_a_missing_tensor_is_named(tmp_path, file, missing):
    tensors = tensors_of()
    del tensors[missing]
    write(file, tensors)
    assert refusal(tmp_path) == f"{tmp_path} lacks the tensor {missing} of tiny"


@pytest.mark.parametrize("extra", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.o_proj.bias", "x"])
def test_a_tensor_without_a_place_is_named(tmp_path, file, extra):
    write(file, {**tensors_of(), extra: np.zeros(3, np.uint16)})
    assert refusal(tmp_path) == f"{file} holds {extra}, which tiny has no place for"


@pytest.mark.parametrize("shape", [(36, 32), (32, 35), (32,), (32, 36, 1), (1152,)])
def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path, file, shape):
    write(file, {**tensors_of(), NAME: np.zeros(shape, np.uint16)})
    assert refusal(tmp_path) == f"{NAME} in {file} is {list(shape)}, not [32, 36]"


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3", "U8", "I16", "BOOL", "F64", "nonsense"])
def test_a_type_that_is_not_read_is_named_with_those_that_are(tmp_path, file, dtype):
    tensors = {**tensors_of(), NAME: np.zeros((32, 36), np.uint8)}
    header = header_of(tensors)
    header[NAME]["dtype"] = dtype
    write(file, tensors, header)
    assert refusal(tmp_path) == f"unknown type of {NAME} in {file} {dtype!r}; allowed: BF16, F16, F32"


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path} holds no .safetensors file"


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1, -2000])
def test_a_truncated_file_is_refused(tmp_path, file, kept):
    write(file, tensors_of())
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file} is truncated" in refusal(tmp_path)


def test_a_truncated_shard_is_named_with_what_is_missing(tmp_path):
    shard = tmp_path / write_shards(tmp_path, tensors_of())[1]
    shard.write_bytes(shard.read_bytes()[:-13])
    assert refusal(tmp_path) == f"{shard} is truncated: 13 bytes are missing"


@pytest.mark.parametrize(
    "text",
    [b"garbage!", b"[1, 2]", b"{}x", b'{"a": 1}', b'{"a": {}}', b"\xff\xfe{}", b"[" * 100_000, b"null"],
    ids=["text", "list", "tail", "number", "no-fields", "no-text", "deep", "null"],
)
def test_a_header_of_garbage_is_refused(tmp_path, file, text):
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(100))
    assert f"{file} has no readable safetensors header: " in refusal(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_an_impossible_size_is_refused(tmp_path, file, size):
    file.write_bytes(struct.pack("<Q", size) + bytes(1000))
    assert refusal(tmp_path) == f"{file} is truncated or no safetensors file"


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-32, -36]},
        {"shape": [32.0, 36]},
        {"shape": [True, 36]},
        {"shape": ["32", 36]},
        {"shape": None},
        {"shape": "32"},
        {"data_offsets": [-2304, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 1, 2]},
        {"data_offsets": [0, 2304.0]},
        {"data_offsets": 3},
    ],
    ids=str,
)
def test_sizes_that_are_none_are_refused(tmp_path, file, change):
    tensors = tensors_of()
    header = header_of(tensors)
    header[NAME].update(change)
    write(file, tensors, header)
    assert f"{file} has no readable safetensors header: " in refusal(tmp_path)


@pytest.mark.parametrize(("begin", "end"), [(0, 2), (-2, 0), (0, -2), (2304, -2304)])
def test_offsets_that_do_not_fit_the_shape_are_refused(tmp_path, file, begin, end):
    tensors = tensors_of()
    header = header_of(tensors)
    first, last = header[NAME]["data_offsets"]
    header[NAME]["data_offsets"] = [first + begin, last + end]
    write(file, tensors, header)
    size = last + end - first - begin
    assert refusal(tmp_path) == f"{NAME} in {file} is BF16 [32, 36] but has {size} bytes"


@pytest.mark.parametrize("shift", [10**6, 2**62, 2**200])
def test_offsets_beyond_the_file_are_refused(tmp_path, file, shift):
    tensors = tensors_of()
    header = header_of(tensors)
    header[NAME]["data_offsets"] = [at + shift for at in header[NAME]["data_offsets"]]
    write(file, tensors, header)
    assert f"{file} is truncated: " in refusal(tmp_path)


def test_tensors_that_share_bytes_are_refused(tmp_path, file):
    tensors = tensors_of()
    header = header_of(tensors)
    up = NAME.replace("down", "up")
    header[NAME]["data_offsets"] = [at - 10 for at in header[NAME]["data_offsets"]]
    write(file, tensors, header)
    assert refusal(tmp_path) == f"{up} and {NAME} in {file} share 10 bytes"


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    tensors = tensors_of()
    first, second = write_shards(tmp_path, tensors)[:2]
    name = list(tensors)[9]
    write(tmp_path / first, {name: tensors[name]})
    assert refusal(tmp_path) == f"{name} is both in {tmp_path / first} and in {tmp_path / second}"


def test_a_missing_shard_is_named(tmp_path):
    shard = write_shards(tmp_path, tensors_of())[1]
    (tmp_path / shard).unlink()
    index = tmp_path / "model.safetensors.index.json"
    assert refusal(tmp_path) == f"{index} names the shard {shard}, which is missing"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[]", "list"),
        ("{}", "it lacks 'weight_map'"),
        ('{"weight_map": 3}', "int"),
        ('{"weight_map": {"a": 3}}', "int"),
        ('{"weight_map": {"a": "b", "c": 3}}', "int"),
        ('{"weight_map": {"a": ["b"]}}', "unhashable"),
        ("[" * 100_000, "recursion"),
    ],
    ids=["empty", "cut", "list", "no-map", "number", "numbers", "mixed", "lists", "deep"],
)
def test_an_index_that_is_none_is_refused(tmp_path, text, words):
    write_shards(tmp_path, tensors_of())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    message = refusal(tmp_path)
    assert message.startswith(f"{index} is no index of shards: ")
    assert words in message


def test_a_file_that_shrinks_after_its_header_was_read_is_an_error(tmp_path, file):
    write(file, tensors_of())
    checkpoint = Checkpoint(tmp_path, SPEC)
    file.write_bytes(file.read_bytes()[:-600])
    with pytest.raises(UsageError, match="became shorter while it was read"):
        checkpoint.rows("lm_head.weight", 0, 35)
