"""A sweep on a real Ray cluster of several nodes on one machine, whose workers, nodes and driver are killed."""

import http.server
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from memfloor.record import Store

SLOW = 27
NODES = {"name": "nodes", "executor": "ray", "device": "cpu", "cpus": 1}
# Of each node's object store.
STORE_BYTES = 80 * 2**20
CHILDREN = Path(__file__).parent / "children"
pytestmark = pytest.mark.comparators


@pytest.fixture(scope="module")
def ray_installed(lacking):
    if find_spec("ray") is None:
        lacking("ray is not installed")


@pytest.fixture(scope="module")
def cluster(ray_installed):
    """Return a cluster of a head that takes no runs and two nodes of one CPU, one of them said to have a GPU."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Nodes and their workers inherit what is set here.
        patch.setenv("PYTHONPATH", str(CHILDREN))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        settings = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **settings})
        cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:L4": 1}, object_store_memory=STORE_BYTES)
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    yield cluster
    cluster.shutdown()


def actors():
    everyone = psutil.process_iter(["cmdline"])
    return [process for process in everyone if (process.info["cmdline"] or [""])[0].startswith("ray::RemoteWorker")]


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
    cluster, start_sweep, write_plan, tmp_path, taken, wait_for_records, end_of
):
    folder = tmp_path / "out"
    sweep = start_sweep(write_plan(NODES, contexts=(SLOW, 64)), folder, "--ray", cluster.address)
    wait_for_records(folder, 2, sweep)
    actors()[0].kill()
    ended = end_of(sweep)
    assert ended.status == 0, ended.err
    assert ": lost: " in ended.err
    assert "Traceback" not in ended.err
    assert len(taken(folder)) == 12
    assert set(taken(folder).values()) == {1}
    cpus = defaultdict(set)
    for run in Store(folder).read()[0]:
        cpus[run.session_id].add(run.path.facts["cpus"])
    assert {len(bound) for bound in cpus.values()} == {1}
    assert len(set.union(*cpus.values())) == 2, "two workers had the same CPU"


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({**NODES, "cpus": 9}, "machine 'nodes': no node has 9 CPUs for a worker; the largest has 1"),
        ({**NODES, "workers": 3}, "machine 'nodes': 3 workers do not fit; the cluster takes 2"),
        (
            {"name": "gpus", "executor": "ray", "device": "cuda", "accelerator_type": "H100"},
            "machine 'gpus': no node of the cluster has accelerator_type 'H100'; there are: L4",
        ),
        (
            # The node that is said to have a GPU is found and asked, and has none.
            {"name": "gpus", "executor": "ray", "device": "cuda", "accelerator_type": "L4"},
            "gpus/0: no NVIDIA GPU answers",
        ),
    ],
)
def test_what_the_cluster_does_not_have_is_one_line(cluster, start_sweep, write_plan, tmp_path, machine, words, end_of):
    sweep = start_sweep(write_plan(machine), tmp_path / "out", "--ray", cluster.address)
    check_refusal(end_of(sweep), words)


def test_a_cluster_of_another_version_is_one_line(cluster, write_plan, tmp_path, end_of):
    other = "import ray; ray.__version__ = '1.0.0'; from memfloor.cli import main; main()"
    arguments = ["sweep", str(write_plan(NODES)), "--out", str(tmp_path / "out"), "--ray", cluster.address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    refused = end_of(subprocess.Popen([sys.executable, "-c", other, *arguments], **pipes))
    check_refusal(refused, "Version mismatch", "Ray: 1.0.0")


@pytest.mark.usefixtures("ray_installed")
def test_what_is_no_cluster_is_one_line(memfloor, write_plan, tmp_path):
    plan = write_plan(NODES)
    with http.server.ThreadingHTTPServer(("", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            strange = memfloor("sweep", plan, "--out", tmp_path, "--ray", f"127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    closed = memfloor("sweep", plan, "--out", tmp_path, "--ray", f"127.0.0.1:{server.server_port}")
    nonsense = memfloor("sweep", plan, "--out", tmp_path, "--ray", "nonsense")
    assert [result.status for result in (strange, closed, nonsense)] == [2, 2, 2]
    assert "is no Ray cluster" in strange.err
    assert "Connection refused" in closed.err
    assert nonsense.err == "memfloor: Ray cluster 'nonsense': Invalid address format: nonsense\n"


def test_a_killed_driver_resumes_and_a_lost_node_is_done_without(
    cluster, start_sweep, write_plan, tmp_path, taken, contents, wait_for_records, end_of
):
    # Enough to be busy until the workers of a killed node are ended, which takes Ray a second or two.
    folder, plan = tmp_path / "out", write_plan(NODES, contexts=(SLOW, 64), runs=6)
    sweep = start_sweep(plan, folder, "--ray", cluster.address)
    wait_for_records(folder, 2, sweep)
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    kept = contents(folder)
    assert set(taken(folder).values()) == {1}

    sweep = start_sweep(plan, folder, "--ray", cluster.address)
    wait_for_records(folder, len(kept) + 2, sweep)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    ended = end_of(sweep)
    assert ended.status == 0, ended.err
    assert ": lost: " in ended.err
    assert {name: contents(folder)[name] for name in kept} == kept
    assert len(taken(folder)) == 24
    assert set(taken(folder).values()) == {1}


def check_refusal(ended, *words):
    assert ended.status == 2, ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("memfloor: ")
    assert "Traceback" not in ended.err
    for word in words:
        assert word in last
