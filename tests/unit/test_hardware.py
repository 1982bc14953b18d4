import pytest

from memfloor.errors import UsageError
from memfloor.hardware import catalogue, find_device, match_driver_name

ASKED_FOR = [
    "h100-sxm5", "h100-pcie", "h200", "a100-40", "a100-80", "l40s", "l4", "a10", "t4", "rtx-4090", "rtx-5090",
    "rtx-3090", "gh200", "b200", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "gb10",
]  # fmt: skip


@pytest.mark.parametrize("name", ASKED_FOR)
def test_the_catalogue_holds_the_device(name):
    assert find_device(name).name == name


@pytest.mark.parametrize("device", catalogue().values(), ids=lambda device: device.name)
def test_every_figure_has_a_source_link_and_a_sane_size(device):
    assert device.source.startswith("https://")
    assert 20e9 < device.peak_bytes_per_second < 20e12
    assert 1e9 < device.memory_bytes < 1e12
    assert device.last_level_cache_bytes < device.memory_bytes / 10


@pytest.mark.parametrize("device", catalogue().values(), ids=lambda device: device.name)
def test_a_rate_of_arithmetic_has_a_source_and_lies_where_rates_of_dense_products_do(device):
    rate = device.bf16_flop_per_second
    assert (rate is None) == (device.bf16_source is None)
    if rate is not None:
        assert device.bf16_source.startswith("https://")
        # Operations for each byte of memory traffic, of anything that is sold: a sparse rate would be twice as much.
        assert 50 < rate / device.peak_bytes_per_second < 500


def test_rates_of_one_chip_are_one():
    rates = {name: find_device(name).bf16_flop_per_second for name in ("a100-40", "a100-80", "h200", "gh200", "t4")}
    assert rates == {"a100-40": 3.12e14, "a100-80": 3.12e14, "h200": 9.895e14, "gh200": 9.895e14, "t4": None}


def test_peaks_are_the_studys():
    peaks = {name: find_device(name).peak_bytes_per_second for name in ("h100-sxm5", "a100-80", "l40s", "l4")}
    assert peaks == {"h100-sxm5": 3.35e12, "a100-80": 2.039e12, "l40s": 0.864e12, "l4": 0.300e12}


def test_a_driver_name_maps_to_one_device_only():
    names = [name for device in catalogue().values() for name in device.driver_names]
    assert len(names) == len(set(names))


def test_driver_names_match_letter_for_letter():
    assert match_driver_name("NVIDIA H200").name == "h200"
    assert find_device("NVIDIA H100 80GB HBM3").name == "h100-sxm5"
    # A near miss has another bandwidth, so it matches nothing.
    assert match_driver_name("NVIDIA H100") is None
    assert match_driver_name("NVIDIA GeForce RTX 3090 Ti") is None


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown device 'h1000'; allowed: .*h200"):
        find_device("h1000")
