import json

import pytest

from memfloor.errors import UsageError
from memfloor.experiments import anatomy, study
from memfloor.experiments.anatomy import AnatomyPlan, take_anatomies
from memfloor.experiments.blocks import Plan
from memfloor.experiments.study import done_blocks, grid
from memfloor.record import Anatomy, Failure, Protocol, Store

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
        (("--runtime", "engine,steps=4"), "engine,steps=4 launches 4 steps in one call, which no trace can cut apart"),
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


OUT_OF_MEMORY, UNAVAILABLE, EXIT, FIRST_EXITS = 20, 21, 22, 28


@pytest.fixture
def take(fake_child, monkeypatch, tiny_model, tmp_path):
    """Return a function that takes three anatomies in children that behave as a context tells them, and the store."""
    monkeypatch.setattr(anatomy, "TIMED_CHILD", "fake_child")
    monkeypatch.setattr(anatomy, "TRACED_CHILD", "fake_traced_child")
    store = Store(tmp_path)
    store.open_for_writing()

    def anatomies(context):
        (cell,) = grid([tiny_model], [context], [("engine", {})], "cpu", threads=1)
        plan = AnatomyPlan(cell, 3, Protocol.on("cpu"), traced_steps=2)
        return [record.block for record in take_anatomies(plan, store, lambda phase: None)]

    return anatomies, store


def test_an_anatomy_whose_process_dies_is_a_failure_and_the_others_go_on(take):
    anatomies, store = take
    assert anatomies(FIRST_EXITS) == [1, 2]
    (failure,) = store.read()[0]
    assert (failure.block, failure.cause) == (0, "error")
    assert failure.last_words == "engine: exit status 1; ArithmeticError: seven"
    assert failure.device.kind == "cpu"
    assert [record.block for record in store.anatomies()] == [1, 2]


@pytest.mark.parametrize(
    ("behaviour", "lost", "words"),
    [
        (OUT_OF_MEMORY, 1, "out of memory: the model needs 9 TB"),
        (EXIT, 2, "ArithmeticError: seven"),
        (UNAVAILABLE, 0, "this runtime needs another machine"),
    ],
)
def test_a_hopeless_anatomy_is_given_up_with_its_reason(take, behaviour, lost, words):
    anatomies, store = take
    with pytest.raises(UsageError, match=words):
        anatomies(behaviour)
    assert [type(record) for record in store.read()[0]] == [Failure] * lost


def test_anatomies_of_another_protocol_or_device_do_not_count_as_done(take, monkeypatch):
    anatomies, store = take
    anatomies(64)
    cell = store.anatomies()[0].cell
    protocol = Protocol.on("cpu")
    assert done_blocks(store, Plan([cell], 3, protocol), Anatomy) == {cell.key: {0, 1, 2}}
    assert done_blocks(store, Plan([cell], 3, protocol)) == {}
    assert done_blocks(store, Plan([cell], 3, Protocol.on("cpu", timed_steps=7)), Anatomy) == {}
    monkeypatch.setattr(study, "device_name", lambda kind: "another")
    assert done_blocks(store, Plan([cell], 3, protocol), Anatomy) == {}
