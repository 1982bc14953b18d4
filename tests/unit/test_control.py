from dataclasses import replace
from pathlib import Path

import pytest

from memfloor.errors import UsageError
from memfloor.floor import decode_bytes, prompt_bytes, prompt_flop, step_traffic
from memfloor.hardware import find_device
from memfloor.record import ControlLoop, Cycles, Store
from memfloor.report.candidate_text import candidate_lines, candidate_row
from memfloor.report.candidates import candidates
from memfloor.report.control import missed, response_seconds, summarise_loops
from memfloor.report.control_text import loop_lines, loop_row
from memfloor.report.deadlines import Asked, cycle_floor, device_floors, floor_lines
from memfloor.report.page import render
from memfloor.report.sql import run_query, tables_of
from memfloor.report.summary import summarise
from memfloor.units import format_seconds

PERIOD = 0.1


@pytest.fixture
def make_loop(make_run, make_cell):
    def make(busy, ticks=None, late=None, prefill=None, facts=None, warmup=0, paced=True, **other):
        like = make_run()
        ticks = tuple(ticks or range(len(busy)))
        fields = like.model_dump(include={"record_id", "session_id", "taken_at", "block", "environment", "path"})
        return ControlLoop(
            **fields,
            cell=make_cell(context_len=16),
            period_seconds=PERIOD,
            steps=7,
            paced=paced,
            no_prefill=None if prefill else "not asked for",
            warmup_cycles=warmup,
            cycles=Cycles(
                ticks=ticks,
                late_seconds=tuple(late or [0.0] * len(busy)) if paced else (),
                prefill_seconds=tuple(prefill or ()),
                decode_seconds=tuple(busy),
                busy_seconds=tuple(busy),
                facts=facts or {},
            ),
            ceilings=like.ceilings,
            **other,
        )

    return make


def test_a_period_is_missed_by_a_late_cycle_and_by_every_tick_that_it_lets_pass(make_loop):
    # Tick 0 warms up; 1 is in time; 2 ends at 0.35 of the loop, so that 3 passes; 4 begins late and so ends late.
    loop = make_loop([9.0, 0.05, 0.15, 0.06, 0.05], ticks=[0, 1, 2, 4, 5], late=[0, 0, 0, 0.05, 0], warmup=1)
    assert response_seconds(loop) == pytest.approx([0.05, 0.15, 0.11, 0.05])
    assert missed(loop) == [False, True, True, True, False]
    [summary] = summarise_loops([loop])
    assert (summary.misses.count, summary.misses.trials) == (3, 5)
    assert summary.misses.hours == pytest.approx(0.5 / 3600)


def test_without_a_pace_a_cycle_misses_by_its_own_length(make_loop):
    assert missed(make_loop([0.05, 0.15, 0.09], paced=False)) == [False, True, False]


def test_no_miss_is_told_with_its_upper_end(make_loop):
    [summary] = summarise_loops([make_loop([0.01] * 100)])
    # 100 cycles of 0.1 s are 10 s: 3.689 events in as long are 1328 an hour.
    assert "No period of 100 ms was missed in 10 s of cycles: at most 1328 an hour" in loop_lines(summary)[0]
    assert loop_row(summary)[5:11] == ["10 ms", "10 ms", "-", "0 of 100", "0", "[0, 1328]"]


def test_what_the_slowest_cycles_coincide_with_is_counted(make_loop):
    # 5 of 100 cycles are slow, each preempted, as 3 others are; each cycle waits once, and the clock drops in one.
    slow = {10, 30, 50, 70, 90}
    preempted = [float(place in slow or place in (1, 2, 3)) for place in range(100)]
    clock = [1.5e9 if place == 10 else 1.98e9 - 1e6 * (place % 2) for place in range(100)]
    facts = {"involuntary_switches": preempted, "voluntary_switches": [1.0] * 100, "sm_clock_hz": clock}
    busy = [0.09 if place in slow else 0.05 for place in range(100)]
    [summary] = summarise_loops([make_loop(busy, facts=facts)])
    found = {item.fact: item for item in summary.coincidences}
    first = found["involuntary_switches"]
    assert summary.coincidences[0] is first
    assert (first.slowest_with, first.slowest, first.others_with, first.others) == (5, 5, 3, 95)
    # C(8, 5) / C(100, 5): all five slow ones among the eight.
    assert first.chance == pytest.approx(56 / 75_287_520)
    assert first.told
    waits, clocks = found["voluntary_switches"], found["sm_clock_hz"]
    assert (waits.slowest_with, waits.others_with, waits.chance, waits.told) == (0, 0, 1.0, False)
    assert (clocks.slowest_with, clocks.others_with, clocks.chance) == (1, 0, pytest.approx(0.05))
    assert summary.excess.by_part == pytest.approx({"late_seconds": 0, "decode_seconds": 0.04, "rest": 0}, abs=1e-12)


