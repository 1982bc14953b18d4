"""A sweep takes each run of its plan exactly once, whatever becomes of its workers and its driver."""

import json
import random
import signal
import sys
import time
from collections import Counter, defaultdict

import psutil
import pytest

from memfloor.record import Failure, Run, Skip
from memfloor.sweep import driver
from memfloor.sweep.ledger import FolderLedger, UrlLedger

OUT_OF_MEMORY, UNAVAILABLE, EXIT, SLOW, KILLS_PARENT = 20, 21, 22, 27, 29
TWO = {"name": "here", "executor": "local", "device": "cpu", "cpus": 1, "workers": 2}
ONE = {"name": "here", "executor": "local", "device": "cpu"}


@pytest.fixture(autouse=True)
def _call_lost_workers_at_once(monkeypatch):
    monkeypatch.setattr(driver, "RETRY_SECONDS", 0.01)


def workers_of(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]


def is_worker(process):
    # The children of workers come and go meanwhile, and one that has ended has no command line.
    try:
        return "memfloor.sweep.worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@pytest.mark.usefixtures("fake_child")
def test_each_run_is_taken_once_and_what_is_compared_by_one_worker_on_its_own_cpu(
    memfloor, write_plan, tmp_path, read, taken
):
    result = memfloor("sweep", write_plan(TWO), "--out", tmp_path / "out", "--json")
    assert result.status == 0
    assert json.loads(result.out)["taken"] == 12
    assert len(taken(tmp_path / "out")) == 12
    assert set(taken(tmp_path / "out").values()) == {1}
    units, cpus = defaultdict(set), defaultdict(set)
    for run in read(tmp_path / "out"):
        units[run.cell.workload.context_len, run.block].add((run.session_id, run.path.facts["cpus"]))
        cpus[run.session_id].add(run.path.facts["cpus"])
        assert run.cell.threads == 1
    assert all(len(places) == 1 for places in units.values()), "a pair was taken on two machines"
    assert len(cpus) == 2
    assert all(len(bound) == 1 for bound in cpus.values())
    assert len(set.union(*cpus.values())) == 2, "two workers had the same CPU"

    again = memfloor("sweep", write_plan(TWO), "--out", tmp_path / "out")
    assert (again.status, again.err) == (0, ""), "no worker is needed where nothing is missing"
    assert "0 runs taken beside 12 on record" in again.out
    more = memfloor("sweep", write_plan(TWO, runs=4), "--out", tmp_path / "out")
    assert "4 runs taken beside 12 on record" in more.out


def test_a_dry_run_costs_the_plan_and_asks_and_makes_nothing(memfloor, write_plan, tmp_path):
    far = {"name": "far", "executor": "ssh", "device": "cuda", "hosts": ["nowhere.invalid"], "gpus": [0, 1]}
    plan = write_plan(ONE, {**far, "price": "3.00:USD:2026-11-27"})
    result = memfloor("sweep", plan, "--out", tmp_path / "out", "--dry-run", "--json")
    assert (result.status, result.err) == (0, "")
    said = json.loads(result.out)
    assert [(item["machine"], item["runs"], item["workers"], item["cost"]) for item in said["machines"]] == [
        ("here", 12, 1, None),
        # Twelve runs of the minute that is assumed on a GPU.
        ("far", 12, 2, [0.6, 0.6]),
    ]
    assert said["cost"] == {"USD": [0.6, 0.6]}
    table = memfloor("sweep", plan, "--out", tmp_path / "out", "--dry-run").out
    assert "assumed, 60 s a run" in table
    assert "No price for here" in table
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ray", "auto"), "--ray auto is for machines with executor = 'ray'"),
        (("--prices", "PRICES"), "rented.0.currency: Field required"),
    ],
)
def test_what_does_not_fit_a_plan_is_one_line(memfloor, write_plan, tmp_path, options, words):
    prices = tmp_path / "prices.toml"
    prices.write_text('[[rented]]\ndevice = "h200"\nprovider = "a"\nper_hour = 3.0\nsource = "b"')
    given = [str(prices) if option == "PRICES" else option for option in options]
    refused = memfloor("sweep", write_plan(ONE), "--out", tmp_path / "out", *given)
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert words in refused.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("fake_child")
def test_a_cell_that_cannot_run_is_said_and_the_rest_goes_on(memfloor, write_plan, tmp_path, read):
    plan = write_plan(ONE, contexts=(OUT_OF_MEMORY, UNAVAILABLE, EXIT, 64), runtimes=("hf-eager",), runs=2)
    for number in (1, 2):
        assert memfloor("sweep", plan, "--out", tmp_path / "out").status == 0
        found = Counter((type(record), record.cell.workload.context_len) for record in read(tmp_path / "out"))
        # Memory does not come back; the others are asked again by each start, and left alone after two failures.
        expected = {(Failure, OUT_OF_MEMORY): 1, (Skip, UNAVAILABLE): number, (Failure, EXIT): 2 * number, (Run, 64): 2}
        assert found == expected


