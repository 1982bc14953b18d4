"""`memfloor deadline`: a real loop of a tiny model from its process to the page, what records say, and bad input."""

import json
import shutil
import signal

import psutil
import pytest

from memfloor.record import Failure, Store

LOOP = ("--hz", 50, "--tokens", 3, "--prompt", 8, "--minutes", 0.01, "--device", "cpu", "--threads", 1)


@pytest.fixture(scope="module")
def looped(shell, tiny_model, tmp_path_factory):
    """Return the folder and the result of one loop that takes its prompt in every cycle."""
    folder = tmp_path_factory.mktemp("looped") / "records"
    return folder, shell("deadline", tiny_model, *LOOP, "--out", folder, "--json")


def test_a_loop_is_run_recorded_and_summed_up(looped, tiny_model):
    folder, result = looped
    assert result.status == 0, result.err
    contents = Store(folder).contents()
    assert (contents.unreadable, contents.runs) == ([], [])
    [loop] = contents.control_loops
    cycles = loop.cycles
    assert (loop.cell.runtime, loop.cell.prefill, loop.no_prefill, loop.steps) == ("hf-eager", True, None, 3)
    assert (loop.period_seconds, loop.warmup_cycles, loop.paced) == (0.02, 5, True)
    # However slow the machine, two cycles count; however fast, no more than fit into 0.6 s.
    assert 7 <= len(cycles.ticks) <= 5 + 30
    assert len(cycles.prefill_seconds) == len(cycles.facts["minor_faults"]) == len(cycles.ticks)
    for prefill, decode, busy in zip(cycles.prefill_seconds, cycles.decode_seconds, cycles.busy_seconds, strict=True):
        assert 0 < prefill + decode <= busy
    assert loop.path.operators
    [said] = json.loads(result.out)
    assert said["cycles"] == len(cycles.ticks) - 5
    assert said["periods"] == cycles.ticks[-1] - cycles.ticks[5] + 1
    assert said["missed_per_hour_ci95"][0] <= said["missed_per_hour"] <= said["missed_per_hour_ci95"][1]


def test_the_engine_decodes_alone_and_says_why(shell, tiny_model, tmp_path):
    result = shell("deadline", tiny_model, *LOOP, "--runtime", "engine", "--unpaced", "--out", tmp_path)
    assert result.status == 0, result.err
    assert "Decode only, from 8 tokens in the cache (engine takes prompts token by token on this device)" in result.out
    [loop] = Store(tmp_path).contents().control_loops
    assert (loop.paced, loop.cycles.late_seconds, loop.cycles.prefill_seconds) == (False, (), ())


# Long enough to be ended in the middle on any machine.
ON_ENGINE = ("--tokens", 3, "--prompt", 8, "--runtime", "engine", "--device", "cpu", "--threads", 1)
LONG = ("--hz", 200, "--minutes", 5, *ON_ENGINE)


@pytest.fixture
def interrupted(start_memfloor, wait_until, end_of, tiny_model, tmp_path):
    """Return a function that ends a loop in its middle, of whose first two hundred cycles the command has heard."""

    def end_in_the_middle(end, *options):
        before = {first_line(path) for path in tmp_path.glob(".loops-*")}
        process = start_memfloor("deadline", tiny_model, *LONG, *options, "--out", tmp_path)
        wait_until(lambda: cycles_in_journals(tmp_path, before) >= 200, process)
        end(process)
        return end_of(process)

    return end_in_the_middle


def first_line(journal):
    return journal.read_bytes().partition(b"\n")[0]


def cycles_in_journals(folder, before):
    journals = [path for path in folder.glob(".loops-*") if first_line(path) not in before]
    lines = [line for path in journals for line in path.read_bytes().split(b"\n")[:-1]]
    return sum(len(json.loads(line)["cycles"]["ticks"]) for line in lines if line.startswith(b'{"cycles"'))


def end_with(number):
    return lambda process: process.send_signal(number)


def kill_child(process):
    (child,) = psutil.Process(process.pid).children()
    child.kill()


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        (end_with(signal.SIGINT), 130, "its command was interrupted"),
        (end_with(signal.SIGTERM), 128 + signal.SIGTERM, "its command was interrupted"),
        (kill_child, 0, "engine: ended by SIGKILL; no last words"),
    ],
    ids=["interrupt", "terminate", "kill the child"],
)
def test_what_ends_a_loop_leaves_its_cycles_on_record(interrupted, tmp_path, end, status, words):
    result = interrupted(end)
    assert result.status == status, result.err
    [loop] = Store(tmp_path).contents().control_loops
    count = len(loop.cycles.ticks) - 5
    assert count >= 195
    assert (loop.interrupted, loop.path, len(loop.ceilings)) == (words, None, 1)
    assert f"memfloor: {words}: kept {count} cycles of " in result.err
    assert "Traceback" not in result.err
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"]


