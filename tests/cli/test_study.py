"""A study interleaves its cells, and started again it takes what is missing, whatever ended it."""

import json
import random
import shutil
import signal
import threading
import time

import pytest

from memfloor.experiments.blocks import Plan, blocks
from memfloor.experiments.study import grid
from memfloor.record import Protocol, Store

SLOW = 27
SHORT = ("--warmup-steps", 2, "--timed-steps", 4)


@pytest.fixture
def plan(tiny_model):
    def make(runs=6, seed=0, contexts=(64, 128, 256)):
        cells = grid([tiny_model], contexts, [("hf-eager", {}), ("hf-static", {})], "cpu")
        return Plan(cells=cells, runs=runs, protocol=Protocol(), seed=seed)

    return make


def test_every_block_holds_every_cell_once(plan):
    wanted = plan()
    order = blocks(wanted, {})
    assert [block for block, _ in order] == [block for block in range(6) for _ in wanted.cells]
    for block in range(6):
        assert {cell.key for b, cell in order if b == block} == {cell.key for cell in wanted.cells}


def test_the_order_within_a_block_is_shuffled_anew(plan):
    order = blocks(plan(), {})
    orders = {tuple(cell.key for b, cell in order if b == block) for block in range(6)}
    assert len(orders) > 1


def test_the_order_is_decided_by_the_seed(plan):
    assert blocks(plan(seed=1), {}) == blocks(plan(seed=1), {})
    assert blocks(plan(seed=1), {}) != blocks(plan(seed=2), {})


def test_what_is_done_is_left_out_and_the_rest_keeps_its_order(plan):
    wanted = plan()
    first = wanted.cells[0].key
    order = blocks(wanted, {first: {0, 2}})
    assert order == [item for item in blocks(wanted, {}) if (item[1].key, item[0]) not in {(first, 0), (first, 2)}]


