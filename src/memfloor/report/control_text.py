"""What control loops say, as rows of tables and sentences: the same in the terminal and on the page."""

from memfloor.record import STEADY_SPREAD
from memfloor.report.alarms import FOREIGN_LOAD
from memfloor.report.coincidence import CLOCK_DROP, FEWEST_CYCLES, LEVEL, Coincidence, Excess
from memfloor.report.control import LoopSummary
from memfloor.report.deadlines import CycleFloor
from memfloor.report.tables import runtime_label
from memfloor.tails import Quantile
from memfloor.units import format_bandwidth, format_flop_rate, format_percent, format_seconds

LOOP_COLUMNS = (
    "device",
    "model",
    "runtime",
    "cycle",
    "period",
    "p50",
    "p99",
    "p99.9",
    "missed",
    "missed an hour",
    "95 % CI",
    "floor",
)
NARROW = (2, 3, 5, 6, 9, 10)
WIDE_TABLE = 180
COINCIDENCE_COLUMNS = ("what happened", "in the slowest", "in the others", "by chance", "told")
PART_WORDS = {
    "late_seconds": "beginning late",
    "prefill_seconds": "the prompt",
    "decode_seconds": "decode steps",
    "rest": "what lies between",
}


def loop_row(summary: LoopSummary) -> list[str]:
    """Return the row of the loops of one cell; a quantile of too few cycles is a dash."""
    first, misses = summary.first, summary.misses
    low, high = misses.ci95_per_hour
    return [
        summary.device,
        first.cell.spec.name,
        runtime_label(first.cell),
        cycle_text(summary),
        format_seconds(first.period_seconds) + ("" if first.paced else ", unpaced"),
        *(_value(item) for item in summary.quantiles),
        f"{misses.count} of {misses.trials}",
        rate_text(misses.per_hour),
        f"[{rate_text(low)}, {rate_text(high)}]",
        format_seconds(summary.floor.seconds),
    ]


def cycle_text(summary: LoopSummary) -> str:
    """Return what a cycle is, such as `276 + 7 tokens`, or `7 at 276` where it does not take its prompt."""
    first = summary.first
    prompt = first.cell.workload.context_len
    return f"{first.steps} at {prompt}" if first.no_prefill else f"{prompt} + {first.steps} tokens"


def loop_title(summary: LoopSummary) -> str:
    """Return which loop it is, on which device."""
    first = summary.first
    pace = format_seconds(first.period_seconds)
    what = f"{first.cell.spec.name} {runtime_label(first.cell)}, {cycle_text(summary)}"
    return f"{what}, every {pace}" + ("" if first.paced else ", unpaced") + f" on {summary.device}"


def rate_text(per_hour: float) -> str:
    """Return a rate with three significant digits, and without an exponent."""
    return f"{per_hour:.0f}" if per_hour >= 100 else f"{per_hour:.3g}"


def loop_lines(summary: LoopSummary) -> list[str]:
    """Return what the loops of one cell say, a sentence each."""
    return [
        _answer(summary),
        _quantiles(summary),
        _parts(summary),
        *([_excess(summary.excess)] if summary.excess else [_too_few(summary)]),
        *_cautions(summary),
    ]


def coincidence_row(item: Coincidence) -> list[str]:
    """Return the row of a coincidence."""
    return [
        item.words,
        f"{item.slowest_with} of {item.slowest}",
        f"{item.others_with} of {item.others} ({format_percent(item.others_with / item.others)})",
        f"{item.chance:.2g}",
        "more often than by chance" if item.told else "not told from chance",
    ]


def coincidence_title(summary: LoopSummary) -> str:
    """Return what a table of coincidences is about."""
    count = summary.excess.cycles if summary.excess else 0
    return f"What the {count} slowest cycles of {runtime_label(summary.first.cell)} coincide with"


def coincidence_note() -> str:
    """Return how a table of coincidences is to be read."""
    return (
        "Happened: a count above that of the median cycle, or a clock more than "
        f"{format_percent(1 - CLOCK_DROP)} below its median. By chance: the probability of as many or more in the "
        f"slowest if it had nothing to do with them; told from chance below {LEVEL:g} over all lines together. What "
        "coincides need not be the cause."
    )


