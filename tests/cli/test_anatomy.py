import json

import pytest

from memfloor.record import Store

SHORT = ("--context", 64, "--runs", 2, "--timed-steps", 4, "--traced-steps", 2, "--device", "cpu", "--threads", 1)


@pytest.mark.parametrize("runtime", ["hf-eager", "engine", "engine,launch=eager"])
def test_an_anatomy_adds_up_and_is_kept(shell, tiny_model, tmp_path, runtime):
    done = shell("anatomy", tiny_model, "--runtime", runtime, *SHORT, "--out", tmp_path, "--json")
    ledger = json.loads(done.out)
    assert done.status == (3 if ledger["verdict"].startswith("refused: ") else 0), done.err
    assert isinstance(ledger["alarms"], list)
    anatomies = Store(tmp_path).anatomies()
    assert len(anatomies) == 2
    assert set(Store(tmp_path).trace_files()) == {anatomy.record_id for anatomy in anatomies}
    assert {bool(anatomy.twin) for anatomy in anatomies} == {runtime != "engine"}
    assert {entry["term"] for entry in ledger["ledger"]} >= {"weight products", "attention", "host and launch"}
    assert ledger["verdict"] == "explained" or ledger["verdict"].startswith("refused: ")
    assert ledger["step_seconds"] > 0
    assert ledger["profiled_over_unprofiled"] > 0


def test_the_table_names_owner_time_share_and_remedy(shell, tiny_model, tmp_path):
    done = shell("anatomy", tiny_model, "--runtime", "engine", *SHORT, "--out", tmp_path)
    assert done.status in (0, 3), done.err
    for words in (
        "floor at the paired ceiling",
        "weight products",
        "unexplained",
        "step, timed",
        "what would remove it",
        ".trace.json.gz",
    ):
        assert words in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--context", "64,128"), "an anatomy is of one context, not of 2"),
        (("--traced-steps", 0), "traced-steps must be 1 or more, not 0"),
        (("--runs", 0), "runs must be 1 or more"),
        (("--runtime", "no-such"), "unknown runtime 'no-such'"),
        (("--runtime", "hf-eager", "--weights", "int8"), "hf-eager runs weights bf16"),
        (("--batch", 2, "--runtime", "engine"), "batch 2 is not 1"),
    ],
)
def test_bad_input_is_one_line(shell, tiny_model, tmp_path, arguments, words):
    done = shell(
        "anatomy",
        tiny_model,
        "--device",
        "cpu",
        *(arguments if "--context" in arguments else ("--context", 64, *arguments)),
        "--out",
        tmp_path,
    )
    assert done.status == 2
    assert words in done.err
    assert "Traceback" not in done.err
