"""Numbers as people read and type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.quantities import duration, parse_duration
from stantune.report.words import percent, setting_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (38.2, "38 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (12_000, "3 h 20 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_a_duration_in_words(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("45s", 45),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1d2h3m4.5s", 93784.5),
        ("0.5h", 1800),
        (" 30m ", 1800),
    ],
)
def test_a_duration_as_typed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "soon", "30 m", "1h30", "m", "-5m", "1:30", "1.m", "30min", "5m!", "1e3", "nan"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no length of time; write it as 90s, 30m, 2h or 1h30m"):
        parse_duration(text)


@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), seconds=st.integers(0, 59))
def test_parts_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


def test_errors_and_settings_in_words() -> None:
    assert (percent(None), percent(1), percent(23.456), percent(100.0)) == ("–", "1.00 %", "23.46 %", "100.00 %")
    assert setting_text({}) == "the problem's own values"
    setting = {"lr": 0.0123456, "top_k": 80, "pool": "max", "decay": 1e-7, "flip": True, "clip": None}
    assert setting_text(setting) == "lr=0.01235, top_k=80, pool=max, decay=1e-07, flip=True, clip=None"
