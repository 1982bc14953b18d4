import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from memfloor.measure.process import LAST_WORDS_CHARACTERS, ChildOutcome, run_child

PATIENCE_SECONDS = 60.0
PRELUDE = """
import json, os, signal, subprocess, sys, time
pipe = int(sys.argv[1])
def send(**event):
    os.write(pipe, (json.dumps(event) + "\\n").encode())
"""


@pytest.fixture
def take(write_child):
    """Return a function that runs a child of the given source and returns its outcome and its events."""

    def run(source, job="{}", limit=PATIENCE_SECONDS):
        events = []
        return run_child(write_child(PRELUDE + source), job, limit, events.append), events

    return run


def test_a_child_reads_its_job_and_reports_in_order(take):
    outcome, events = take("job = json.load(sys.stdin)\nfor i in range(job['count']): send(index=i)", '{"count": 3}')
    assert events == [{"index": 0}, {"index": 1}, {"index": 2}]
    assert outcome == ChildOutcome(exit_status=0, timed_out=False, last_words="")


def test_a_job_larger_than_a_pipe_arrives_whole(take):
    _, events = take("send(length=len(sys.stdin.read()))", "x" * 1_000_000)
    assert events == [{"length": 1_000_000}]


def test_an_event_larger_than_a_pipe_arrives_whole(take):
    source = """
data = (json.dumps({"text": "y" * 1_000_000}) + "\\n").encode()
while data: data = data[os.write(pipe, data):]
"""
    _, events = take(source)
    assert [len(event["text"]) for event in events] == [1_000_000]


def test_an_exit_status_comes_with_the_last_words(take):
    outcome, _ = take("print('first'); print('the reason', file=sys.stderr); sys.exit(3)")
    assert (outcome.exit_status, outcome.timed_out) == (3, False)
    assert outcome.last_words.splitlines()[-1] == "the reason"
    assert outcome.describe() == "exit status 3"


def test_a_traceback_is_in_the_last_words(take):
    outcome, _ = take("raise ArithmeticError('seven')")
    assert outcome.exit_status == 1
    assert outcome.last_words.endswith("ArithmeticError: seven")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_killed_child_is_described_by_its_signal(take, name):
    outcome, events = take(f"send(alive=True); os.kill(os.getpid(), signal.{name})")
    assert (outcome.exit_status, outcome.timed_out) == (-signal.Signals[name], False)
    assert outcome.describe() == f"ended by {name}"
    assert events == [{"alive": True}]


def test_a_signal_without_a_name_is_described_by_its_number(take):
    outcome, _ = take("os.kill(os.getpid(), signal.SIGRTMIN + 6)")
    assert outcome.describe() == f"ended by signal {signal.SIGRTMIN + 6}"


def test_a_hanging_child_is_ended_in_time_and_its_words_kept(take):
    outcome, events = take("send(pid=os.getpid()); print('still here', flush=True); time.sleep(600)", limit=3.0)
    assert (outcome.timed_out, outcome.exit_status) == (True, -signal.SIGKILL)
    assert outcome.last_words == "still here"
    assert not psutil.pid_exists(events[0]["pid"])


def test_a_child_that_reports_all_the_time_still_has_a_time_limit(take):
    outcome, events = take("while True: send(tick=1); time.sleep(0.01)", limit=3.0)
    assert outcome.timed_out
    assert len(events) > 0


def test_a_child_that_closes_its_pipe_and_hangs_is_ended_in_time(take):
    outcome, _ = take("os.close(pipe); time.sleep(600)", limit=1.5)
    assert (outcome.timed_out, outcome.exit_status) == (True, -signal.SIGKILL)


def test_a_child_that_ignores_polite_signals_is_ended_in_time(take):
    source = (
        "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]\ntime.sleep(600)"
    )
    assert take(source, limit=1.5)[0].timed_out


def test_garbage_on_standard_output_is_no_event(take):
    outcome, events = take("os.write(1, bytes(range(256)) * 4 + b'{\\n'); send(good=1); os.write(2, b'\\xff end')")
    assert events == [{"good": 1}]
    assert outcome.exit_status == 0
    assert outcome.last_words.endswith("� end")


