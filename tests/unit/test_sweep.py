from datetime import date

import pytest

from memfloor.errors import UsageError
from memfloor.prices import Electricity, OwnedPrice, PriceList, RentedPrice, catalogue
from memfloor.sweep.cost import estimates, totals
from memfloor.sweep.plan import read_plan
from memfloor.sweep.ray_cluster import count_places
from memfloor.sweep.spread import Board, Unit, together, units_of

GRID = """
[[grid]]
models = ["qwen2.5-0.5b"]
contexts = [512, 1024]
runtimes = ["hf-eager", "engine,weights=int8"]
"""
LOCAL = """
[[machine]]
name = "here"
executor = "local"
device = "cpu"
"""
CLOUD = """
[[machine]]
name = "cloud"
executor = "ray"
device = "cuda"
accelerator_type = "H100"
"""
OTHER_GRID = """
[[grid]]
models = ["qwen2.5-7b"]
contexts = [64]
runtimes = ["engine"]
"""
GOOD = 'name = "tried"\nruns = 4\n' + GRID + LOCAL


@pytest.fixture
def plan_of(tmp_path):
    def read(text):
        path = tmp_path / "plan.toml"
        path.write_text(text)
        return read_plan(path)

    return read


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name = ", "nam = ", "name: Field required"),
        ("runs = 4", "runs = 4\nspeed = 9", "speed: Extra inputs are not permitted"),
        ("runs = 4", "runs = 0", "runs: Input should be greater than or equal to 1"),
        ("runs = 4", "runs = ", "is not TOML"),
        ('"tried"', '"../tried"', "name: String should match"),
        ("qwen2.5-0.5b", "gpt-5", "grid.0: unknown model 'gpt-5'; allowed: "),
        ("hf-eager", "hf-lazy", "grid.0: unknown runtime 'hf-lazy'; allowed: "),
        ("weights=int8", "wait=int8", "grid.0: "),
        ("weights=int8", "weights", "grid.0: runtime option 'weights' is not of the form option=value"),
        ("weights=int8", "weights=int3", "grid.0: unknown weight format 'int3'; allowed: "),
        ("512", "0", "grid.0: context must be 1 token or more, not 0"),
        ("512", "99999", "grid.0: context 99999 is beyond qwen2.5-0.5b's 32768 positions"),
        ("[512, 1024]", "[]", "grid.0.contexts: Tuple should have at least 1 item"),
        (GRID, GRID + 'machines = ["there"]', "unknown machine of a grid 'there'; allowed: here"),
        (LOCAL, LOCAL + LOCAL, "machine name 'here' is given twice"),
        (LOCAL, CLOUD + 'hardware = "t5"', "machine.0.ray: unknown device 't5'; allowed: "),
        (LOCAL, LOCAL + CLOUD + OTHER_GRID + 'machines = ["here"]', None),
        (GRID + LOCAL, OTHER_GRID + 'machines = ["here"]' + LOCAL + CLOUD, "no grid names machine 'cloud'"),
        ('"local"', '"slurm"', "machine.0: Input tag 'slurm'"),
        ('"cpu"', '"tpu"', "machine.0.local.device: Input should be 'cpu' or 'cuda'"),
        ('"cpu"', '"cpu"\nhosts = ["a"]', "machine.0.local.hosts: Extra inputs are not permitted"),
        ('"cpu"', '"cpu"\ngpus = [0]', "machine.0.local: gpus are of device 'cuda', not 'cpu'"),
        ('"cpu"', '"cpu"\nworkers = 2', "machine.0.local: several workers on one machine need device = 'cpu' and cpus"),
        ('"cpu"', '"cpu"\nprice = "3.50"', "machine.0.local: price 'here=3.50' needs AMOUNT:CURRENCY:DATE"),
        ('"cpu"', '"cpu"\nprice = "3.50:dollars:2026-11-27"', "currency: String should match"),
        ('"cpu"', '"cpu"\nprice = "3.50:USD:today"', "date: "),
        ('"local"', '"ssh"', "machine.0.ssh.hosts: Field required"),
        ('"local"', '"ssh"\nhosts = ["-oProxyCommand=x"]', "machine.0.ssh.hosts.0: String should match"),
        ('"local"', '"ssh"\nhosts = ["a", "a"]', "machine.0.ssh: a host is given twice"),
        ('"local"', '"ray"', "machine.0.ray: device 'cpu' on Ray needs cpus"),
        (LOCAL, CLOUD.replace("accelerator_type", "# "), "machine.0.ray: device 'cuda' on Ray needs an accelerator"),
        (LOCAL, CLOUD + 'hardware = "l4"' + OTHER_GRID + 'weights = "fp32"', "grid.1: qwen2.5-7b in fp32 reads 2"),
        (LOCAL, CLOUD + 'hardware = "h200"' + OTHER_GRID + 'weights = "fp32"', None),
        ('"cpu"', '"cpu"\ncpus = 4' + OTHER_GRID + "threads = 8", "grid.1: threads 8 are more than the 4 cpus"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_plan_is_named_with_its_place(plan_of, old, new, words):
    text = GOOD.replace(old, new)
    assert text != GOOD
    if words is None:
        plan_of(text)
        return
    with pytest.raises(UsageError) as refused:
        plan_of(text)
    assert "plan.toml" in str(refused.value)
    assert words in str(refused.value)


def test_a_run_keeps_its_identity_whatever_else_a_plan_gains(plan_of):
    plan = plan_of(GOOD)
    (machine,) = plan.machine
    cells = plan.cells(machine)
    ids = {plan.run_id(machine, cell, block) for cell in cells for block in range(4)}
    assert len(ids) == 16
    more = plan_of(
        GOOD.replace("runs = 4", "runs = 9\nattempts = 7").replace("[512, ", "[64, 512, ") + "cpus = 1" + CLOUD
    )
    bound = {more.run_id(more.machine[0], cell, block) for cell in more.cells(more.machine[0]) for block in range(9)}
    # Bound to one CPU a cell has one thread, and is another cell.
    assert not ids & bound
    more = plan_of(GOOD.replace("runs = 4", "runs = 9").replace("[512, ", "[64, 512, ") + CLOUD)
    assert ids <= {
        more.run_id(more.machine[0], cell, block) for cell in more.cells(more.machine[0]) for block in range(9)
    }
    for change in (("tried", "other"), ("runs = 4", "runs = 4\nseed = 1"), ("runs = 4", "runs = 4\nwarmup_steps = 6")):
        other = plan_of(GOOD.replace(*change))
        assert other.run_id(machine, cells[0], 0) not in ids


def test_what_is_compared_is_one_unit_and_what_is_done_is_left_out(plan_of):
    plan = plan_of(GOOD)
    (machine,) = plan.machine
    units = units_of(plan, machine, {})
    assert sorted(unit.block for unit in units) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(len({together(cell) for cell in unit.cells}) == 1 for unit in units)
    assert {len(unit.cells) for unit in units} == {2}
    orders = {tuple(cell.runtime for cell in unit.cells) for unit in units}
    assert len(orders) == 2, "the order within a unit is never shuffled"

    first = units[0]
    done = {plan.run_id(machine, cell, first.block): "s" * 32 for cell in first.cells[:1]}
    again = units_of(plan, machine, done)
    assert [(unit.home, len(unit.cells)) for unit in again] == [("s" * 32, 1), *[(None, 2)] * 7]


def test_what_was_begun_goes_on_where_it_was_begun_as_long_as_that_is_there():
    begun, fresh = Unit(0, ["cell"], home="there"), Unit(1, ["cell"])
    board = Board([begun, fresh])
    board.join("worker 1", "here")
    board.join("worker 2", "there")
    assert board.next("here") is fresh
    board.leave("worker 2")
    assert board.next("here") is begun
    board.put_back(fresh)
    fresh.cells.clear()
    begun.cells.clear()
    assert board.has_work()
    board.put_back(begun)
    assert board.next("here") is fresh, "a unit that still had cells was lost"
    board.put_back(fresh)
    assert board.next("here") is None
    assert not board.has_work()


def test_hours_and_money_come_from_like_runs_and_else_from_what_is_assumed(plan_of, make_run):
    plan = plan_of(
        'name = "tried"\nruns = 4\n' + GRID.replace("[512, 1024]", "[512]") + LOCAL + 'price = "7.20:EUR:2026-11-27"'
    )
    (machine,) = plan.machine
    measured, assumed = plan.cells(machine)
    # Four runs of one session, 10, 10 and 500 s apart: the last gap is that of a session that was interrupted.
    times = ["10:00:00", "10:00:10", "10:00:20", "10:08:40"]
    runs = [
        make_run(cell=measured, block=block).model_copy(update={"taken_at": f"2026-11-27T{time}+00:00"})
        for block, time in enumerate(times)
    ]
    done = runs[0].model_copy(update={"record_id": plan.run_id(machine, measured, 0), "session_id": "1" * 32})
    (found,) = estimates(plan, [*runs, done], catalogue())
    assert (found.cells, found.runs, found.done) == (2, 8, 1)
    # Three runs of 10 s are missing, and four of the 30 s that are assumed on a CPU.
    assert found.worker_seconds == pytest.approx(3 * 10 + 4 * 30)
    assert found.measured_share == pytest.approx(3 / 7)
    assert found.cost == pytest.approx((7.2 * 150 / 3600,) * 2)
    assert totals([found]) == {"EUR": pytest.approx((0.3, 0.3))}
    assert assumed.key != measured.key


def test_a_price_is_the_range_over_providers_unless_one_is_named(plan_of):
    def price(provider, per_hour, currency="USD"):
        said = {"device": "h100-sxm5", "currency": currency, "date": date(2026, 11, 27), "source": "test"}
        return RentedPrice(provider=provider, per_hour=per_hour, **said)

    electricity = Electricity(per_kwh=0.1, currency="USD", date=date(2026, 11, 27), source="test")
    listed = PriceList(electricity=electricity, rented=(price("a", 2.0), price("b", 4.0)))
    text = (
        'name = "tried"\nruns = 1\n'
        + GRID.replace("[512, 1024]", "[512]")
        + CLOUD
        + 'hardware = "h100-sxm5"\nrun_seconds = 1800'
    )
    (found,) = estimates(plan_of(text), [], listed)
    assert found.worker_seconds == 3600
    assert found.cost == pytest.approx((2.0, 4.0))
    assert (found.workers, found.wall_seconds) == (None, 3600)
    (found,) = estimates(plan_of(text + '\nprovider = "b"'), [], listed)
    assert found.cost == pytest.approx((4.0, 4.0))
    with pytest.raises(UsageError, match="unknown provider of h100-sxm5 'c'; allowed: a, b"):
        estimates(plan_of(text + '\nprovider = "c"'), [], listed)
    with pytest.raises(UsageError, match="priced in EUR and USD"):
        estimates(
            plan_of(text), [], PriceList(electricity=electricity, rented=(price("a", 2.0), price("b", 4.0, "EUR")))
        )
    owned = OwnedPrice(
        device="h100-sxm5",
        provider="shop",
        price=26298.0,
        watts=1000,
        currency="USD",
        date=date(2026, 11, 27),
        source="t",
    )
    (found,) = estimates(plan_of(text), [], PriceList(electricity=electricity, owned=(owned,)))
    # Three years are 26,298 hours, and a kilowatt-hour costs 0.10.
    assert found.cost == pytest.approx((1.1, 1.1))


def test_a_worker_has_a_whole_gpu_of_the_named_type_and_its_cpus(plan_of):
    text = 'name = "tried"\n' + GRID + CLOUD + "cpus = 8"
    (machine,) = plan_of(text).machine
    nodes = [
        {"CPU": 64, "GPU": 4, "accelerator_type:H100": 1},
        {"CPU": 20, "GPU": 8, "accelerator_type:H100": 1},
        {"CPU": 64, "GPU": 8, "accelerator_type:L4": 1},
        {"CPU": 64},
    ]
    assert count_places(machine, nodes) == 4 + 2
    with pytest.raises(UsageError, match="no node of the cluster has accelerator_type 'H100'; there are: L4"):
        count_places(machine, nodes[2:])
    with pytest.raises(UsageError, match="no node has 8 CPUs for a worker; the largest has 4"):
        count_places(machine, [{"CPU": 4, "GPU": 1, "accelerator_type:H100": 1}])
