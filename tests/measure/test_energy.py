"""Sensors in a real directory tree and a fake driver, and windows under a clock that a test moves; all hand-counted."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from memfloor.measure import energy_meters
from memfloor.measure.energy import EndlessDecode, WindowReader, too_short, warm_up
from memfloor.measure.energy_meters import JetsonRails, NvmlEnergy, NvmlPower, Rapl, open_meter, update_period
from memfloor.measure.nvml import Unanswered
from memfloor.measure.sysfs_power import RaplDomain, jetson_rails, rapl_domains
from memfloor.record import EnergySensor, EnergyWindow

RANGE = 1_000_000


@pytest.fixture
def sysfs(tmp_path):
    """Return a function that writes files below a folder that stands for /sys, and that folder."""

    def write(folder, **files):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (tmp_path / folder / name).write_text(f"{value}\n")

    return write, tmp_path


@pytest.fixture
def powercap(sysfs):
    """Write a server of two packages as Linux shows it: their cores, their memory, and the platform as a whole."""
    write, root = sysfs
    for place, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }.items():
        write(f"class/powercap/{place}", name=name, energy_uj=100, max_energy_range_uj=RANGE)
    write("class/powercap/intel-rapl", enabled=1)
    return write, root


def _moving(monkeypatch):
    monkeypatch.setattr(energy_meters, "update_period", lambda name, read: 0.001)


def test_packages_and_memory_are_counted_and_no_energy_twice(powercap, monkeypatch):
    _moving(monkeypatch)
    write, root = powercap
    meter = Rapl(root)
    assert meter.sensor.name == "RAPL package-0 + dram + package-1"
    assert meter.sensor.covers == "the processors, memory included"
    assert meter.read() == 0
    write("class/powercap/intel-rapl:0", energy_uj=2100)
    write("class/powercap/intel-rapl:0:0", energy_uj=900_000)
    write("class/powercap/intel-rapl:0:1", energy_uj=400)
    write("class/powercap/intel-rapl:2", energy_uj=900_000)
    assert meter.read() == pytest.approx(2300e-6)


def test_a_counter_that_came_to_its_end_goes_on(powercap):
    write, root = powercap
    write("class/powercap/intel-rapl:1", energy_uj=RANGE - 50)
    domain = RaplDomain(root / "class/powercap/intel-rapl:1")
    write("class/powercap/intel-rapl:1", energy_uj=150)
    assert domain.joules() == pytest.approx(200e-6)
    write("class/powercap/intel-rapl:1", energy_uj=RANGE - 10)
    write_twice = domain.joules()
    assert write_twice == pytest.approx((200 + RANGE - 160) * 1e-6)
    write("class/powercap/intel-rapl:1", energy_uj=0)
    assert domain.joules() == pytest.approx(write_twice + 10e-6)


def test_a_counter_that_may_not_be_read_says_so_in_the_kernels_words(powercap):
    _, root = powercap
    counter = root / "class/powercap/intel-rapl:0/energy_uj"
    counter.unlink()
    # What root may read nobody can forbid; a folder in place of a file fails for all.
    counter.mkdir()
    with pytest.raises(Unanswered, match="energy_uj: Is a directory"):
        rapl_domains(root)
    with pytest.raises(Unanswered, match=r"no energy sensor answers: .*Is a directory; INA3221: not supported"):
        open_meter("cpu", root)


def test_a_counter_that_holds_no_number_is_refused(powercap):
    write, root = powercap
    write("class/powercap/intel-rapl:1", energy_uj="")
    with pytest.raises(Unanswered, match="energy_uj holds '' and no number"):
        rapl_domains(root)


def test_a_machine_without_sensors_is_not_supported(tmp_path):
    with pytest.raises(Unanswered, match=r"RAPL: not supported, .*; INA3221: not supported"):
        open_meter("cpu", tmp_path)


@pytest.fixture
def orin(sysfs):
    """Write a Jetson Orin Nano's monitor as Linux shows it, beside a sensor of something else."""
    write, root = sysfs
    write("class/hwmon/hwmon0", name="thermal", in1_label="VDD_IN", in1_input=1, curr1_input=1)
    write("class/hwmon/hwmon1", name="ina3221", update_interval=140)
    for channel, (label, millivolts, milliamperes) in enumerate(
        [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 500), ("VDD_SOC", 5000, 300)], start=1
    ):
        files = {f"in{channel}_label": label, f"in{channel}_input": millivolts, f"curr{channel}_input": milliamperes}
        write("class/hwmon/hwmon1", **files)
    write("class/hwmon/hwmon1", in7_label="sum of shunt voltages", in7_input=9, curr4_input=9)
    return write, root


def test_the_rail_that_feeds_a_module_is_its_power(orin):
    write, root = orin
    meter = JetsonRails(root)
    assert meter.sensor == EnergySensor(
        name="INA3221 VDD_IN",
        covers="the module",
        quantity="watts",
        period_seconds=0.14,
        period_source="documented",
    )
    assert meter.read() == pytest.approx(6.0)
    write("class/hwmon/hwmon1", curr1_input=2000)
    assert meter.read() == pytest.approx(10.0)
    assert isinstance(open_meter("cpu", root), JetsonRails)


def test_without_such_a_rail_all_that_are_connected_are_added_and_named(orin):
    write, root = orin
    write("class/hwmon/hwmon1", in1_label="NC", in3_enable=0)
    write("class/hwmon/hwmon2", name="ina3221", in2_label="VDDQ", in2_input=1800, curr2_input=500)
    assert [rail.name for rail in jetson_rails(root)] == ["VDD_CPU_GPU_CV", "VDDQ"]
    meter = JetsonRails(root)
    assert meter.read() == pytest.approx(2.5 + 0.9)
    assert (meter.sensor.name, meter.sensor.covers) == ("INA3221 VDD_CPU_GPU_CV + VDDQ", "the sum of these rails")


