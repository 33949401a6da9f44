"""Protobuf's text format: from the text of a file to fields with their lines; knows no field by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from stantune.texts import brief, encodable

# Caffe's own files nest four deep, and its largest networks have 200 kB.
DEEPEST = 20
MOST_BYTES = 1 << 20
_LONGEST_NUMBER = 64
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)|(?P<line>\n)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
    |(?P<text>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
    |(?P<sign>[{}<>\[\]:;,-])""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(?:[xX]([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSING = {"{": "}", "<": ">"}

Kind = Literal["word", "number", "text"]


class RefusalError(Exception):
    """A file says what is not taken: on which line, and a sentence without its end; the reader adds the file."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line = line
        self.words = words


@dataclass(frozen=True)
class Scalar:
    """A value as it is written: a word (true, MAX), a number with its sign, or a text without quotes and escapes."""

    kind: Kind
    text: str
    line: int


@dataclass(frozen=True)
class Message:
    """What stands between braces, or the whole file, in its order."""

    fields: tuple[Field, ...]
    line: int


@dataclass(frozen=True)
class Field:
    """A name and one value; a list of values is as many fields."""

    name: str
    value: Scalar | Message
    line: int


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse(text: str) -> Message:
    """Return what a file says, whose bytes that are not UTF-8 are lone surrogates, each another one.

    Raises RefusalError where it is no text format, or has such bytes outside of comments.
    """
    tokens = list(_tokens(text))
    fields, place = _fields(tokens, 0, "", 0)
    assert tokens[place].kind == "end", "a message without a closing sign takes all"
    return Message(tuple(fields), 1)


def _tokens(text: str) -> Iterator[_Token]:
    place, line = 0, 1
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            rest = text[place : place + 20].split("\n", 1)[0]
            hint = ""
            if rest.startswith("/"):
                hint = "; comments begin with #"
            elif _is_damaged(rest[:1]):
                hint = "; save the file as UTF-8"
            raise RefusalError(
                line, f"{brief(repr(rest))} is neither a name, a number, a text in quotes nor a sign{hint}"
            )
        kind = found.lastgroup
        assert kind is not None
        if kind == "line":
            line += 1
        elif kind != "space":
            if kind == "text" and _is_damaged(found.group()):
                raise RefusalError(line, f"{brief(found.group())} is not UTF-8; save the file as UTF-8")
            yield _Token(kind, found.group(), line)
        place = found.end()
    yield _Token("end", "the end of the file", line)


def _fields(tokens: list[_Token], place: int, closing: str, depth: int) -> tuple[list[Field], int]:
    """Read fields up to the closing sign, or to the end where that is empty; return them and the place behind it."""
    fields: list[Field] = []
    while True:
        token = tokens[place]
        if closing and token.text == closing and token.kind == "sign":
            return fields, place + 1
        if token.kind == "end" and not closing:
            return fields, place
        if token.kind != "word":
            wanted = f"a field or {closing!r}" if closing else "a field"
            raise RefusalError(token.line, f"{_shown(token)} stands where {wanted} is to")
        place += 1
        colon = tokens[place].kind == "sign" and tokens[place].text == ":"
        place += colon
        if tokens[place].text == "[" and tokens[place].kind == "sign":
            values, place = _list(tokens, place + 1, depth)
        else:
            value, place = _value(tokens, place, colon, depth)
            values = [value]
        fields += [Field(token.text, value, token.line) for value in values]
        if tokens[place].kind == "sign" and tokens[place].text in (",", ";"):
            place += 1


def _list(tokens: list[_Token], place: int, depth: int) -> tuple[list[Scalar | Message], int]:
    values: list[Scalar | Message] = []
    if tokens[place].kind == "sign" and tokens[place].text == "]":
        return values, place + 1
    while True:
        value, place = _value(tokens, place, True, depth)
        values.append(value)
        token = tokens[place]
        if token.kind != "sign" or token.text not in (",", "]"):
            raise RefusalError(token.line, f"{_shown(token)} stands where ',' or ']' is to")
        place += 1
        if token.text == "]":
            return values, place


def _value(tokens: list[_Token], place: int, colon: bool, depth: int) -> tuple[Scalar | Message, int]:
    token = tokens[place]
    if token.kind == "sign" and token.text in _CLOSING:
        if depth >= DEEPEST:
            raise RefusalError(token.line, f"messages are more than {DEEPEST} deep in one another")
        fields, place = _fields(tokens, place + 1, _CLOSING[token.text], depth + 1)
        return Message(tuple(fields), token.line), place
    if not colon:
        raise RefusalError(token.line, f"{_shown(token)} stands where ':' or '{{' is to")
    if token.kind == "text":
        text = ""
        while tokens[place].kind == "text":  # neighbours are one text
            text += _unescaped(tokens[place])
            place += 1
        return Scalar("text", text, token.line), place
    sign = ""
    if token.kind == "sign" and token.text == "-":
        sign, place = "-", place + 1
    value = tokens[place]
    if value.kind == "number" or (value.kind == "word" and (not sign or value.text.lower().startswith(("inf", "nan")))):
        if value.kind == "number" and len(value.text) > _LONGEST_NUMBER:
            raise RefusalError(value.line, f"{brief(value.text)} is too long a number")
        return Scalar("number" if value.kind == "number" else "word", sign + value.text, value.line), place + 1
    raise RefusalError(value.line, f"{_shown(value)} stands where a value is to")


def _unescaped(token: _Token) -> str:
    def plain(found: re.Match[str]) -> str:
        hexadecimal, octal, letter = found.groups()
        if hexadecimal:
            return chr(int(hexadecimal, 16))
        return chr(int(octal, 8)) if octal else _ESCAPES.get(letter, letter)

    return _ESCAPED.sub(plain, token.text[1:-1])


def _is_damaged(text: str) -> bool:
    return encodable(text) != text


def _shown(token: _Token) -> str:
    return token.text if token.kind == "end" else brief(repr(token.text))
