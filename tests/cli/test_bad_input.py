import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURING = ("measure", "study")


def assert_refused(result, *words):
    assert result.status == 2, result
    assert result.out == ""
    assert result.err.startswith("memfloor: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flor"], ["flor", "floor"]),
        (["floor"], ["MODEL"]),
        (["floor", "gpt-5"], ["unknown model 'gpt-5'", "qwen2.5-7b", "config.json"]),
        (["floor", "qwen2.5-7b", "--device", "h300"], ["unknown device 'h300'", "h100-sxm5"]),
        (["floor", "qwen2.5-7b", "--device", "NVIDIA H100 80GB HBM"], ["unknown device", "h100-sxm5"]),
        (["floor", "qwen2.5-7b", "--weights", "int3"], ["unknown weight format 'int3'", "int4-g128"]),
        (["floor", "qwen2.5-7b", "--head", "int3"], ["unknown weight format 'int3'", "int4-g128"]),
        (["floor", "qwen2.5-7b", "--kv", "int3"], ["unknown KV format 'int3'", "int8"]),
        (["floor", "qwen2.5-7b", "--context", "2m"], ["unknown unit 'm'", "'2m'", "k for 1024"]),
        (["floor", "qwen2.5-7b", "--context", "2048,"], ["context ''", "whole number"]),
        (["floor", "qwen2.5-7b", "--context", ""], ["context ''", "whole number"]),
        (["floor", "qwen2.5-7b", "--context", "many"], ["context 'many'", "whole number"]),
        (["floor", "qwen2.5-7b", "--context", "1.5k"], ["'1.5k'", "whole number"]),
        (["floor", "qwen2.5-7b", "--context", "0"], ["1 or more", "0"]),
        (["floor", "qwen2.5-7b", "--context", "-5"], ["-5"]),
        (["floor", "qwen2.5-0.5b", "--context", "32769"], ["32769", "beyond", "1 to 32768"]),
        (["floor", "qwen2.5-0.5b", "--context", "512,33k"], [str(33 * 1024), "1 to 32768"]),
        (["floor", "qwen2.5-7b", "--batch", "0"], ["batch must be 1 or more, not 0"]),
        (["floor", "qwen2.5-7b", "--batch", "-1"], ["batch must be 1 or more, not -1"]),
        (["floor", "qwen2.5-7b", "--batch", "two"], ["--batch", "two"]),
        (["floor", "qwen2.5-7b", "--speed", "9"], ["--speed"]),
        (["paper", "--colour"], ["--colour"]),
        (["probe", "--device", "tpu"], ["unknown device kind 'tpu'", "cpu, cuda"]),
        (["probe", "--repeats", "0"], ["repeats must be 1 or more, not 0"]),
        (["probe", "--device", "cpu", "--threads", "0"], ["threads must be 1 to", "not 0"]),
        (["runs", "/no/such/folder"], ["/no/such/folder is not a folder with records"]),
        (["report", "/no/such/folder"], ["/no/such/folder is not a folder with records"]),
        (["query", "/no/such/folder", "SELECT 1"], ["/no/such/folder is not a folder with records"]),
        (["figure", "1", "/no/such/folder"], ["/no/such/folder is not a folder with records"]),
        (["figure", "10", "/tmp"], ["unknown figure '10'", "1, 2, 3, 4, 5, 6, 7, 8, 9, forest, jitter, runs"]),
        (["runs", "/tmp", "--kind", "success"], ["success", "failure"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_argument_is_one_line_that_names_it_and_what_is_allowed(memfloor, arguments, words):
    assert_refused(memfloor(*arguments), *words)


@pytest.mark.usefixtures("fake_child")
@pytest.mark.parametrize("command", MEASURING)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "tpu"], ["unknown device 'tpu'", "cpu, cuda"]),
        (["--runtime", "vllm"], ["unknown runtime 'vllm'", "hf-eager, hf-static"]),
        (["--runtime", "hf-eager,launch=graph"], ["unknown option of hf-eager 'launch'", "sdpa"]),
        (["--runtime", "hf-static,launch=turbo"], ["hf-static launch 'turbo'", "eager, graph"]),
        (["--runtime", "hf-static,launch"], ["'launch'", "option=value"]),
        (["--runtime", "hf-static,=graph"], ["'=graph'", "option=value"]),
        (["--runs", "0"], ["runs must be 1 or more, not 0"]),
        (["--runs", "-3"], ["runs must be 1 or more, not -3"]),
        (["--runs", "some"], ["--runs", "some"]),
        (["--batch", "0"], ["batch must be 1 or more, not 0"]),
        (["--warmup-steps", "0"], ["warmup-steps must be 1 or more, not 0"]),
        (["--timed-steps", "1"], ["timed-steps must be 2 or more, not 1"]),
        (["--time-limit-seconds", "0"], ["time-limit-seconds must be above zero", "not 0"]),
        (["--time-limit-seconds", "-1"], ["time-limit-seconds must be above zero", "not -1"]),
        (["--time-limit-seconds", "nan"], ["time-limit-seconds", "nan"]),
        (["--time-limit-seconds", "inf"], ["time-limit-seconds", "inf"]),
        (["--threads", "0"], ["threads must be 1 to", "not 0"]),
        (["--threads", "100000"], ["threads must be 1 to", "not 100000"]),
        (["--weights", "int3"], ["unknown weight format 'int3'", "int4-g128"]),
        (["--dtype", "float8"], ["unknown weight format 'float8'", "bf16"]),
        (["--head", "int3"], ["unknown weight format 'int3'", "int8-g32"]),
        (["--kv", "int3"], ["unknown KV format 'int3'", "int8"]),
        (["--context", "64,2q"], ["unknown unit 'q'"]),
        (["--context", "0"], ["1 or more"]),
        (["--context", ""], ["context ''"]),
        (["--context", str(2**40 + 1)], [str(2**40 + 1), "beyond", f"1 to {2**40}"]),
        (["--weights-from", "/no/such/checkpoint"], ["/no/such/checkpoint", "config.json"]),
        (["--colour", "red"], ["--colour"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_option_is_refused_before_anything_is_taken(memfloor, tiny_model, tmp_path, command, arguments, words):
    model = [tiny_model] if command == "measure" else ["--model", tiny_model]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    out = tmp_path / "out"
    assert_refused(memfloor(command, *model, *device, "--out", out, *arguments), *words)
    assert not out.exists()


@pytest.mark.parametrize("command", MEASURING)
def test_an_unknown_model_is_refused_before_anything_is_taken(memfloor, tmp_path, command):
    model = ["gpt-5"] if command == "measure" else ["--model", "gpt-5"]
    result = memfloor(command, *model, "--device", "cpu", "--out", tmp_path / "out")
    assert_refused(result, "unknown model 'gpt-5'", "qwen2.5-0.5b", "config.json")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_shape_is_refused_with_the_difference(memfloor, tiny_model, tmp_path):
    config = json.loads((Path(tiny_model) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    result = memfloor("measure", tiny_model, "--device", "cpu", "--weights-from", tmp_path, "--out", tmp_path / "out")
    assert_refused(result, str(tmp_path), "num_hidden_layers 3 not 2")


def test_a_broken_checkpoint_is_refused_before_anything_is_taken(memfloor, tiny_model, tmp_path):
    config = Path(tiny_model) / "config.json"
    (tmp_path / "config.json").write_bytes(config.read_bytes())
    command = ("measure", tiny_model, "--device", "cpu", "--weights-from", tmp_path, "--out", tmp_path / "out")
    assert_refused(memfloor(*command), f"{tmp_path} holds no .safetensors file")
    (tmp_path / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    assert_refused(memfloor(*command), f"{tmp_path} lacks the tensor model.embed_tokens.weight of tiny")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["cannot read"]),
        ("{", ["cannot read"]),
        ("\x00\x01", ["cannot read"]),
        ("[1, 2]", ["no JSON object"]),
        ("null", ["no JSON object"]),
        ("{}", ["unknown model_type None", "llama, mistral, qwen2, qwen3"]),
        ('{"model_type": "mamba"}', ["unknown model_type 'mamba'", "llama, mistral, qwen2, qwen3"]),
        ('{"model_type": "llama"}', ["lacks hidden_size"]),
    ],
    ids=["empty", "cut", "binary", "list", "null", "no-type", "foreign-type", "no-fields"],
)
def test_a_corrupt_config_is_one_line_that_names_the_file(memfloor, tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    assert_refused(memfloor("floor", tmp_path), str(tmp_path / "config.json"), *words)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "wide"},
        {"hidden_size": -64},
        {"hidden_size": 64.5},
        {"hidden_size": [64]},
        {"num_attention_heads": 0},
        {"num_attention_heads": -4},
        {"num_key_value_heads": 3},
        {"num_hidden_layers": 0},
        {"vocab_size": 0},
        {"rms_norm_eps": "small"},
        {"rope_theta": -1.0},
        {"rope_scaling": "yes"},
        {"rope_scaling": 8},
        {"rope_scaling": [1, 2]},
        {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
        {"tie_word_embeddings": "perhaps"},
        {"use_sliding_window": True, "sliding_window": 0},
        {"use_sliding_window": True, "sliding_window": "wide"},
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": "all"},
    ],
    ids=str,
)
def test_a_config_with_an_impossible_field_is_one_line_that_names_the_file(memfloor, tiny_model, tmp_path, change):
    config = json.loads((Path(tiny_model) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    assert_refused(memfloor("floor", tmp_path), str(tmp_path / "config.json"))


def test_a_config_that_is_no_text_is_one_line_that_names_the_file(memfloor, tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00garbage")
    assert_refused(memfloor("floor", tmp_path), "cannot read", str(tmp_path / "config.json"))


def test_a_folder_without_a_config_is_an_unknown_model(memfloor, tmp_path):
    assert_refused(memfloor("floor", tmp_path), "unknown model", str(tmp_path))


@pytest.mark.usefixtures("fake_child")
@pytest.mark.parametrize("command", MEASURING)
def test_an_output_below_a_file_is_refused_before_anything_is_taken(memfloor, tiny_model, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    model = [tiny_model] if command == "measure" else ["--model", tiny_model]
    out = tmp_path / "file" / "out"
    assert_refused(memfloor(command, *model, "--device", "cpu", "--out", out), f"cannot write to {out}")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [["report"], ["figure", "1"], ["figure", "runs"]], ids=lambda arguments: " ".join(arguments)
)
def test_a_page_or_figure_below_a_file_is_refused(memfloor, fake_records, tmp_path, arguments):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "page.html", tmp_path / "file" / "figure.svg"):
        assert_refused(memfloor(*arguments, fake_records, "-o", out), "cannot write", str(tmp_path / "file"))


def test_a_page_on_a_full_disk_is_refused(memfloor, fake_records):
    assert_refused(memfloor("report", fake_records, "-o", "/dev/full"), "cannot write /dev/full", "No space left")


@pytest.mark.parametrize(
    "arguments",
    [["paper"], ["paper", "--json"], ["floor", "qwen2.5-7b"], ["floor", "qwen2.5-7b", "--json"]],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_full_standard_output_is_one_line(shell, arguments):
    with Path("/dev/full").open("w") as full:
        done = shell(*arguments, stdout=full)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "No space left" in done.err


@pytest.mark.parametrize("arguments", [["paper"], ["paper", "--json"]], ids=lambda arguments: " ".join(arguments))
def test_a_reader_that_has_gone_is_no_error_worth_a_word(shell, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = shell(*arguments, stdout=writer)
    os.close(writer)
    assert done.err == ""


def test_a_disk_that_is_full_from_the_start_is_refused_and_left_clean(tiny_model, tmp_path):
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "from memfloor.cli import main; main()"
    )
    command = [sys.executable, "-c", limited, "measure", tiny_model, "--device", "cpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"memfloor: cannot write to {tmp_path / 'out'}: File too large\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_with_debug_the_traceback_is_shown(shell):
    done = shell("floor", "gpt-5", "--debug")
    assert done.status != 0
    assert "Traceback" in done.err
    assert "UsageError: unknown model 'gpt-5'" in done.err


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT nothing FROM runs",
        "SELECT * FROM nowhere",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY runs TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
    ],
)
def test_a_query_that_cannot_be_answered_is_one_line_with_the_tables(memfloor, fake_records, sql):
    assert_refused(memfloor("query", fake_records, sql), "tables: runs(record_id", "steps(record_id")
