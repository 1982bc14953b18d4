import json
from itertools import groupby

import pytest

from memfloor.errors import UsageError
from memfloor.experiments.quality import given_tokens
from memfloor.experiments.weight_paths import PATHS, default_paths
from memfloor.record import Comparison, Quality, Run, Skip, Store
from memfloor.runtimes import REGISTRY, check_options, find_runtime
from memfloor.spec import load_model, weight_format

SHORT = ("--timed-steps", 4, "--device", "cpu", "--threads", 1)
BARE = ("--anatomies", 0, "--quality-tokens", 0)
ROW_KEYS = {
    *("path", "runtime", "step_seconds", "step_ci95_seconds", "fraction_of_ceiling", "bytes", "wide_head_bytes"),
    *("kernels", "astray"),
    *("saving", "own_saving", "ledger", "untraced", "quality", "lost", "comparison"),
}


@pytest.mark.parametrize("name", PATHS)
def test_every_path_of_the_catalogue_names_a_runtime_its_options_and_formats(name):
    path = PATHS[name]
    formats = {key: value for key, value in path.options.items() if key in ("weights", "head", "kv")}
    check_options(find_runtime(path.runtime), {key: value for key, value in path.options.items() if key not in formats})
    assert all(weight_format(value) for value in formats.values())
    assert path.runtime in REGISTRY
    assert any(name in default_paths(device) for device in ("cpu", "cuda"))


@pytest.fixture
def ladder(memfloor, tiny_model, tmp_path, fake_child):
    """Return a function that compares two paths with the fake children."""

    def run(*arguments):
        paths = ("--path", "engine-int8", "--path", "engine,launch=eager")
        done = memfloor("ab", "weights", tiny_model, *paths, *SHORT, *BARE, *arguments, "--out", tmp_path, "--json")
        return done, json.loads(done.out) if done.out else None

    return run


def test_all_paths_of_a_block_share_one_run_of_the_baseline(ladder, tmp_path):
    done, answers = ladder("--runs", 2, "--context", "64,128")
    assert done.status == 0, done.err
    assert [answer["context"] for answer in answers] == [64, 128]
    for answer in answers:
        assert [row["path"] for row in answer["paths"]] == ["engine,launch=eager", "engine-int8"]
        assert set(answer["baseline"]) == ROW_KEYS
        row = answer["paths"][1]
        assert set(row) == ROW_KEYS
        assert row["comparison"]["verdict"] == "equivalent"
        assert row["saving"]["share_realised"] == pytest.approx(0.0)
        assert row["bytes"]["total"] < answer["baseline"]["bytes"]["total"]
    records = Store(tmp_path).contents()
    assert all(item.question == "weights" and "outputs" in item.may_differ for item in records.comparisons)
    assert {item.session_id for item in records.every} == {records.comparisons[0].session_id}
    for _, block in groupby(records.runs, key=lambda run: run.block):
        taken = [run.cell for run in block]
        assert len({cell.key for cell in taken}) == len(taken) == 6
        # What is compared lies side by side.
        assert len({cell.workload.context_len for cell in taken[:3]}) == 1


def test_a_ladder_that_lacks_a_run_is_gone_on_with_and_a_whole_one_taken_anew(ladder, tmp_path):
    asked = ("--runs", 1, "--context", 64)
    ladder(*asked)
    next(path for path in tmp_path.glob("*_run000_*.json") if "int8" in path.name).unlink()
    done, _ = ladder(*asked)
    assert "goes on with a session" in done.err
    assert [len(Store(tmp_path).contents().comparisons), len(Store(tmp_path).contents().runs)] == [2, 3]
    ladder(*asked)
    assert [len(Store(tmp_path).contents().comparisons), len(Store(tmp_path).contents().runs)] == [4, 6]


def test_a_path_that_cannot_run_is_given_up_and_costs_no_other(memfloor, tiny_model, tmp_path):
    # Neither of both runs batches, and the baseline does.
    paths = ("--path", "engine-bf16", "--path", "engine-int8")
    done = memfloor(
        "ab",
        "weights",
        tiny_model,
        *paths,
        *SHORT,
        *BARE,
        "--context",
        16,
        "--batch",
        2,
        "--runs",
        1,
        "--out",
        tmp_path,
    )
    assert done.status == 1
    assert "no block has a run of the baseline and of a path" in done.err
    records = Store(tmp_path).contents().runs
    assert sorted(type(record).__name__ for record in records) == ["Run", "Skip", "Skip"]
    assert {record.reason for record in records if isinstance(record, Skip)} == {"batch 2 is not 1"}


def test_what_cannot_run_as_asked_is_skipped_with_its_reason(memfloor, tiny_model, python_path, tmp_path):
    # A library of a version that nobody tried, and groups of 128 weights in rows of 64.
    (tmp_path / "hqq").mkdir()
    (tmp_path / "hqq" / "__init__.py").touch()
    (tmp_path / "hqq-9.9.dist-info").mkdir()
    (tmp_path / "hqq-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hqq\nVersion: 9.9\n")
    python_path(tmp_path)
    paths = ("--path", "hqq-int4", "--path", "engine-int4")
    asked = (*paths, *SHORT, *BARE, "--context", 16, "--runs", 1, "--out", tmp_path / "runs", "--json")
    done = memfloor("ab", "weights", tiny_model, *asked)
    assert done.status == 1
    lost = {row["path"]: row["lost"] for row in json.loads(done.out)["paths"]}
    assert lost["hqq-int4"] == "hqq 9.9 was not tried; pip install 'memfloor[hqq]', which needs hqq>=0.2.8,<0.3"
    assert lost["engine-int4"] == "hidden_size 64 is not a multiple of 128, as int4-g128 needs"


