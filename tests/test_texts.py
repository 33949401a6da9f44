"""Whatever text there is, JSON, databases and terminals can have what is made of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.texts import encodable, one_line, plain

ANY = st.text(st.characters())


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("bad \udcff name", "bad \\udcff name"),
        ("a\0b", "a\\x00b"),
        ("ä 🙂\n", "ä 🙂\n"),
        ("\ud83d\ude42", "\\ud83d\\ude42"),
    ],
)
def test_encodable(text: str, kept: str) -> None:
    assert encodable(text) == kept
    assert plain({text: [text, (text, 1)], "n": None}) == {kept: [kept, [kept, 1]], "n": None}


@given(ANY)
def test_it_can_be_encoded_and_is_left_alone_then(text: str) -> None:
    kept = encodable(text)
    assert json.loads(json.dumps(kept, ensure_ascii=False).encode()) == kept == encodable(kept)


@given(ANY)
def test_one_line_has_only_what_can_be_printed(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line


def test_one_line() -> None:
    assert one_line(" a\n b\t\x1b[31m\udcff\0 ") == "a b \\x1b[31m\\udcff\\x00"
    assert one_line("é\u200d") == "é\\u200d"
    long = one_line("x " * 10**6)
    assert len(long) == 2001
    assert long.endswith("…")
