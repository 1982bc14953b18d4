import pytest

from memfloor.units import format_bandwidth, format_bytes, format_percent, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(14.828e-3, "14.83 ms"), (2.5, "2.5 s"), (30e-6, "30 us"), (7e-9, "7 ns"), (0.0, "0 ns"), (-3e-3, "-3 ms")],
)
def test_seconds_read_in_the_unit_that_fits(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(14_258_743_296, "14.26 GB"), (57_344, "57.34 kB"), (3.35e12, "3.35 TB"), (999, "999 B"), (0, "0 B")],
)
def test_bytes_read_in_decimal_units(count, text):
    assert format_bytes(count) == text


def test_bandwidth_and_percent():
    assert format_bandwidth(300e9) == "300 GB/s"
    assert format_percent(0.27) == "27.0 %"