@pytest.mark.usefixtures("fake_child")
def test_a_cell_that_takes_its_workers_along_is_a_failure_and_the_rest_goes_on(memfloor, write_plan, tmp_path, read):
    plan = write_plan(ONE, contexts=(KILLS_PARENT, 64), runtimes=("hf-eager",), runs=1, more="attempts = 2")
    result = memfloor("sweep", plan, "--out", tmp_path / "out")
    assert result.status == 0
    assert result.err.count("here: lost: ended by SIGKILL") == 2
    failure, run = sorted(read(tmp_path / "out"), key=lambda record: record.kind)
    assert failure.last_words == "its worker was lost in 2 attempts: ended by SIGKILL"
    assert run.cell.workload.context_len == 64


@pytest.mark.usefixtures("fake_child")
def test_runs_that_no_worker_is_left_for_are_said(memfloor, write_plan, tmp_path, read):
    plan = write_plan(ONE, contexts=(KILLS_PARENT, 64), runtimes=("hf-eager",), runs=4, more="attempts = 1")
    result = memfloor("sweep", plan, "--out", tmp_path / "out")
    kept = read(tmp_path / "out")
    assert (result.status, sum(isinstance(record, Failure) for record in kept)) == (1, 1)
    assert f"memfloor: no worker was left for {8 - len(kept)} runs; start the sweep again" in result.err


def test_killed_or_interrupted_driver_and_killed_worker_lose_and_double_nothing(
    start_sweep, write_plan, tmp_path, taken, contents, wait_for_records, end_of
):
    folder, kept = tmp_path / "out", {}
    plan, moments = write_plan(TWO, contexts=(SLOW, 64), runs=4), random.Random(20261128)
    for end in (signal.SIGKILL, signal.SIGINT):
        sweep = start_sweep(plan, folder)
        wait_for_records(folder, len(kept) + 1, sweep)
        workers = workers_of(sweep)
        time.sleep(moments.uniform(0.0, 0.4))
        sweep.send_signal(end)
        ended = end_of(sweep)
        psutil.wait_procs(workers, timeout=30)
        assert not any(worker.is_running() for worker in workers), "a worker outlived its driver"
        assert {name: contents(folder)[name] for name in kept} == kept
        kept = contents(folder)
        assert set(taken(folder).values()) <= {1}
    assert (ended.status, ended.err.splitlines()[-1]) == (130, "memfloor: interrupted; every finished run is on disk")
    sweep = start_sweep(plan, folder)
    wait_for_records(folder, len(kept) + 1, sweep)
    workers_of(sweep)[0].kill()
    ended = end_of(sweep)
    assert ended.status == 0, ended.err
    assert "lost: ended by SIGKILL" in ended.err
    assert {name: contents(folder)[name] for name in kept} == kept
    assert len(taken(folder)) == 16
    assert set(taken(folder).values()) == {1}


