import os
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import pytest

from memfloor.measure import telemetry
from memfloor.record import DeviceInfo

GPU = DeviceInfo(kind="cuda", name="NVIDIA H200", memory_bytes=1, last_level_cache_bytes=None, cores=132)
CPU = DeviceInfo(kind="cpu", name="a processor", memory_bytes=1, last_level_cache_bytes=None, cores=2)
CpuTimes = namedtuple("CpuTimes", "user system idle iowait guest")


@pytest.fixture
def fake_nvml(monkeypatch):
    """Install a driver whose every sensor answers; a test takes away what it wants silent."""
    module = ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = "sm", "memory", "gpu"
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetClockInfo = lambda handle, kind: {"sm": 1980, "memory": 3201}[kind]
    module.nvmlDeviceGetTemperature = lambda handle, kind: 41
    module.nvmlDeviceGetPowerUsage = lambda handle: 76_500
    module.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 4
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


@pytest.fixture
def silence(fake_nvml):
    def make_silent(name, words="Not Supported"):
        def refuse(*arguments):
            raise fake_nvml.NVMLError(words)

        setattr(fake_nvml, name, refuse)

    return make_silent


@pytest.fixture
def host(monkeypatch):
    """Install a host whose cores' busy seconds a test can set."""
    state = SimpleNamespace(times=CpuTimes(0.0, 0.0, 0.0, 0.0, 0.0), own_user=0.0, own_system=0.0)
    monkeypatch.setattr(
        telemetry,
        "psutil",
        SimpleNamespace(
            cpu_times=lambda: state.times,
            Process=lambda: SimpleNamespace(
                cpu_times=lambda: SimpleNamespace(user=state.own_user, system=state.own_system)
            ),
        ),
    )
    return state


@pytest.mark.usefixtures("fake_nvml")
def test_gpu_sensors_are_in_si_units():
    assert telemetry.read_sensors(GPU) == pytest.approx(
        {
            "sm_clock_hz": 1.98e9,
            "memory_clock_hz": 3.201e9,
            "temperature_celsius": 41.0,
            "power_watts": 76.5,
            "throttle_reasons_mask": 4.0,
        }
    )


@pytest.mark.parametrize(
    ("function", "sensors"),
    [
        ("nvmlDeviceGetPowerUsage", {"power_watts"}),
        ("nvmlDeviceGetTemperature", {"temperature_celsius"}),
        ("nvmlDeviceGetClockInfo", {"sm_clock_hz", "memory_clock_hz"}),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", {"throttle_reasons_mask"}),
    ],
)
def test_a_silent_sensor_is_recorded_in_its_own_words_and_the_others_answer(silence, function, sensors):
    silence(function)
    readings = telemetry.read_sensors(GPU)
    assert {name for name, value in readings.items() if value == "Not Supported"} == sensors
    assert all(isinstance(value, float) for name, value in readings.items() if name not in sensors)


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByIndex"])
def test_a_driver_that_does_not_answer_is_recorded_in_its_own_words(silence, function):
    silence(function, "Driver/library version mismatch")
    assert telemetry.read_sensors(GPU) == {"nvml": "Driver/library version mismatch"}


def test_without_pynvml_the_sensors_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert telemetry.read_sensors(GPU) == {"nvml": "nvidia-ml-py is not installed"}
    assert telemetry.foreign_gpu_processes() == "nvidia-ml-py is not installed"


def test_foreign_gpu_processes_leave_this_one_out(fake_nvml):
    running = [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=1), SimpleNamespace(pid=2)]
    fake_nvml.nvmlDeviceGetComputeRunningProcesses = lambda handle: running
    assert telemetry.foreign_gpu_processes() == 2


def test_processes_that_cannot_be_counted_are_no_zero(silence):
    silence("nvmlDeviceGetComputeRunningProcesses", "Insufficient Permissions")
    assert telemetry.foreign_gpu_processes() == "Insufficient Permissions"


def test_a_cpu_clock_is_in_hertz(monkeypatch):
    fake = SimpleNamespace(
        cpu_freq=lambda: SimpleNamespace(current=2400.0),
        sensors_temperatures=lambda: {
            "k10temp": [SimpleNamespace(label="Tctl", current=48.5), SimpleNamespace(label="", current=40.0)]
        },
    )
    monkeypatch.setattr(telemetry, "psutil", fake)
    assert telemetry.read_sensors(CPU) == {
        "cpu_clock_hz": 2.4e9,
        "k10temp_Tctl_celsius": 48.5,
        "k10temp_temperature_celsius": 40.0,
    }


@pytest.mark.parametrize("silent", [{"cpu_freq": lambda: None}, {}])
def test_a_cpu_without_a_clock_is_not_supported_rather_than_zero(monkeypatch, silent):
    monkeypatch.setattr(telemetry, "psutil", SimpleNamespace(sensors_temperatures=dict, **silent))
    assert telemetry.read_sensors(CPU) == {"cpu_clock_hz": "not supported"}


@pytest.mark.parametrize(
    ("times", "own", "expected"),
    [
        # Of 20 core seconds 8 were busy, 5 of them ours.
        (CpuTimes(6.0, 2.0, 12.0, 0.0, 0.0), (4.0, 1.0), 0.15),
        # Waiting for a disk is not being busy.
        (CpuTimes(6.0, 2.0, 4.0, 8.0, 0.0), (4.0, 1.0), 0.15),
        # A guest's time is within user time already.
        (CpuTimes(6.0, 2.0, 12.0, 0.0, 6.0), (4.0, 1.0), 0.15),
        # All ours: the two clocks may disagree a little, the share may not fall below zero.
        (CpuTimes(5.0, 0.0, 5.0, 0.0, 0.0), (5.1, 0.0), 0.0),
        (CpuTimes(10.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0), 1.0),
    ],
)
def test_foreign_load_is_the_busy_share_that_is_not_ours(host, times, own, expected):
    watch = telemetry.LoadWatch()
    host.times, (host.own_user, host.own_system) = times, own
    assert watch.foreign_load() == pytest.approx(expected)


def test_foreign_load_counts_from_the_construction_on(host):
    host.times, host.own_user = CpuTimes(100.0, 0.0, 100.0, 0.0, 0.0), 50.0
    watch = telemetry.LoadWatch()
    host.times, host.own_user = CpuTimes(101.0, 0.0, 103.0, 0.0, 0.0), 50.5
    assert watch.foreign_load() == pytest.approx(0.5 / 4)


@pytest.mark.usefixtures("host")
def test_foreign_load_over_no_time_at_all_is_zero():
    assert telemetry.LoadWatch().foreign_load() == 0.0


def test_foreign_load_of_this_machine_is_a_share():
    assert 0.0 <= telemetry.LoadWatch().foreign_load() <= 1.0