def _answer(summary: LoopSummary) -> str:
    misses, period = summary.misses, format_seconds(summary.first.period_seconds)
    high = misses.ci95_per_hour[1]
    watched = f"{format_seconds(3600 * misses.hours)} of cycles"
    if not misses.count:
        return (
            f"No period of {period} was missed in {watched}: at most {rate_text(high)} an hour (95 % Poisson interval)."
        )
    low = misses.ci95_per_hour[0]
    text = (
        f"{misses.count} of {misses.trials} periods of {period} had no answer in time in {watched}: "
        f"{rate_text(misses.per_hour)} an hour, 95 % Poisson interval [{rate_text(low)}, {rate_text(high)}]"
    )
    if misses.dispersion == 1.0:
        return f"{text}, which takes misses for independent."
    return f"{text}, widened because misses come together: they scatter {misses.dispersion:.3g} times as much."


def _quantiles(summary: LoopSummary) -> str:
    return "Response: " + "; ".join(map(_quantile, summary.quantiles)) + "."


def _quantile(item: Quantile) -> str:
    name = f"p{100 * item.level:g}"
    if item.value is None:
        return f"{name} needs {item.needed} cycles"
    low = "-" if item.low is None else format_seconds(item.low)
    high = "no upper end of so few cycles" if item.high is None else format_seconds(item.high)
    return f"{name} {format_seconds(item.value)} [{low}, {high}]"


def _value(item: Quantile) -> str:
    return "-" if item.value is None else format_seconds(item.value)


def _parts(summary: LoopSummary) -> str:
    found = {part: summary.median_seconds(part) for part in PART_WORDS if part != "rest"}
    parts = [f"{PART_WORDS[part]} {format_seconds(value)}" for part, value in found.items() if value is not None]
    return (
        f"Of the median cycle: {', '.join(parts)}; no runtime would take less than "
        f"{format_seconds(summary.floor.seconds)} ({summary.floor.parts_text}) at the {_rates(summary.floor)}."
    )


def _rates(floor: CycleFloor) -> str:
    read = f"{format_bandwidth(floor.bytes_per_second)} read beside the loop"
    return (
        read
        if floor.flop_per_second is None
        else f"{read} and the datasheet's {format_flop_rate(floor.flop_per_second)}"
    )


def _excess(found: Excess) -> str:
    parts = [f"{PART_WORDS[part]} {1e3 * value:+.3g} ms" for part, value in found.by_part.items()]
    return (
        f"The {found.cycles} slowest cycles take {1e3 * found.seconds:+.3g} ms on the median one, by part: "
        f"{', '.join(parts)}."
    )


def _too_few(summary: LoopSummary) -> str:
    return (
        f"{sum(map(len, summary.responses))} cycles are too few to say why some are slow; {FEWEST_CYCLES} are needed."
    )


def _cautions(summary: LoopSummary) -> list[str]:
    first = summary.first
    lines = [_without_prompt(summary)] if first.no_prefill else []
    cut_short = [loop.interrupted for loop in summary.loops if loop.interrupted]
    if cut_short:
        reasons = ", ".join(dict.fromkeys(cut_short))
        lines.append(f"{len(cut_short)} of {len(summary.loops)} processes ended before their time ({reasons}).")
    load = max(loop.environment.foreign_load for loop in summary.loops)
    if load > FOREIGN_LOAD:
        lines.append(f"Other processes took up to {format_percent(load)} of the host's cores during a loop.")
    slow, fast = summary.ceiling_range
    if fast > STEADY_SPREAD * slow:
        lines.append(f"Bandwidth was read as {format_bandwidth(slow)} to {format_bandwidth(fast)} around the loops.")
    silent = [f"{name} ({reason})" for name, reason in first.cycles.silent.items()]
    if silent:
        lines.append(f"No sensor for: {', '.join(silent)}.")
    return lines


def _without_prompt(summary: LoopSummary) -> str:
    first, decode = summary.first, summary.median_seconds("decode_seconds")
    prompt = first.cell.workload.context_len
    assert decode is not None
    stepwise = format_seconds(prompt * decode / first.steps)
    return (
        f"Decode only, from {prompt} tokens in the cache ({first.no_prefill}). A loop that must take its prompt in "
        f"every cycle takes that time too: token by token, as decode steps, some {stepwise}."
    )