def test_too_few_cycles_say_nothing_of_why(make_loop):
    [summary] = summarise_loops([make_loop([0.01] * 19)])
    assert (summary.coincidences, summary.excess) == ([], None)
    assert any("19 cycles are too few" in line for line in loop_lines(summary))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ticks": (0, 2, 2)}, "do not rise"),
        ({"decode_seconds": (0.1, 0.1)}, "not every column"),
        ({"facts": {"moved_cpu": (1.0,)}}, "not every column"),
    ],
)
def test_a_damaged_table_of_cycles_is_refused(fields, words):
    whole = {"ticks": (0, 1, 2), "decode_seconds": (0.1,) * 3, "busy_seconds": (0.1,) * 3}
    with pytest.raises(ValueError, match=words):
        Cycles(**{**whole, **fields})


def test_a_loop_is_stored_and_stands_in_sql_and_on_the_page(make_loop, make_run, tmp_path):
    loop = make_loop([0.05, 0.15, 0.06], ticks=[0, 1, 3], facts={"minor_faults": (1.0, 2.0, 3.0)}, warmup=1)
    store = Store(tmp_path)
    store.add(loop)
    store.add(make_run())
    contents = store.contents()
    assert contents.control_loops == [loop]
    assert len(contents.runs) == 1
    sql = "select missed, periods, cycles from control_loops"
    assert run_query(tables_of([], loops=[loop]), sql)[1] == [(2, 3, 2)]
    sql = "select tick, response_seconds, minor_faults from cycles where not warmup order by cycle"
    assert run_query(tables_of([], loops=[loop]), sql)[1] == [(1, 0.15, 2.0), (3, 0.06, 3.0)]
    page = render([], [], tmp_path, loops=[loop])
    assert "Control loops against their period" in page
    assert "2 of 3 periods of 100 ms had no answer in time" in page
    assert "--hz 10 --tokens 7 --prompt 16" in page


def test_the_bytes_of_a_cycle_are_those_of_its_steps_and_of_a_prompt(tiny, make_cell):
    workload = make_cell(context_len=16).workload
    steps = [step_traffic(tiny, workload.model_copy(update={"context_len": 16 + step})) for step in range(3)]
    decode = sum(traffic.total_bytes for traffic in steps)
    assert decode_bytes(tiny, workload, 3) == decode
    # Every weight once more, no past to read, and the keys and values of 16 tokens to write.
    prompt = steps[0].total_bytes - steps[0].kv_read + 15 * steps[0].kv_write
    assert prompt_bytes(tiny, workload) == prompt
    assert Asked(tiny, workload, 3, PERIOD).cycle_bytes == decode + prompt


def test_a_period_below_the_floor_of_every_device_is_refused_with_the_floor(tiny, make_cell):
    asked = Asked(tiny, make_cell(context_len=16).workload, 7, 1e-7)
    floor = asked.cycle_bytes / find_device("b200").peak_bytes_per_second
    with pytest.raises(
        UsageError, match=rf"no runtime can: 16 .* take at least {1e9 * floor:.4g} ns .* by the datasheet of b200"
    ):
        device_floors(asked, [find_device("l4"), find_device("b200")])
    slower = Asked(tiny, asked.workload, 7, 1.5 * floor)
    found = device_floors(slower, [find_device("l4"), find_device("b200")])
    assert [item.row(slower)[::7] for item in found] == [["b200", "not ruled out"], ["l4", "no runtime can"]]


