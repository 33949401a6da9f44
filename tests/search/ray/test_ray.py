"""A search on a real Ray cluster of several nodes, one of which is killed: equal to one that nothing happened to."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from numbers_objective import Numbers
from numbers_search import SETTINGS, Told, costless, table, trained
from traps import COMMAND, INSTALLED, PYTHONS, set_traps, sprung

from stantune.errors import StantuneError, UsageError
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import find
from stantune.objectives.choose import find_objective
from stantune.protocols import Place, Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.workers.executors import Executor, InProcess
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Limits

pytest.importorskip("ray", reason="Ray is not installed: pip install 'stantune[ray]'")

import ray
from ray._private import services
from ray.cluster_utils import Cluster as LocalCluster
from ray.exceptions import OutOfMemoryError

from stantune.search.ray import cluster as ray_cluster
from stantune.search.ray.checkpoints import OWNER, RemoteDirectory
from stantune.search.ray.cluster import Cluster, Share, connected
from stantune.search.ray.executor import RayExecutor
from stantune.search.ray.places import Sign, signed
from stantune.search.ray.run import trainings_on
from stantune.search.ray.worker import Hello
from stantune.search.workers.worker import Moved

TESTS = Path(__file__).parents[2]
TINY_FILE = TESTS / "tiny_problem.py"
TINY = f"{TINY_FILE}:problem"
ONE = Share(1, 0)
LONGEST_SECONDS = 240
# Files by which Ray's helper processes tell their ports, which none of them has here. Ray gives its helpers fifteen
# seconds to write them, which a busy machine does not do; so they are there beforehand.
PORT_FILES = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")


class Nodes:
    """A cluster of two nodes on this machine, each with room for one training; the second one can be lost."""

    def __init__(self) -> None:
        patience = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
        self._cluster = LocalCluster(True, head_node_args={**self._small(), "_system_config": patience})
        self.address = self._cluster.address
        self._second = self._add()

    def replace_second(self) -> str:
        """Kill the second node, and have another one come; return the id of the one that was killed."""
        lost = self._second
        self._cluster.remove_node(lost, allow_graceful=False)
        self._second = self._add()
        return str(lost.node_id)

    def close(self) -> None:
        """End all."""
        self._cluster.shutdown()

    def _add(self) -> Any:
        return self._cluster.add_node(**self._small())

    @staticmethod
    def _small() -> dict[str, Any]:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return {
            "num_cpus": 1,
            "num_gpus": 0,
            "object_store_memory": 80 * 2**20,
            "runtime_env_agent_port": port,
            "include_log_monitor": False,
            "include_dashboard": False,
        }


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster for all tests of this file."""
    start = services.start_raylet

    def with_ports(*positional: Any, **named: Any) -> Any:
        # Of what it takes, these come third and twelfth.
        node, session = positional[2], positional[11]
        for name in PORT_FILES:
            (Path(session) / f"{name}_{node}").write_text("-1")
        return start(*positional, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "start_raylet", with_ports)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        # Else all that the machine does besides comes first.
        patch.setenv("RAY_worker_niceness", "0")
        # Where worker processes find numbers_objective.py.
        helpers = str(TESTS / "helpers" / "search")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [helpers, os.environ.get("PYTHONPATH")])))
        try:
            cluster = Nodes()
        except Exception as error:
            pytest.skip(f"Ray starts no cluster here: {error}")
        try:
            yield cluster
        finally:
            cluster.close()


@pytest.fixture(scope="module")
def cluster(nodes: Nodes) -> Iterator[Cluster]:
    """The connection to it."""
    with connected(nodes.address) as cluster:
        yield cluster


def bounded(stop_early: Callable[[], bool] = lambda: False) -> Callable[[], bool]:
    """The same, for a while: a search that waits for what never comes fails its test."""
    end = time.monotonic() + LONGEST_SECONDS

    def stop() -> bool:
        assert time.monotonic() < end, f"not done within {LONGEST_SECONDS} s"
        return stop_early()

    return stop


def run(
    numbers: Numbers,
    executor: Callable[[Sign], Executor] | None,
    stop_early: Callable[[], bool] = lambda: False,
    **options: Any,
) -> SearchState:
    """Run the search in the objective's place, on an executor, or in this process where that is None."""
    place = numbers.place
    assert place is not None
    place.mkdir(exist_ok=True)
    options["stop_early"] = bounded(stop_early)
    directory = SearchDirectory(place)
    with directory.locked():
        if executor is None:
            return search(numbers, SETTINGS, directory, InProcess(numbers.order(0)), **options)
        with signed(str(place)) as sign, executor(sign) as running:  # type: ignore[attr-defined]
            return search(numbers, SETTINGS, directory, running, **options)


