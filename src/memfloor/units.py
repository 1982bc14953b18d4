"""Seconds, bytes and bytes per second, and the only places where they become text.

Everything inside memfloor is SI: seconds, bytes, bytes per second; a GB is 1e9 bytes.
"""

MILLI = 1e-3
MILLION = 1e6
GIGA = 1e9
TERA = 1e12
SECONDS_PER_HOUR = 3600.0

_TIME_STEPS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTE_STEPS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def format_seconds(seconds: float) -> str:
    """Return a duration with four significant digits and its unit, such as `14.83 ms`."""
    for size, unit in _TIME_STEPS:
        if abs(seconds) >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds / _TIME_STEPS[-1][0]:.4g} {_TIME_STEPS[-1][1]}"


def format_bytes(count: float) -> str:
    """Return a byte count with four significant digits and a decimal unit, such as `14.26 GB`."""
    for size, unit in _BYTE_STEPS:
        if abs(count) >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:.4g} B"


def format_flop_rate(flop_per_second: float) -> str:
    """Return a rate of arithmetic with four significant digits, such as `989.4 TFLOP/s`."""
    return f"{flop_per_second / 1e12:.4g} TFLOP/s"


def format_bandwidth(bytes_per_second: float) -> str:
    """Return a bandwidth with a decimal unit, such as `3.35 TB/s`."""
    return f"{format_bytes(bytes_per_second)}/s"


def format_percent(fraction: float) -> str:
    """Return a fraction of one as a percentage with one decimal, such as `27.0 %`."""
    return f"{100 * fraction:.1f} %"