def test_the_operations_of_a_prompt_are_those_of_its_products_and_of_causal_attention(tiny):
    # Counted by hand for 3 tokens: of two blocks of width 64 with 4 heads of 16, 2 of them keys', the second needs
    # keys and values alone; three tokens meet 1, 2 and 3.
    block = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * tiny.intermediate_size
    assert (tiny.num_hidden_layers, tiny.hidden_size, tiny.head_dim, tiny.num_key_value_heads) == (2, 64, 16, 2)
    assert prompt_flop(tiny, 3) == 2 * 3 * (block + 64 * 32 * 2) + 4 * (1 + 2 + 3) * 64
    sliding = tiny.model_copy(update={"sliding_window": 2, "num_sliding_layers": 2})
    # Within a window of two they meet 1, 2 and 2.
    assert prompt_flop(tiny, 3) - prompt_flop(sliding, 3) == 4 * 1 * 64


def test_a_prompt_takes_the_longer_of_its_reads_and_its_arithmetic(tiny, make_cell):
    asked = Asked(tiny, make_cell(context_len=16).workload, 7, PERIOD)
    decode = asked.decode_bytes / 1e9
    slow = cycle_floor(asked, "slow at arithmetic", 1e9, asked.prompt_flop / 3.0)
    assert (slow.seconds, slow.prompt_seconds) == (pytest.approx(decode + 3.0), pytest.approx(3.0))
    assert "prompt 3 s by its arithmetic" in slow.parts_text
    fast = cycle_floor(asked, "fast at arithmetic", 1e9, 1e15)
    assert fast.seconds == pytest.approx(decode + asked.prompt_bytes / 1e9)
    assert "by its reads" in fast.parts_text.partition("prompt")[2]
    assert cycle_floor(asked, "of an unknown rate", 1e9).seconds == fast.seconds


def test_arithmetic_is_held_against_no_quantised_prompt_and_no_decode_alone(tiny, make_cell):
    asked = Asked(tiny, make_cell(context_len=16).workload, 7, PERIOD)
    int8 = replace(asked, workload=asked.workload.model_copy(update={"weights": "int8"}))
    for other in (int8, replace(asked, prefills=False)):
        floor = cycle_floor(other, "h200", 1e9, 1.0)
        assert (floor.prompt_arithmetic_seconds, floor.flop_per_second) == (None, None)
    assert "hold reads alone" in floor_lines(int8, [])[0]
    floors = device_floors(replace(asked, period_seconds=1e9), [find_device("h200"), find_device("t4")])
    assert floor_lines(asked, floors) == [
        "The floors of t4 hold reads alone: no rate of dense bf16 arithmetic is known of them."
    ]


def test_a_prompt_that_nobody_measured_rules_a_path_out_and_never_in(tiny, make_cell, make_run, make_loop):
    # Its device is in no catalogue: the bandwidth read beside its steps bounds the prompt.
    steps = make_run(step_seconds=[0.010] * 100, cell=make_cell(runtime="engine", context_len=16))
    summaries = summarise([steps])[0]
    asked = Asked(tiny, make_cell(context_len=16).workload, 7, PERIOD)
    [could] = candidates(asked, [], summaries)
    assert (could.prompt, could.verdict(PERIOD)) == ("bound", "could")
    least = could.prompt_seconds
    assert 0 < least < 1e-3
    assert could.p50_seconds == pytest.approx(0.07 + least)
    cycle = f"≥ {format_seconds(0.07 + least)}"
    margin = f"≤ {1e3 * (0.03 - least):+.3g} ms"
    assert candidate_row(could, asked)[4:] == [f"bound, {format_seconds(least)}", cycle, cycle, margin, "could"]
    lines = "\n".join(candidate_lines([could], asked, ["tiny"]))
    assert "0 of 1 would keep 100 ms at p99." in lines
    assert "1 more could keep it, and are not said to" in lines
    # Its decode alone would fit, and the prompt does not.
    tight = replace(asked, period_seconds=0.07 + least / 2)
    [cannot] = candidates(tight, [], summaries)
    assert candidate_row(cannot, tight)[-1] == "cannot"
    # Asked for decode alone, the same steps suffice.
    [alone] = candidates(replace(asked, prefills=False), [], summaries)
    assert (alone.prompt, alone.verdict(PERIOD)) == ("left out", "yes")
    # A loop that decoded alone is no loop of a prompt either.
    [decoded] = candidates(asked, summarise_loops([make_loop([0.05] * 200)]), [])
    assert (decoded.origin, decoded.prompt, decoded.verdict(PERIOD)) == ("loop", "bound", "could")