@pytest.fixture
def undisturbed(tmp_path: Path) -> SearchState:
    """The search in one process, without faults."""
    return run(Numbers(tmp_path / "undisturbed"), None)


def test_lost_node_costs_what_it_was_running(
    nodes: Nodes, cluster: Cluster, undisturbed: SearchState, tmp_path: Path
) -> None:
    place, told, lost = tmp_path / "w", Told(), []
    # One of two trials hangs until its node is lost, the other one for too long; the final training is killed.
    numbers = Numbers(place, {4: "once hang", 5: "once hang", -1: "once kill"})
    capacities: list[int] = []
    executors = []

    def executor(sign: Sign) -> RayExecutor:
        executors.append(RayExecutor(cluster, numbers.order, ONE, sign, Limits(seconds=5)))
        return executors[0]

    def stop_early() -> bool:
        if not lost and all((place / f"happened-{number}").exists() for number in (4, 5)):
            at = {each.hello.node: each.segment.trial for each in executors[0]._places if each.hello and each.segment}
            lost.append(at[nodes.replace_second()])
        capacities.append(executors[0].capacity)
        return False

    state = run(numbers, executor, stop_early=stop_early, watcher=told)
    assert state.complete
    assert table(state) == table(undisturbed)
    assert costless(state.final) == costless(undisturbed.final)
    gone = lost[0]
    causes = {number: cause for number, cause, _ in told.failures}
    assert len(told.failures) == len(causes) == 3, "a lost node costs what it was running"
    assert causes[gone] == f"the connection to its node {platform.node()} was lost", "it is seen"
    assert [failure.cause for failure in state.rows[gone].failures] == [causes[gone]], "and recorded"
    assert causes[9 - gone] == "no iteration and no evaluation was done within 5 s, its time-out"
    assert causes[None] == "its worker process was killed by SIGKILL", "as with local workers"
    assert not any(for_good for _, _, for_good in told.failures)
    # Ray takes a node for lost when it has not answered for a while, so the one that went may count to the end.
    assert capacities[-1] in (2, 3), "one went, one came"
    counts = Counter(trained(place))
    assert set(counts) == set(trained(tmp_path / "undisturbed"))
    assert set(counts.values()) == {1}, "they went on from their checkpoints"