def test_a_killed_loop_is_salvaged_once_and_goes_on_for_the_time_that_it_lacks(
    interrupted, memfloor, tiny_model, tmp_path
):
    interrupted(end_with(signal.SIGKILL))
    assert list(tmp_path.glob("*.json")) == []
    [journal] = tmp_path.glob(".loops-*")
    # A kill in the middle of writing a line leaves the beginning of one.
    with journal.open("ab") as file:
        file.write(b'{"cycles": {"ticks": [1, 2')
    torn = journal.read_bytes()
    second = interrupted(end_with(signal.SIGINT))
    [salvaged, more] = Store(tmp_path).contents().control_loops
    count = len(salvaged.cycles.ticks) - 5
    assert salvaged.interrupted == "its command was killed"
    assert f"memfloor: its command was killed: kept {count} cycles of " in second.err
    assert f"goes on with a session of {salvaged.taken_at}: {count} cycles of " in second.err
    assert (more.session_id, more.block) == (salvaged.session_id, salvaged.block)
    # Killed between putting it on record and removing the journal: it is not doubled.
    journal.write_bytes(torn)
    left = 300 - salvaged.watched_seconds - more.watched_seconds
    third = interrupted(end_with(signal.SIGKILL))
    assert f"running cycles for {left:g} s" in third.err
    assert Store(tmp_path).contents().control_loops == [salvaged, more]
    # The engine of another command takes nothing of it, and puts what was killed on record.
    assert memfloor("deadline", tiny_model, *LOOP, "--out", tmp_path, "--json").status == 0
    assert len({loop.session_id for loop in Store(tmp_path).contents().control_loops}) == 2
    assert memfloor("report", tmp_path, "-o", tmp_path / "page.html").status == 0
    assert "3 of 3 processes ended before their time" in (tmp_path / "page.html").read_text()


def test_a_session_is_complete_once_each_block_has_its_time_and_then_a_new_one_begins(
    interrupted, memfloor, tiny_model, tmp_path
):
    interrupted(end_with(signal.SIGINT), "--runs", 2)
    [path] = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    # As if half a second had been asked for, of which a cycle lacks in the first block.
    cut = {**record, "planned_seconds": 0.5}
    ticks = record["cycles"]["ticks"]
    keep = next(place for place, tick in enumerate(ticks) if tick - ticks[5] >= 10)
    columns = {name: values[:keep] for name, values in record["cycles"].items() if isinstance(values, list)}
    facts = {name: values[:keep] for name, values in record["cycles"]["facts"].items()}
    path.write_text(json.dumps({**cut, "cycles": {**record["cycles"], **columns, "facts": facts}}))
    half = ("--hz", 200, "--minutes", 0.5 / 60, *ON_ENGINE, "--runs", 2, "--out", tmp_path, "--json")
    said = memfloor("deadline", tiny_model, *half)
    assert said.status == 0, said.err
    loops = Store(tmp_path).contents().control_loops
    assert [(loop.block, loop.interrupted) for loop in loops] == [(0, record["interrupted"]), (0, None), (1, None)]
    assert len({loop.session_id for loop in loops}) == 1
    assert sum(loop.watched_seconds for loop in loops[:2]) >= 0.5
    assert json.loads(said.out)[0]["loops"] == 3
    memfloor("deadline", tiny_model, *half)
    assert len({loop.session_id for loop in Store(tmp_path).contents().control_loops}) == 2


def test_the_same_loop_is_not_run_twice_at_once(start_memfloor, wait_until, end_of, memfloor, tiny_model, tmp_path):
    process = start_memfloor("deadline", tiny_model, *LONG, "--out", tmp_path)
    wait_until(lambda: list(tmp_path.glob(".loops-*")), process)
    refused = memfloor("deadline", tiny_model, *LONG, "--out", tmp_path)
    assert (refused.status, refused.err.splitlines()[-1]) == (
        2,
        f"memfloor: this loop is running on {tmp_path} already; let it end, or interrupt it",
    )
    process.kill()
    end_of(process)


@pytest.mark.parametrize("text", ["half of a li\n", "[1, 2]\n", '{"asked": {"kind": 3}}\n', '{"a": 1, "b": 2}\n'])
def test_a_journal_that_is_none_is_one_line_and_left_alone(memfloor, tiny_model, tmp_path, text):
    (tmp_path / ".loops-0123.jsonl").write_text(text)
    refused = memfloor("deadline", tiny_model, *LONG, "--out", tmp_path)
    words = f"memfloor: {tmp_path}/.loops-0123.jsonl is no journal that this version reads; move it away\n"
    assert (refused.status, refused.err) == (2, words)
    assert (tmp_path / ".loops-0123.jsonl").read_text() == text