@pytest.mark.usefixtures("fake_child")
def test_records_lie_in_the_order_in_which_they_were_taken(memfloor, tiny_model, tmp_path, plan):
    options = ("--context", "64,128,256", "--runtime", "hf-eager", "--runtime", "hf-static", "--runs", 2)
    memfloor("study", "--model", tiny_model, "--device", "cpu", "--out", tmp_path, *options)
    expected = [(block, cell.key) for block, cell in blocks(plan(runs=2), {})]
    by_time = sorted(tmp_path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    records = [json.loads(path.read_text()) for path in by_time]
    seen = [(item["block"], item["cell"]["workload"]["context_len"], item["cell"]["runtime"]) for item in records]
    lengths = {cell.key: (cell.workload.context_len, cell.runtime) for cell in plan().cells}
    assert seen == [(block, *lengths[key]) for block, key in expected]
    assert len({item["session_id"] for item in records}) == 1


@pytest.fixture
def copied(fake_records, tmp_path):
    return shutil.copytree(fake_records, tmp_path / "records")


@pytest.fixture
def again(memfloor, fake_child, tiny_model, copied, contents):
    """Return a function that takes the study of the copied records again and returns the new records."""

    def take(*options, contexts="20,21,64,128", runs=2, protocol=SHORT):
        before = contents(copied)
        asked = ("--context", contexts, "--runs", runs, *protocol, *options)
        result = memfloor("study", "--model", tiny_model, "--device", "cpu", "--out", copied, *asked)
        assert result.status == 0
        after = contents(copied)
        assert {name: after[name] for name in before} == before, "a finished record was touched"
        return [json.loads(text) for name, text in after.items() if name not in before]

    return take


def test_a_finished_study_takes_no_run_again(again):
    assert [record["kind"] for record in again()] == ["skip"], "only what was unavailable is asked once more"


def test_more_runs_take_the_missing_blocks_alone(again):
    new = again(contexts="64,128", runs=3)
    assert sorted((record["cell"]["workload"]["context_len"], record["block"]) for record in new) == [(64, 2), (128, 2)]


def test_a_new_context_takes_its_own_runs_alone(again):
    new = again(contexts="64,128,256")
    assert [record["cell"]["workload"]["context_len"] for record in new] == [256, 256]


@pytest.mark.parametrize(
    ("options", "protocol"),
    [((), ("--warmup-steps", 3, "--timed-steps", 4)), ((), ("--warmup-steps", 2, "--timed-steps", 6))],
)
def test_another_protocol_is_another_measurement(again, options, protocol):
    assert len(again(*options, contexts="64", protocol=protocol)) == 2


@pytest.mark.parametrize(
    "option",
    [
        ("--threads", 1),
        ("--batch", 2),
        ("--weights", "fp32"),
        ("--head", "int8"),
        ("--prefill",),
        ("--runtime", "hf-static"),
    ],
)
def test_another_cell_is_another_measurement(again, option):
    assert len(again(*option, contexts="64")) == 2


def test_a_cell_that_ran_out_of_memory_is_not_tried_again(again):
    assert again(contexts="20,64") == []


def test_runs_of_another_device_do_not_count(again, copied):
    for path in copied.glob("*run*.json"):
        record = json.loads(path.read_text())
        record["environment"]["device"]["name"] = "another processor"
        path.write_text(json.dumps(record))
    assert len(again(contexts="64,128")) == 4


def test_runs_of_another_torch_do_not_count_and_those_of_another_memfloor_do(again, copied):
    for version, new_runs in (("memfloor", 0), ("torch", 4)):
        for path in copied.glob("*run*.json"):
            record = json.loads(path.read_text())
            record["environment"]["packages"][version] = "0.0.1"
            path.write_text(json.dumps(record))
        assert len(again(contexts="64,128")) == new_runs


def test_an_unreadable_record_is_taken_again_and_left_where_it_lies(again, copied):
    victim = next(copied.glob("*ctx64-*run000*.json"))
    victim.write_bytes(victim.read_bytes()[:100])
    new = again(contexts="64")
    assert [(record["cell"]["workload"]["context_len"], record["block"]) for record in new] == [(64, 0)]


def test_interrupted_by_the_terminal_it_resumes_where_it_was(
    start_study, tmp_path, taken, contents, wait_for_records, end_of
):
    folder = tmp_path / "records"
    options = ("--context", f"{SLOW},64", "--runs", 3, *SHORT)
    study = start_study(folder, *options)
    wait_for_records(folder, 2, study)
    study.send_signal(signal.SIGINT)
    ended = end_of(study)
    assert ended.status == 130
    assert ended.err.splitlines()[-1] == "memfloor: interrupted; every finished run is on disk"
    assert "Traceback" not in ended.err
    kept = contents(folder)
    assert 2 <= len(kept) < 6

    resumed = start_study(folder, *options)
    assert end_of(resumed).status == 0
    assert len(taken(folder)) == 6
    assert set(taken(folder).values()) == {1}
    assert {name: contents(folder)[name] for name in kept} == kept


def test_killed_at_any_moment_it_loses_no_finished_run_and_takes_none_twice(
    start_study, tmp_path, taken, contents, wait_for_records, end_of
):
    folder = tmp_path / "records"
    options = ("--context", f"{SLOW},64", "--runs", 6, *SHORT)
    moments = random.Random(20261123)
    kept = {}
    for _ in range(3):
        study = start_study(folder, *options)
        # The moment counts from the first new record, so that each session gets somewhere on any machine.
        wait_for_records(folder, len(kept) + 1, study)
        time.sleep(moments.uniform(0.0, 0.5))
        study.kill()
        study.communicate()
        assert {name: contents(folder)[name] for name in kept} == kept
        kept = contents(folder)
        assert set(taken(folder).values()) <= {1}
    study = start_study(folder, *options)
    ended = end_of(study)
    assert ended.status == 0, ended.err
    assert len(taken(folder)) == 12
    assert set(taken(folder).values()) == {1}


@pytest.mark.usefixtures("fake_child")
def test_a_reader_never_sees_half_a_record(memfloor, tiny_model, tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    finished, unreadable, most = threading.Event(), [], []

    def keep_reading():
        while not finished.is_set():
            records, bad = Store(folder).read()
            unreadable.extend(bad)
            most.append(len(records))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    # Records of thousands of steps take long to write.
    options = ("--context", "64", "--runs", 6, "--timed-steps", 5000)
    memfloor("study", "--model", tiny_model, "--device", "cpu", "--out", folder, *options)
    finished.set()
    reader.join()
    assert unreadable == []
    assert most == sorted(most)
    assert len(set(most)) > 1


@pytest.mark.usefixtures("fake_child")
def test_foreign_files_in_the_folder_are_left_alone(memfloor, tiny_model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "data.json").write_text('{"mine": true}')
    options = ("--context", "64", "--runs", 1)
    result = memfloor("study", "--model", tiny_model, "--device", "cpu", "--out", tmp_path, *options)
    assert result.status == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "data.json").read_text() == '{"mine": true}'