def test_of_a_talkative_child_only_the_last_words_are_kept(take):
    outcome, _ = take("print('a' * 100_000 + 'the end'); sys.exit(1)")
    assert len(outcome.last_words) <= LAST_WORDS_CHARACTERS
    assert outcome.last_words.endswith("the end")


def test_a_line_that_a_dying_child_did_not_finish_is_no_event(take):
    outcome, events = take("send(whole=1); os.write(pipe, b'{\"half\": '); os.kill(os.getpid(), signal.SIGKILL)")
    assert events == [{"whole": 1}]
    assert outcome.exit_status == -signal.SIGKILL


def test_a_child_that_dies_before_it_reads_its_job_is_reported(take):
    outcome, events = take("print('no thanks', flush=True); os._exit(9)", "x" * 1_000_000)
    assert (outcome.exit_status, outcome.timed_out, events) == (9, False, [])
    assert outcome.last_words == "no thanks"


def test_a_module_that_is_not_there_is_reported():
    outcome = run_child("no_such_module_anywhere", "{}", PATIENCE_SECONDS, lambda event: None)
    assert outcome.exit_status == 1
    assert "No module named no_such_module_anywhere" in outcome.last_words


def test_a_grandchild_is_ended_with_a_child_that_hangs(take, wait_until_gone):
    source = "nap = subprocess.Popen(['sleep', '600']); send(pid=nap.pid); time.sleep(600)"
    _, events = take(source, limit=3.0)
    assert wait_until_gone(events[0]["pid"])


def test_a_grandchild_is_ended_with_a_child_that_succeeds(take, wait_until_gone):
    outcome, events = take("nap = subprocess.Popen(['sleep', '600']); send(pid=nap.pid)")
    assert (outcome.exit_status, outcome.timed_out) == (0, False)
    assert wait_until_gone(events[0]["pid"])


def test_a_dead_child_is_not_waited_for_because_a_grandchild_holds_its_pipe(take, wait_until_gone):
    source = """
pid = os.fork()
if pid == 0:
    time.sleep(600)
send(pid=pid)
os.kill(os.getpid(), signal.SIGKILL)
"""
    outcome, events = take(source, limit=20.0)
    assert (outcome.exit_status, outcome.timed_out) == (-signal.SIGKILL, False)
    assert wait_until_gone(events[0]["pid"])


def test_a_child_is_ended_when_the_conversation_is_interrupted(write_child, wait_until_gone):
    heard = []

    def interrupt(event):
        heard.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(write_child(PRELUDE + "send(pid=os.getpid()); time.sleep(600)"), "{}", PATIENCE_SECONDS, interrupt)
    assert wait_until_gone(heard[0]["pid"])


def test_a_child_does_not_get_the_interrupt_of_the_terminal(take):
    _, events = take("send(group=os.getpgid(0), session=os.getsid(0))")
    assert events[0]["group"] != os.getpgid(0)
    assert events[0]["session"] != os.getsid(0)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_child_dies_with_its_parent(write_child, tmp_path, wait_until_gone, name):
    module = write_child(
        PRELUDE
        + f"""
from memfloor.measure.process import die_with_parent
die_with_parent()
with open({str(tmp_path / "draft")!r}, "w") as file:
    file.write(str(os.getpid()))
os.rename({str(tmp_path / "draft")!r}, {str(tmp_path / "pid")!r})
time.sleep(600)
"""
    )
    # A process that a shell starts in the background inherits that interrupts are ignored.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    call = f"{listen}; from memfloor.measure.process import run_child; run_child({module!r}, '{{}}', 600.0, print)"
    parent = subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "pid").exists() and parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.send_signal(signal.Signals[name])
    parent.wait()
    assert wait_until_gone(int((tmp_path / "pid").read_text()))


def test_events_are_plain_json(take):
    _, events = take("send(text='\\u00e9', number=1.5, nothing=None)")
    assert json.loads(json.dumps(events)) == [{"text": "é", "number": 1.5, "nothing": None}]
