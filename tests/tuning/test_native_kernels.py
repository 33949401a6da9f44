"""A cluster's nodes compute by the native kernels of the machine that the search was begun on, or say why not."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from corners import DRAWING

import stantune as st
import stantune.tuning.tune
from stantune.errors import StantuneError
from stantune.images.objective import ProblemObjective
from stantune.kernels import library
from stantune.search.workers.executors import InProcess
from stantune.search.workers.order import Order
from stantune.tuning.process import NativeKernels, native_kernels

pytestmark = pytest.mark.usefixtures("one_thread")

NODE = """
import pickle, sys
from stantune.errors import StantuneError
from stantune.kernels.library import kernels
try:
    pickle.load(sys.stdin.buffer)()
except StantuneError as error:
    print(error)
else:
    print(kernels().form or "none", kernels().winograd)
"""


def at_a_node(asked: NativeKernels, **environment: str) -> str:
    """Return what a new process says that has an order's kernels put in place."""
    given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    said = subprocess.run(
        [sys.executable, "-c", NODE], input=pickle.dumps(asked), env=given, stdout=subprocess.PIPE, check=True
    )
    return said.stdout.decode().strip()


def asked_for(monkeypatch: pytest.MonkeyPatch, form: str, device: str = "cpu") -> NativeKernels:
    monkeypatch.setattr(library, "kernels", lambda: library.Kernels(None, form, "a test says so", 2))
    [asked] = native_kernels(ProblemObjective(DRAWING, st.Stan()), device)
    assert isinstance(asked, NativeKernels)
    return asked


@pytest.mark.skipif(not library.kernels().form, reason="there are no native kernels here")
def test_nodes_take_the_form_of_the_search_whatever_their_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert at_a_node(asked_for(monkeypatch, "portable"), STANTUNE_KERNELS="off") == "portable 2"
    assert at_a_node(asked_for(monkeypatch, "")) == "none 0"


def test_a_node_that_lacks_the_form_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_for(monkeypatch, "avx512")
    monkeypatch.setattr(library, "kernels", lambda: library.Kernels(None, "", "it was not built"))
    for name in asked.environment:
        monkeypatch.setenv(name, "")
    with pytest.raises(
        StantuneError,
        match=r"by native kernels of the form avx512, and here are no native kernels \(it was not built\)",
    ):
        asked()
    assert (os.environ["STANTUNE_KERNELS"], os.environ["STANTUNE_WINOGRAD"]) == ("avx512", "always")


def test_devices_have_no_forms_and_what_trains_exactly_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STANTUNE_WINOGRAD", raising=False)
    monkeypatch.setenv("STANTUNE_KERNELS", "off")
    assert asked_for(monkeypatch, "avx2", "cuda") == NativeKernels({"STANTUNE_KERNELS": "off"}, None)
    assert native_kernels(ProblemObjective(DRAWING), "cpu") == ()


def test_a_search_on_a_cluster_gives_its_own_to_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pytest.importorskip("stantune.search.ray.run", reason="Ray is not installed")
    orders: list[Order] = []

    class Cluster:
        def device(self, asked: str) -> str:
            return asked

    @contextmanager
    def cluster_for(*_: Any) -> Iterator[Cluster]:
        yield Cluster()

    @contextmanager
    def trainings_on(cluster: Cluster, order: Order, *_: Any) -> Iterator[InProcess]:
        orders.append(pickle.loads(cloudpickle.dumps(order)))
        yield InProcess(order.objective.trainer(order.place))

    monkeypatch.setattr(stantune.tuning.tune, "cluster_for", cluster_for)
    monkeypatch.setattr(run, "trainings_on", trainings_on)
    for stan in (st.Stan(), None):
        st.tune(
            DRAWING,
            stan=stan,
            max_resource=9,
            min_resource=9,
            brackets=1,
            executor="ray",
            device="cpu",
            out=tmp_path / str(stan is None),
        )
    here = library.kernels()
    environment = {"STANTUNE_KERNELS": here.form or "off", "STANTUNE_WINOGRAD": library.WINOGRAD[here.winograd]}
    assert [order.before for order in orders] == [(NativeKernels(environment, here.form),), ()]
