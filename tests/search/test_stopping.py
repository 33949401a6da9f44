"""What ends a search in good order, and what ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from stantune.search import stopping
from stantune.search.stopping import ENDING, Sooner, Stop, stoppable

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no system with terminals that are lost")


def send(*numbers: int) -> None:
    """Send this process signals, one after the other."""
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_each_asks_for_the_end_and_is_given_back(number: int) -> None:
    before = [signal.getsignal(each) for each in ENDING]
    with stoppable() as stop:
        assert not stop.asked()
        send(number)
        assert stop.asked()
        assert stop.interrupted
    assert [signal.getsignal(each) for each in ENDING] == before


def test_several_may_ask_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "REQUEST_SECONDS", 0)
    asked = {"study": False, "search": False}
    for who in asked:
        stop = Stop()
        with stop.heeding(lambda: asked["study"]):
            with stop.heeding(lambda: asked["search"]):
                assert not stop.asked()
            with stop.heeding(lambda: asked["search"]):
                asked[who] = True
                assert stop.asked()
        asked[who] = False
        # What was asked stays so.
        assert stop.asked()


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGHUP, signal.SIGINT, signal.SIGTERM),
    ],
)
def test_somebody_who_asks_twice_is_obeyed_at_once(numbers: tuple[int, ...]) -> None:
    with stoppable():
        send(*numbers[:-1])
        with pytest.raises(KeyboardInterrupt):
            send(numbers[-1])


@pytest.mark.parametrize(
    "numbers",
    [
        # Shell and system each send one; a session that ends sends one before or after its SIGTERM.
        (signal.SIGHUP, signal.SIGHUP, signal.SIGHUP),
        (signal.SIGTERM, signal.SIGHUP),
        (signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_a_line_that_is_lost_ends_nothing_at_once(numbers: tuple[int, ...]) -> None:
    with stoppable() as stop:
        send(*numbers)
        assert stop.interrupted


def test_under_nohup_a_lost_line_is_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as stop:
            send(signal.SIGHUP)
            assert not stop.asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_caller_s_own_handler_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
    try:
        with stoppable() as stop:
            send(signal.SIGHUP)
            assert (heard, stop.asked()) == ([signal.SIGHUP], False)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_is_looked_for_now_and_then_and_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked, requested = [100.0], [], False
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])

    def request() -> bool:
        asked.append(now[0])
        return requested

    stop = Stop()
    with stop.heeding(request):
        assert not any(stop.asked() for _ in range(1000))
        assert asked == [100.0], "not at each iteration"
        requested = True
        assert not stop.asked()
        now[0] += stopping.REQUEST_SECONDS
        assert stop.asked()
    assert stop.interrupted
    now[0] += stopping.REQUEST_SECONDS
    Stop().asked()
    assert len(asked) == 2


def test_who_is_urged_and_swallows_it_hears_of_it_again() -> None:
    with stoppable() as stop:
        send(signal.SIGINT)
        assert stop.asked()
        with contextlib.suppress(KeyboardInterrupt):
            send(signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                stop.asked()


def test_the_sooner_of_a_stop_and_a_budget_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    stop = Stop(9)
    first, last = Sooner(stop, 3), Sooner(stop, 99)
    assert not first.asked()
    now[0] += 3
    assert (first.asked(), last.asked(), stop.asked()) == (True, False, False)
    now[0] += 6
    assert (last.asked(), stop.asked()) == (True, True)
    assert (first.interrupted, last.interrupted) == (False, False)


def test_who_asks_one_with_a_budget_asks_what_it_stands_beside() -> None:
    stop = Stop()
    with Sooner(stop, 99).heeding(lambda: True):
        beside = Sooner(stop, 99)
        assert beside.asked()
    assert (stop.interrupted, beside.interrupted) == (True, True)
    stop.hear(signal.SIGINT)
    stop.hear(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        beside.asked()


@pytest.mark.parametrize("asks", ["around", "request"])
def test_a_signal_in_the_middle_of_a_question_is_heard(asks: str) -> None:
    def question() -> bool:
        stop.hear(signal.SIGINT)
        return False

    stop = Stop(around=question) if asks == "around" else Stop()
    with stop.heeding(question) if asks == "request" else contextlib.nullcontext():
        assert stop.asked()
        assert stop.interrupted