def test_records_say_what_would_keep_a_period(tiny, make_cell, make_run, make_loop):
    # 100 steps of 10 ms, of which the p99 is 12 ms; 100 of 20 ms; and a loop of another runtime.
    fast = make_run(step_seconds=[0.010] * 98 + [0.012] * 2, cell=make_cell(runtime="engine"))
    slow = make_run(step_seconds=[0.020] * 100, cell=make_cell(runtime="hf-static"))
    loop = make_loop([0.05] * 98 + [0.15] * 2)
    summaries = summarise([fast, slow])[0]
    asked = Asked(tiny, make_cell(context_len=16).workload, 7, PERIOD, prefills=False)
    found = candidates(asked, summarise_loops([loop]), summaries)
    assert [(item.path, item.origin, item.verdict(PERIOD)) for item in found] == [
        ("engine", "steps", "yes"),
        ("hf-eager", "loop", "at the median"),
        ("hf-static", "steps", "no"),
    ]
    assert [found[0].p50_seconds, found[0].tail_seconds] == pytest.approx([0.07, 0.084])
    assert [found[1].p50_seconds, found[1].tail_seconds] == pytest.approx([0.05, 0.15])
    other = Asked(tiny.model_copy(update={"hidden_size": 128}), asked.workload, 7, PERIOD)
    assert candidates(other, summarise_loops([loop]), summaries) == []


def test_the_time_of_a_loop_is_that_of_its_periods_and_without_a_pace_of_its_cycles(make_loop):
    # From tick 1 to the end of tick 5; those that were let pass are part of it.
    assert make_loop([0.05] * 5, ticks=[0, 1, 2, 4, 5], warmup=1).watched_seconds == pytest.approx(0.5)
    assert make_loop([0.05, 0.2, 0.3], paced=False, warmup=1).watched_seconds == pytest.approx(0.5)


def test_only_an_interrupted_loop_lacks_its_path_and_the_ceiling_after_it(make_loop):
    whole = make_loop([0.05] * 30)
    fields = whole.model_dump() | {"path": None, "ceilings": whole.model_dump()["ceilings"][:1]}
    with pytest.raises(ValueError, match="has an observed path and a ceiling after it"):
        ControlLoop.model_validate(fields)
    cut = ControlLoop.model_validate(fields | {"interrupted": "its command was killed"})
    [summary] = summarise_loops([cut, whole])
    said = "1 of 2 processes ended before their time (its command was killed)."
    assert said in loop_lines(summary)
    assert tables_of([], loops=[cut])
    assert said in render([], [], Path("records"), loops=[cut, whole])


def test_parts_of_a_loop_are_joined_and_a_fact_that_one_lacks_is_left_out():
    first = {"ticks": (0, 1), "decode_seconds": (0.1,) * 2, "busy_seconds": (0.1, 0.2)}
    then = {"ticks": (3,), "decode_seconds": (0.1,), "busy_seconds": (0.3,)}
    facts = {"minor_faults": (1.0, 2.0), "sm_clock_hz": (1e9, 1e9)}
    parts = Cycles(**first, facts=facts), Cycles(**then, facts={"minor_faults": (3.0,)}, silent={"sm_clock_hz": "gone"})
    joined = Cycles.joined(parts)
    assert (joined.ticks, joined.busy_seconds) == ((0, 1, 3), (0.1, 0.2, 0.3))
    assert (joined.facts, joined.silent) == ({"minor_faults": (1.0, 2.0, 3.0)}, {"sm_clock_hz": "gone"})