def test_a_second_driver_of_a_sweep_is_refused(write_plan, tmp_path, memfloor):
    with FolderLedger(tmp_path / "out", "tried"):
        refused = memfloor("sweep", write_plan(ONE), "--out", tmp_path / "out")
    assert refused.status == 2
    words = f"memfloor: sweep 'tried' is running on {tmp_path / 'out'} already; let it end, or interrupt it\n"
    assert refused.err == words


@pytest.mark.usefixtures("fake_child")
def test_records_can_go_to_an_object_store_each_whole_and_once(memfloor, write_plan, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    where, plan = "memory://bucket/tried", write_plan(ONE, contexts=(64,), runs=2)
    files = fsspec.filesystem("memory")
    files.store.clear()
    for taken_now, before in ((4, 0), (0, 4)):
        result = memfloor("sweep", plan, "--out", where)
        assert result.status == 0
        assert f"{taken_now} runs taken beside {before} on record" in result.out
    assert len(files.find("/bucket")) == 4
    ledger = UrlLedger(where)
    first = ledger.records()[0]
    other = first.model_copy(update={"session_id": "0" * 32})
    assert not ledger.keep(other), "a record was written over"
    assert ledger.records()[0].session_id == first.session_id
    files.store.clear()


@pytest.mark.parametrize(("where", "words"), [("ftp://host/x", "unknown kind of URL 'ftp'"), ("gs://b", "gcsfs")])
def test_a_url_that_cannot_be_used_is_one_line(memfloor, write_plan, where, words):
    refused = memfloor("sweep", write_plan(ONE), "--out", where)
    assert refused.status == 2
    assert refused.err.startswith("memfloor: ")
    assert refused.err.count("\n") == 1
    assert words in refused.err


SSH = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
case $2 in
  far) echo "ssh: connect to host far port 22: Connection refused" >&2; exit 255 ;;
  strange) set -- -- "$2" "exec /bin/false" ;;
esac
echo "Welcome to $2"
exec sh -c "$3"
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put a stand-in for ssh on the path, which runs its command on this machine and greets as a login shell may."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def machine(*hosts, **other):
        other = {"python": sys.executable, **other}
        return {"name": "fleet", "executor": "ssh", "device": "cpu", "cpus": 1, "hosts": list(hosts), **other}

    return machine


@pytest.mark.usefixtures("fake_child")
def test_a_sweep_over_ssh_brings_its_records_home(memfloor, write_plan, ssh, tmp_path, read, taken):
    result = memfloor("sweep", write_plan(ssh("one", "two"), runs=2), "--out", tmp_path / "out")
    assert result.status == 0
    assert "fleet/one: " in result.err
    assert len(taken(tmp_path / "out")) == 8
    assert len({run.session_id for run in read(tmp_path / "out")}) == 2


@pytest.mark.parametrize(
    ("hosts", "other", "words"),
    [
        (["one", "far"], {}, "fleet/far: exit status 255; ssh: connect to host far port 22: Connection refused"),
        (["strange"], {}, "fleet/strange: exit status 1"),
        (["one"], {"python": "/no/python"}, "fleet/one: exit status 127"),
        (["one"], {"cpus": 4096}, "fleet/one: cpus must be 1 to"),
        (["one"], {"hardware": "h200"}, "hardware of fleet is 'h200'"),
    ],
)
def test_a_host_that_cannot_serve_is_one_line_before_anything_is_taken(
    memfloor, write_plan, ssh, tmp_path, hosts, other, words, read
):
    refused = memfloor("sweep", write_plan(ssh(*hosts, **other)), "--out", tmp_path / "out")
    assert refused.status == 2
    last = refused.err.splitlines()[-1]
    assert last.startswith("memfloor: ")
    assert words in last
    assert "Traceback" not in refused.err
    assert read(tmp_path / "out") == []