def test_a_loop_that_dies_before_a_cycle_counts_is_a_failure(start_memfloor, wait_until, end_of, tiny_model, tmp_path):
    process = start_memfloor("deadline", tiny_model, *LONG, "--out", tmp_path)
    wait_until(lambda: psutil.Process(process.pid).children(), process)
    kill_child(process)
    assert end_of(process).status == 1
    [failure] = Store(tmp_path).read()[0]
    assert isinstance(failure, Failure)
    assert (failure.cause, failure.last_words) == ("died", "ended by SIGKILL; no last words")
    assert list(tmp_path.glob(".loops-*")) == []


def test_its_records_say_whether_the_period_would_be_kept_and_stand_on_the_page(memfloor, looped, tiny_model, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(looped[0], folder)
    asked = ("--tokens", 3, "--prompt", 8, "--from", folder, "--json")
    kept = memfloor("deadline", tiny_model, "--hz", 0.01, *asked)
    [candidate] = json.loads(kept.out)["candidates"]
    assert (candidate["origin"], candidate["prompt"]) == ("loop", "measured")
    # So few cycles have no p99: the period is not told to be kept.
    assert (candidate["verdict"], candidate["tail_seconds"], kept.status) == ("at the median", None, 3)
    missed = memfloor("deadline", tiny_model, "--hz", 1e5, *asked)
    assert (json.loads(missed.out)["candidates"][0]["verdict"], missed.status) == ("no", 3)
    assert memfloor("report", folder, "-o", tmp_path / "page.html").status == 0
    assert "Control loops against their period" in (tmp_path / "page.html").read_text()
    assert memfloor("figure", "jitter", folder, "-o", tmp_path / "jitter.svg").status == 0


def test_records_of_other_models_say_that_there_are_none_of_this(memfloor, looped):
    result = memfloor("deadline", "llama-2-7b", "--hz", 10, "--tokens", 7, "--from", looped[0])
    assert result.status == 3
    assert "Nothing on record tells of llama-2-7b" in result.out
    assert "no runtime can" in next(line for line in result.out.splitlines() if " l4 " in line)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"--hz": "0"}, ["hz must be above zero and finite, not 0"]),
        ({"--hz": "nan"}, ["hz", "nan"]),
        ({"--hz": "inf"}, ["hz", "inf"]),
        ({"--hz": "1e-320"}, ["hz must be above zero and finite"]),
        ({"--tokens": "0"}, ["tokens must be 1 or more, not 0"]),
        ({"--prompt": "-1"}, ["prompt must be 1 or more, not -1"]),
        ({"--prompt": str(2**40)}, [str(2**40 + 7), "beyond", f"1 to {2**40}"]),
        ({"--minutes": "0"}, ["minutes must be above 0 and at most 1440, not 0"]),
        ({"--minutes": "nan"}, ["minutes", "nan"]),
        ({"--runs": "0"}, ["runs must be 1 or more, not 0"]),
        ({"--runtime": "vllm"}, ["unknown runtime 'vllm'", "hf-eager"]),
        ({"--runtime": "engine,steps=4"}, ["engine,steps=4 launches 4 steps together", "7 tokens"]),
        ({"--device": "tpu"}, ["unknown device 'tpu'", "cpu, cuda"]),
        ({"--from": "/no/such/folder"}, ["/no/such/folder is not a folder with records"]),
        ({"--from": "/tmp", "--device": "h300"}, ["unknown device 'h300'", "h100-sxm5"]),
        (
            {"--from": "/tmp", "--hz": "1e12"},
            ["no runtime can", "8 TB/s and 2250 TFLOP/s, by the datasheet of b200", "the period is 0.001 ns"],
        ),
        ({"--from": "/tmp", "--weights": "int3"}, ["unknown weight format 'int3'", "int4-g128"]),
    ],
    ids=lambda value: " ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, dict) else None,
)
def test_a_wrong_loop_is_refused_in_one_line_before_anything_is_run(memfloor, tiny_model, tmp_path, given, words):
    given = {"--hz": "10", "--tokens": "7", "--device": "cpu", "--out": str(tmp_path / "out")} | given
    if "--from" in given and given["--device"] == "cpu":
        del given["--device"]
    result = memfloor("deadline", tiny_model, *(part for item in given.items() for part in item))
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("memfloor: ")
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err
    assert not (tmp_path / "out").exists()


def test_a_period_below_what_this_memory_can_is_refused_with_the_floor(memfloor, tiny_model, tmp_path):
    asked = ("--hz", 1e9, "--tokens", 7, "--runtime", "engine", "--device", "cpu", "--out", tmp_path)
    result = memfloor("deadline", tiny_model, *asked)
    assert (result.status, list(tmp_path.glob("*.json"))) == (2, [])
    last = result.err.splitlines()[-1]
    assert last.startswith("memfloor: no runtime can: 7 decode steps at 276 of tiny in bf16 take at least ")
    assert last.endswith("and the period is 1 ns")