@pytest.fixture
def driver(monkeypatch):
    """Install a driver whose energy counter moves by 50 J at every third reading, and that a test can silence."""
    module = ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    readings = iter(range(10_000))
    module.nvmlDeviceGetTotalEnergyConsumption = lambda gpu: 7_000 + 50_000 * (next(readings) // 3)
    module.nvmlDeviceGetPowerUsage = lambda gpu: 431_500
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def silence(name, words="Not Supported"):
        def refuse(gpu):
            raise module.NVMLError(words)

        setattr(module, name, refuse)

    return SimpleNamespace(module=module, silence=silence)


def test_a_gpu_is_measured_by_its_energy_counter_in_joules(driver):
    meter = open_meter("cuda")
    assert isinstance(meter, NvmlEnergy)
    assert meter.sensor.quantity == "joules"
    assert meter.sensor.period_source == "measured"
    before = meter.read()
    assert [meter.read() - before for _ in range(6)].count(50.0) == 3


def test_without_a_counter_a_gpu_is_measured_by_its_power(driver):
    driver.silence("nvmlDeviceGetTotalEnergyConsumption")
    meter = open_meter("cuda")
    assert isinstance(meter, NvmlPower)
    assert meter.read() == pytest.approx(431.5)
    # Its maker says that it is a mean over a second.
    assert meter.sensor.period_seconds == 1.0


def test_a_silent_driver_and_no_rails_are_three_reasons(driver, tmp_path):
    driver.silence("nvmlDeviceGetTotalEnergyConsumption")
    driver.silence("nvmlDeviceGetPowerUsage", "Insufficient Permissions")
    words = r"NVML total energy: Not Supported; NVML power usage: Insufficient Permissions; INA3221: not supported"
    with pytest.raises(Unanswered, match=words):
        open_meter("cuda", tmp_path)


class Time:
    """A clock that moves when somebody sleeps or works."""

    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return self.seconds

    def pass_(self, seconds):
        self.seconds += seconds


def test_the_period_of_a_counter_is_the_longest_time_it_stood_still():
    time = Time()
    # It moves after 20 and 60 ms, and so on every 60 ms.
    changes = [0.020, 0.060]

    def value():
        rounds, within = divmod(time.now() - 100.0, 0.060)
        return 2 * rounds + sum(within >= at for at in changes)

    assert update_period("it", value, time.now, time.pass_) == pytest.approx(0.040, abs=2e-3)
    with pytest.raises(Unanswered, match="it: the counter does not move within 3 s"):
        update_period("it", lambda: 5.0, time.now, time.pass_)


def _meter(quantity, read, period_seconds=0.1):
    sensor = EnergySensor(
        name="a sensor", covers="it", quantity=quantity, period_seconds=period_seconds, period_source="measured"
    )
    return SimpleNamespace(sensor=sensor, read=read)


@pytest.fixture
def decode():
    """Return a clock and a decode whose step takes 0.25 s, over when waited for, and that goes back in 1 s."""
    time, log = Time(), []

    def step():
        log.append("step")

    def rewind():
        log.append("rewind")
        time.pass_(1.0)

    def wait():
        if log[-1] == "step":
            time.pass_(0.25)
        log.append("wait")

    return time, log, EndlessDecode(step, rewind, wait, span_calls=8, now=time.now)


def test_a_window_holds_whole_steps_and_goes_back_in_time(decode):
    time, log, endless = decode
    # 40 W all the time.
    reader = WindowReader(_meter("joules", lambda: 40 * (time.now() - 100)), time.now, time.pass_)
    readings = reader.decoding(endless, 4.6)
    # Eight steps are 2 s, the way back 1 s, and seven more steps are needed to pass 4.6 s.
    assert (endless.calls, endless.rewinds, endless.rewind_seconds) == (15, 1, pytest.approx(1.0))
    assert log.count("step") == 15
    assert log.index("rewind") == 16
    window = EnergyWindow(readings=readings, sensors={})
    assert window.seconds == pytest.approx(4.75)
    assert window.joules("joules") == pytest.approx(190.0)
    # Read about every second, while a step was under way.
    assert [reading.seconds for reading in readings] == pytest.approx([0, 1.0, 3.0, 3.25, 4.0, 4.75])


def test_power_is_integrated_over_its_readings(decode):
    time, _, endless = decode
    reader = WindowReader(_meter("watts", lambda: 10.0 + (time.now() - 100)), time.now, time.pass_)
    window = EnergyWindow(readings=reader.decoding(endless, 1.0), sensors={})
    # From 10 W to 11 W within a second.
    assert window.joules("watts") == pytest.approx(10.5)
    idle = EnergyWindow(readings=reader.idle(2.0), sensors={})
    assert idle.seconds == pytest.approx(2.0)
    assert idle.joules("watts") == pytest.approx(2 * 12.0)


def test_what_warms_up_is_not_counted_and_the_window_starts_at_the_first_depth(decode):
    time, log, endless = decode
    warm_up(endless, 1.1, time.now)
    assert (log.count("step"), endless.calls, log[-2:]) == (5, 0, ["rewind", "wait"])
    WindowReader(_meter("joules", time.now), time.now, time.pass_).decoding(endless, 2.0)
    assert (endless.calls, endless.rewinds, endless.rewind_seconds) == (8, 0, 0.0)


def test_a_window_shorter_than_ten_periods_is_refused_with_what_it_takes():
    meter = _meter("watts", lambda: 0.0, period_seconds=1.0)
    assert too_short(meter, 10.0) is None
    assert "a window of 9.9 s is shorter than 10 periods of a sensor, which are 10 s" in too_short(meter, 9.9)