def test_a_real_path_is_timed_judged_reported_and_drawn(memfloor, tiny_model, tmp_path):
    runs = tmp_path / "runs"
    taken = ("--context", 64, "--runs", 2, "--anatomies", 0, "--quality-tokens", 4)
    done = memfloor("ab", "weights", tiny_model, "--path", "engine-int8", *SHORT, *taken, "--out", runs, "--json")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    (row,) = answer["paths"]
    assert (row["comparison"]["blocks"], row["lost"], row["untraced"]) == (2, None, None)
    assert row["saving"]["promised"] == answer["baseline"]["bytes"]["total"] / row["bytes"]["total"]
    quality = row["quality"]
    assert (quality["tokens"], quality["token_source"], quality["weights_source"]) == (4, "random", "random")
    # Rounding to 8 bits is off by a 254th of the largest number of a row, and bf16 by a 512th of each.
    assert 0 < answer["float32"]["relative_error"] < quality["relative_error"] < 0.1
    assert answer["baseline"]["quality"]["relative_error"] == 0
    kinds = [type(record) for record in Store(runs).contents().every]
    assert [kinds.count(kind) for kind in (Comparison, Run, Quality)] == [1, 4, 3]
    assert memfloor("runs", runs, "--kind", "quality").out.count("4 tokens") == 3
    (found,) = json.loads(
        memfloor("query", runs, "SELECT * FROM weight_paths WHERE path = 'engine-int8'", "--json").out
    )
    assert found["top1_agreement"] == quality["top1_agreement"]
    assert memfloor("report", runs, "-o", tmp_path / "page.html").status == 0
    assert "What fewer bytes of weights buy" in (tmp_path / "page.html").read_text()
    assert memfloor("figure", "8", runs, "--out", tmp_path).status == 0
    assert (tmp_path / "figure-8.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--path", "turbo"), "unknown path 'turbo'; allowed: bf16, "),
        (("--path", "engine-int8", "--path", "engine-int8"), "path 'engine-int8' is given twice"),
        (("--path", "engine-bf16", "--path", "engine"), "paths 'engine-bf16' and 'engine' are the same: engine"),
        (("--path", "bf16"), "no path is left beside the baseline"),
        (("--path", "engine,weights=int3"), "unknown weight format 'int3'"),
        (("--path", "engine,launch=slow"), "unknown engine launch 'slow'"),
        (("--baseline", "turbo"), "unknown path 'turbo'"),
        (("--weights", "int8"), "formats belong to paths here"),
        (("--anatomies", -1), "anatomies must be 0 or more, not -1"),
        (("--quality-tokens", 1), "quality-tokens must be 2 or more, or 0"),
        (("--text", "words.txt"), "a text needs the tokenizer of a checkpoint; give --weights-from"),
        (("--weights-from", "nowhere"), "nowhere is no Hugging Face checkpoint"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_record(memfloor, tiny_model, tmp_path, arguments, words):
    done = memfloor("ab", "weights", tiny_model, "--device", "cpu", *arguments, "--out", tmp_path / "runs")
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_paths_says_how_to_take_some(memfloor, fake_records):
    done = memfloor("figure", "8", fake_records)
    assert done.status == 2
    assert "holds no paths of weights to draw; take some with: memfloor ab weights" in done.err


@pytest.fixture
def tokenizer_folder(tmp_path):
    """Return a folder with a tokenizer that knows three words, the last beyond the tiny model's vocabulary."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"to": 1, "be": 2, "far": 256}, unk_token="to"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return tmp_path


@pytest.fixture
def text(tmp_path):
    def write(words):
        path = tmp_path / "words.txt"
        path.write_text(words)
        return path

    return write


def test_the_first_tokens_of_a_text_are_given(tiny_model, tokenizer_folder, text):
    given = given_tokens(load_model(tiny_model), 3, text("to be to be far"), tokenizer_folder, seed=0)
    assert (given.tokens, given.source) == ((1, 2, 1), "text")


@pytest.mark.parametrize(
    ("words", "count", "refusal"),
    [
        ("to be", 3, "words.txt has 2 tokens, fewer than the 3 of --quality-tokens"),
        ("to far", 2, "gives token 256; the model has 256"),
        ("to be", 0, "quality-tokens must be 2 or more"),
    ],
)
def test_a_text_of_too_few_or_unknown_tokens_is_refused(tiny_model, tokenizer_folder, text, words, count, refusal):
    with pytest.raises(UsageError, match=refusal):
        given_tokens(load_model(tiny_model), count, text(words), tokenizer_folder, seed=0)


def test_a_text_without_a_tokenizer_or_a_file_is_refused(tiny_model, tokenizer_folder, tmp_path, text):
    spec = load_model(tiny_model)
    with pytest.raises(UsageError, match="holds no tokenizer for the text; expected one of "):
        given_tokens(spec, 2, text("to be"), tmp_path / "elsewhere", seed=0)
    with pytest.raises(UsageError, match="cannot read the text"):
        given_tokens(spec, 2, tmp_path / "nothing.txt", tokenizer_folder, seed=0)
    (tokenizer_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="does not read the tokenizer"):
        given_tokens(spec, 2, text("to be"), tokenizer_folder, seed=0)
