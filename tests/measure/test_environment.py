import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.measure import environment


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Let the module read the files of an empty folder instead of the kernel's, and return a function to add one."""
    monkeypatch.setattr(environment, "Path", lambda path: tmp_path / str(path).lstrip("/"))

    def add(path, text):
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return add


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Let the module believe that it lies in an otherwise empty tree, and return the path of its package."""
    folder = tmp_path / "memfloor"
    (folder / "measure").mkdir(parents=True)
    module = folder / "measure" / "environment.py"
    module.write_text("")
    monkeypatch.setattr(environment, "__file__", str(module))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    environment.git_commit.cache_clear()
    yield folder
    environment.git_commit.cache_clear()


@pytest.fixture
def git(package):
    def call(*arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=package, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    call("init", "--quiet")
    return call


@pytest.fixture
def fake_nvml(monkeypatch):
    module = ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: f"handle {index}"
    module.nvmlDeviceGetHandleByUUID = lambda uuid: f"handle of {uuid}"
    names = {"handle 0": "NVIDIA H200", "handle 2": "NVIDIA L4", "handle of GPU-5a": "NVIDIA A100"}
    module.nvmlDeviceGetName = lambda handle: names[handle]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def test_a_clean_checkout_is_named_by_its_commit(git):
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    assert environment.git_commit() == git("rev-parse", "HEAD")


def test_a_changed_checkout_says_so(git, package):
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    (package / "measure" / "environment.py").write_text("changed = True\n")
    assert environment.git_commit() == git("rev-parse", "HEAD") + "+changes"


def test_an_untracked_file_is_no_change(git, package):
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    (package / "notes.txt").write_text("mine")
    assert environment.git_commit() == git("rev-parse", "HEAD")


def test_a_copy_inside_a_foreign_checkout_has_no_commit(git, package):
    (package / "other.txt").write_text("theirs")
    git("add", "other.txt")
    git("commit", "--quiet", "-m", "one")
    assert environment.git_commit() is None


@pytest.mark.usefixtures("package")
def test_a_copy_outside_any_checkout_has_no_commit():
    assert environment.git_commit() is None


def test_a_travelling_tree_is_named_by_its_stamp(git, package):
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    (package / "COMMIT").write_text("0123abc\n")
    assert environment.git_commit() == "0123abc"


@pytest.mark.usefixtures("package")
def test_a_machine_without_git_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert environment.git_commit() is None


CACHE = "/sys/devices/system/cpu/cpu0/cache"


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        (
            ["Data 1 32K", "Instruction 1 64K", "Unified 2 1024K", "Unified 3 32768K"],
            {"L1": 32, "L2": 1024, "L3": 32768},
        ),
        (["Data 1 48K", "Unified 2 2M", "Unified 3 1G"], {"L1": 48, "L2": 2048, "L3": 2**20}),
        (["Data 1 32K", "Unified 2 garbage"], {"L1": 32}),
        (["Instruction 1 64K"], {}),
        ([], {}),
    ],
)
def test_caches_are_the_data_caches_that_linux_reports(system, caches, expected):
    for index, cache in enumerate(caches):
        for name, value in zip(("type", "level", "size"), cache.split(), strict=True):
            system(f"{CACHE}/index{index}/{name}", value + "\n")
    assert environment.cpu_caches() == {level: kilobytes * 2**10 for level, kilobytes in expected.items()}
    largest = max(expected.values(), default=None)
    assert environment.last_level_cache_bytes() == (largest and largest * 2**10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"), ("none of them\n", "unknown")],
)
def test_huge_pages_are_the_policy_in_brackets(system, text, expected):
    system("/sys/kernel/mm/transparent_hugepage/enabled", text)
    assert environment.huge_pages() == expected


@pytest.mark.usefixtures("system")
def test_huge_pages_are_unknown_where_linux_says_nothing():
    assert environment.huge_pages() == "unknown"


@pytest.mark.parametrize(("nodes", "expected"), [(0, 1), (1, 1), (2, 2)])
def test_numa_nodes_are_counted_and_never_none(system, nodes, expected):
    system("/sys/devices/system/node/possible", "0")
    for node in range(nodes):
        system(f"/sys/devices/system/node/node{node}/cpulist", "0")
    assert environment.numa_nodes() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9R14\nmodel name\t: second\n", "AMD EPYC 9R14"),
        ("processor : 0\nHardware : BCM2712: rev 2\n", "BCM2712: rev 2"),
    ],
)
def test_the_processor_is_called_what_it_calls_itself(system, text, expected):
    system("/proc/cpuinfo", text)
    assert environment.cpu_name() == expected


def test_a_processor_without_a_name_is_called_by_its_architecture(system, monkeypatch):
    system("/proc/cpuinfo", "processor : 0\n")
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    monkeypatch.setattr(environment.platform, "machine", lambda: "aarch64")
    assert environment.cpu_name() == "aarch64"


def test_the_cpu_is_described_as_a_device():
    info = environment.device_info("cpu")
    assert (info.kind, info.name) == ("cpu", environment.device_name("cpu"))
    assert info.memory_bytes == psutil.virtual_memory().total
    assert info.cores == len(allowed_cpus())
    assert info.driver_version is None


def test_a_gpu_is_called_what_its_driver_calls_it(fake_nvml):
    assert environment.device_name("cuda") == "NVIDIA H200"


@pytest.mark.usefixtures("fake_nvml")
@pytest.mark.parametrize(
    ("visible", "name"), [("", "NVIDIA H200"), ("2", "NVIDIA L4"), ("2,0", "NVIDIA L4"), ("GPU-5a,0", "NVIDIA A100")]
)
def test_the_gpu_is_the_one_that_cuda_may_see(monkeypatch, visible, name):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.device_name("cuda") == name


def test_a_silent_driver_is_an_error_with_its_own_words(fake_nvml):
    def refuse():
        raise fake_nvml.NVMLError("Driver Not Loaded")

    fake_nvml.nvmlInit = refuse
    with pytest.raises(UsageError, match="no NVIDIA GPU answers: Driver Not Loaded"):
        environment.device_name("cuda")


def test_without_pynvml_a_gpu_has_no_name_but_an_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UsageError, match=r"nvidia-ml-py is not installed; pip install 'memfloor\[torch\]'"):
        environment.device_name("cuda")


def test_without_torch_the_default_device_is_the_cpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert environment.default_device() == "cpu"
    assert environment.cuda_unavailable_reason() == "torch is not installed; pip install 'memfloor[torch]'"


def test_without_torch_a_gpu_cannot_be_described(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="torch is not installed"):
        environment.device_info("cuda")


def test_package_versions_leave_out_what_is_absent(monkeypatch):
    monkeypatch.setattr(environment, "RECORDED_PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert list(environment.package_versions()) == ["numpy"]


def test_the_commit_of_this_very_checkout_is_known_or_stamped():
    environment.git_commit.cache_clear()
    inside = subprocess.run(
        ["git", "-C", str(Path(environment.__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if inside.returncode == 0:
        assert str(environment.git_commit()).startswith(inside.stdout.strip())
