"""The search for launch shapes, over devices whose times are known, and the shapes that it is given."""

from collections import Counter
from dataclasses import replace

import pytest

from memfloor.engine.cuda.default_shapes import default_shapes
from memfloor.engine.cuda.launch_shapes import AttentionShape, RowShape
from memfloor.engine.cuda.neighbours import OPS, neighbours
from memfloor.engine.cuda.search import ROUNDS, Search, winner
from memfloor.errors import UsageError
from memfloor.spec import Workload, load_model

SPEC, WORKLOAD = load_model("qwen2.5-7b"), Workload.of(2048)
DEFAULT = default_shapes(SPEC, 132)


def near(shapes, op):
    return neighbours(shapes, op, SPEC, WORKLOAD)


class Device:
    """Take a time for each shape, plus a drift and a noise that repeats; some shapes are wrong."""

    def __init__(self, cost, drift=0.0, noise=(0.0,), wrong=lambda shapes: False):
        self.cost, self.drift, self.noise, self.wrong = cost, drift, noise, wrong
        self.checked, self.now, self.readings = Counter(), 0.0, Counter()

    def problem(self, shapes):
        self.checked[shapes] += 1
        return "is wrong" if self.wrong(shapes) else None

    def reader(self, shapes):
        assert self.checked[shapes]

        def read():
            self.now += 1.0
            self.readings[shapes] += 1
            noise = self.noise[int(self.now) % len(self.noise)]
            return self.cost(shapes) * (1 + self.drift * self.now) * (1 + noise)

        return read


def searched(device, near=near, limit_seconds=1e9, said=None):
    said = [] if said is None else said
    return Search(device, near, limit_seconds, said.append, lambda: device.now).run(DEFAULT)


def warps_cost(shapes):
    """Cost the less the nearer to 16 warps qkv has, and 1 % more for each doubling of the head's rows."""
    return 1 + {4: 0.08, 8: 0.05, 16: 0.0}.get(shapes.qkv.warps, 0.2) + 0.01 * shapes.head.block_n / 8


def test_the_search_climbs_over_neighbours_of_neighbours():
    device, said = Device(warps_cost), []
    found = searched(device, said=said)
    assert found.shapes.qkv.warps == 16
    assert found.shapes.head.block_n == 1
    assert (found.default_seconds, found.step_seconds) == (warps_cost(DEFAULT), warps_cost(found.shapes))
    assert found.finished
    assert any("qkv: " in line and "% faster with RowShape" in line for line in said)
    # Nothing is checked or timed more than it must be.
    assert found.tried == len(device.checked) - 1
    assert max(device.checked.values()) == 1


def test_a_drift_of_the_device_hides_no_winner_and_makes_none():
    assert searched(Device(warps_cost, drift=1e-5)).shapes.qkv.warps == 16
    assert searched(Device(lambda shapes: 1.0, drift=1e-5)).shapes == DEFAULT


def test_what_repeated_readings_do_not_tell_apart_leaves_the_default():
    noisy = Device(warps_cost, noise=(0.0, 0.3, -0.2, 0.1, 0.25, -0.1, 0.05))
    found = searched(noisy)
    assert found.shapes == DEFAULT
    assert found.step_seconds == found.default_seconds


def test_shapes_that_are_wrong_are_never_timed_and_are_named():
    device = Device(warps_cost, wrong=lambda shapes: shapes.qkv.warps > 4)
    found = searched(device)
    assert found.shapes.qkv.warps == 4
    assert not [shapes for shapes in device.readings if shapes.qkv.warps > 4]
    assert found.refused
    assert all(line.startswith("qkv RowShape(") and line.endswith(": is wrong") for line in found.refused)


def test_a_default_that_is_wrong_is_refused_before_any_reading():
    device = Device(warps_cost, wrong=lambda shapes: True)
    with pytest.raises(UsageError, match="the default launch shapes do not run on this device: is wrong"):
        searched(device)
    assert not device.readings


def test_nothing_is_tried_once_the_time_is_up_and_what_was_found_is_kept():
    cost = lambda shapes: 1 - 0.1 * (shapes.gate_up.warps == 8)  # noqa: E731
    found = searched(Device(cost), limit_seconds=60)
    assert found.shapes.gate_up.warps == 8
    assert not found.finished
    none = searched(Device(cost), limit_seconds=0)
    assert (none.shapes, none.tried, none.finished) == (DEFAULT, 0, False)


def test_what_is_slow_at_once_is_read_once():
    device = Device(lambda shapes: 1.0 if shapes == DEFAULT else 1.1)
    searched(device)
    assert {count for shapes, count in device.readings.items() if shapes != DEFAULT} == {1}


@pytest.mark.parametrize(
    ("others", "place"),
    [
        ([[0.9] * ROUNDS], 1),
        ([[1.1] * ROUNDS], 0),
        ([[0.9] * ROUNDS, [0.8] * ROUNDS], 2),
        # Faster on the whole, by less than its readings differ.
        ([[0.9, 1.0, 0.97] * 3], 0),
        ([[0.9, 0.91, 0.92] * 3], 1),
        # The fastest is not sure, the next is.
        ([[0.7, 1.1, 0.7] * 3, [0.95] * ROUNDS], 2),
        ([], 0),
    ],
)
def test_an_arm_wins_by_more_than_its_readings_differ(others, place):
    assert winner([[1.0] * ROUNDS, *others]) == place


FORMATS = [("bf16", "bf16", "bf16"), ("int8", "int8", "fp8"), ("int4-g128", "bf16", "bf16"), ("fp8", "fp8", "fp8")]


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen2.5-7b", "qwen3-8b", "llama-2-7b"])
@pytest.mark.parametrize(("weights", "head", "kv"), FORMATS)
def test_every_operation_has_neighbours_that_run_and_differ_from_it_alone(name, weights, head, kv):
    spec, workload = load_model(name), Workload.of(2048, weights=weights, head=head, kv=kv)
    default = default_shapes(spec, 132, weights, head, kv)
    for op in OPS:
        found = neighbours(default, op, spec, workload)
        assert 2 <= len(found) <= 24
        assert len(set(found)) == len(found)
        for other in found:
            assert other.fitted(spec) == other
            assert getattr(other, op) != getattr(default, op)
            assert replace(other, **{op: getattr(default, op)}) == default


def test_neighbours_that_spill_or_cannot_be_joined_are_left_out():
    big = replace(DEFAULT, gate_up=RowShape(8, 4), attention=AttentionShape(64, 128, 4))
    assert all(other.gate_up.block_n * 4 <= 8 * other.gate_up.warps for other in near(big, "gate_up"))
    assert {other.attention.max_splits for other in near(big, "attention")} == {64, 85, 128}
