"""Joining a Ray cluster and leaving it, in any thread, without one: what is done with Ray is only noted."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stantune.errors import StantuneError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'stantune[ray]'")

import ray

from stantune.search.ray import cluster as ray_cluster
from stantune.search.ray.cluster import connected


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with Ray, of which there is no cluster; joining it changes a handler as Ray does."""
    done: list[str] = []

    def init(**options: object) -> None:
        done.append("init")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, frame: None)

    monkeypatch.setattr(ray_cluster, "_knock", lambda address: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("shutdown"))
    return done


def test_a_search_in_another_thread_joins_a_cluster_and_leaves_it(stubbed: list[str]) -> None:
    def join() -> str:
        with connected("127.0.0.1:1") as cluster:
            return cluster.address

    with ThreadPoolExecutor(1) as another:
        assert another.submit(join).result(60) == "127.0.0.1:1"
    assert stubbed == ["init", "shutdown"]


def test_handlers_are_put_back_where_python_has_them(stubbed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with connected("127.0.0.1:1"):
        assert signal.getsignal(signal.SIGTERM) is before
    # A library written in C has one of its own.
    monkeypatch.setattr(ray_cluster.signal, "getsignal", lambda number: None)
    try:
        with connected("127.0.0.1:1"):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stubbed == ["init", "shutdown"] * 2


@pytest.mark.parametrize("others", [False, True])
def test_what_cannot_be_joined_is_one_sentence_and_can_be_tried_again(
    stubbed: list[str], monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    def refuse(**options: object) -> None:
        raise RuntimeError("of another version")

    def join() -> None:
        with connected("127.0.0.1:1"):
            pass

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: others)
    said = r"127\.0\.0\.1:1 cannot be joined \(of another version\)"
    with ThreadPoolExecutor(1) as another, pytest.raises(StantuneError, match=said):
        another.submit(join).result(60)
    assert stubbed == ([] if others else ["shutdown"]), "a connection that others have stays"