def test_a_worker_that_ray_ends_for_memory(
    cluster: Cluster, undisturbed: SearchState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, told, ended = tmp_path / "w", Told(), []
    numbers = Numbers(place)
    get = ray.get

    def get_but(reference: Any, **options: Any) -> Any:
        said = get(reference, **options)
        # Once of one that has not begun, once of one that trains.
        if isinstance(said, Hello | Moved) and type(said) not in ended:
            ended.append(type(said))
            raise OutOfMemoryError("Task was killed due to the node running low on memory.\nRefer to the documentation")
        return said

    monkeypatch.setattr(ray, "get", get_but)
    state = run(numbers, lambda sign: RayExecutor(cluster, numbers.order, ONE, sign, most=1), watcher=told)
    assert set(ended) == {Hello, Moved}
    assert state.complete
    assert table(state) == table(undisturbed)
    cause = f"its Ray worker on node {platform.node()} was ended by Ray, since the node's memory ran low"
    assert [failure[1:] for failure in told.failures] == [(cause, False)]


class NotThere:
    """A parameter's value that no other process can read."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_an_actor_that_fails_is_told_once(cluster: Cluster, tmp_path: Path) -> None:
    segment = Segment(0, {"lr": NotThere()}, 0, 3, 0, tmp_path / "0", bracket=0)

    def train() -> None:
        with signed(str(tmp_path)) as sign, RayExecutor(cluster, Numbers().order, ONE, sign, most=1) as executor:
            executor.submit(segment)
            executor.finished(bounded(), lambda segment, done: None)

    with pytest.raises(StantuneError, match=r"a worker cannot begin on the Ray cluster \(.*no number"):
        train()


def test_search_with_checkpoints_behind_a_url(
    cluster: Cluster, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SearchSettings(seed=0, max_resource=9, min_resource=3)
    tiny = ProblemObjective(find(TINY))
    plain = SearchDirectory(tmp_path / "plain")
    with plain.locked():
        undisturbed = search(tiny, settings, plain, InProcess(tiny.trainer(Place(threads=1))))
    url = f"file://{tmp_path}/far"
    directory = RemoteDirectory(tmp_path / "w", None, url)
    # As a user names it, in the directory where the user is.
    monkeypatch.chdir(TESTS)
    order = Order(find_objective(f"{TINY_FILE.name}:problem"), Place(threads=1))
    with directory.locked(), trainings_on(cluster, order, directory, Limits(), 1, 1) as executor:
        state = search(order.objective, settings, directory, executor, stop_early=bounded())
    assert state.complete
    assert table(state) == table(undisturbed)
    # Its weights are elsewhere, where nothing tells whether they were altered.
    assert costless(state.final) == replace(costless(undisturbed.final), digest=None, best_digest=None)
    kept = {file.name for file in (plain.path / "checkpoints").iterdir()} | {plain.final().name, plain.best().name}
    assert {file.name for file in (tmp_path / "far").iterdir()} == kept | {OWNER}
    assert not (directory.path / "checkpoints").exists()
    assert directory.best().exists()
    weights = [torch.load(each.final())["state"]["model"] for each in (plain, directory)]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())


def test_stopped_in_good_order_and_gone_on_with_elsewhere(
    cluster: Cluster, undisturbed: SearchState, tmp_path: Path
) -> None:
    place, told = tmp_path / "w", Told()
    numbers = Numbers(place, pause=0.01)

    def stop_early() -> bool:
        return (place / "log").exists() and len(trained(place)) >= 20

    state = run(numbers, lambda sign: RayExecutor(cluster, numbers.order, ONE, sign, most=1), stop_early, watcher=told)
    assert not state.complete
    assert (told.failures, max(map(len, told.together))) == ([], 1)
    assert table(run(numbers, None)) == table(undisturbed)
    assert set(Counter(trained(place)).values()) == {1}, "nothing is trained twice"


def test_node_that_does_not_see_the_search(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "w"
    numbers = Numbers(place)

    def executor(sign: Sign) -> RayExecutor:
        return RayExecutor(cluster, numbers.order, ONE, Sign(str(tmp_path / "elsewhere"), sign.name), most=1)

    with pytest.raises(StantuneError, match=r"on node .*: it does not see .*elsewhere; keep them where all nodes do"):
        run(numbers, executor)


def test_no_room(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.room(ONE) == (2, 2)
    assert cluster.room(Share(2, 0)) == cluster.room(Share(1, 1)) == (0, 0)
    with pytest.raises(UsageError, match=r"no node .* has 2 CPUs for a training; give fewer `threads`"):
        RayExecutor(cluster, Numbers(tmp_path).order, Share(2, 0), Sign(str(tmp_path), "sign"))


def test_nodes_run_nothing_of_the_working_folder(nodes: Nodes, tmp_path: Path) -> None:
    trapped = set_traps(tmp_path / "trapped", (*PYTHONS, *INSTALLED, "ray"))
    search = ("search", TINY, "--max-iterations", "8", "--executor", "ray", "--address", nodes.address)
    command = [sys.executable, "-c", COMMAND, *search, "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=trapped, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS)
    assert (ended.returncode, sprung(trapped)) == (0, ""), ended.stderr


def test_devices(cluster: Cluster) -> None:
    assert cluster.device("auto") == cluster.device("cpu") == "cpu"
    with pytest.raises(UsageError, match=r"`device`=cuda: no node .* has a GPU"):
        cluster.device("cuda")
    with pytest.raises(UsageError, match="`device`=cuda:1: Ray says which GPU a training has"):
        cluster.device("cuda:1")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "no Ray cluster can be reached at 127.0.0.1:.* .Connection refused.; see that its head node runs"),
        (b"HTTP/1.1 400 Bad Request", "what answers at 127.0.0.1:.* is not Ray; give the port that 'ray start --head'"),
        (b"", "what answers at 127.0.0.1:.* is not Ray"),
    ],
)
def test_address_without_a_cluster(answer: bytes | None, said: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer or b"")

        if answer is not None:
            server.listen()
            threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(StantuneError, match=said), connected(address):
            pass


def test_address_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "CONNECT_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(StantuneError, match=rf"can be reached at {address} .timed out"), connected(address):
            pass


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:10001", "is Ray's client; run the command on a machine of the cluster"),
        ("nonsense", "is no address of a Ray cluster; give its head's HOST:PORT, or auto"),
    ],
)
def test_what_is_no_address(address: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"`address`={address} {said}"), connected(address):
        pass


def test_ray_is_not_installed() -> None:
    code = "import sys; sys.modules['ray'] = None; import stantune.search.ray.cluster"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StantuneError: Ray is not installed; pip install 'stantune[ray]'" in ended.stderr
