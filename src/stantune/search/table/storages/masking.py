"""Storages' URLs, and what else is shown, as files and messages may show it: without what is or may be a password."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, unquote_plus

import sqlalchemy

_MASK = "***"
# Names of what is kept from others; a file that holds it, or the name of one who knows it, may be shown.
_SECRET = r"(?:pass(?!file|ive)|pwd|secret|token|credential|(?:api|access|private|account|shared)[_-]?key)"
_SECRET_NAME = re.compile(rf"{_SECRET}|^key$", re.IGNORECASE)
# Such a name with its value within another text: a driver's own connection string.
_SECRET_PAIR = re.compile(rf"([\w-]*{_SECRET}[\w-]*\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s;&,]+)", re.IGNORECASE)
_USER_INFO = re.compile(r":[^/@]*@")
# As a command's argument; not where that is a placeholder, or another option.
_SECRET_ARGUMENT = re.compile(rf"(--?[\w-]*{_SECRET}[\w-]*\s+)(?![-{{])\S+", re.IGNORECASE)
# To the last @, which a password may have, too; not from a port and a slash on.
_PASSWORD_IN_TEXT = re.compile(r"(\w://[^\s/:@]*:)(?!\d+/)\S+@")
# Their databases are files, whose names may have any characters; they have no users.
_OF_FILES = ("sqlite", "journal")


def without_password(url: str) -> str:
    """Return a URL as messages and files may show it, whether it can be parsed or not; what is shown stays as it is."""
    try:
        parsed = sqlalchemy.make_url(url)
        shown = parsed.render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the port is no number, or a character is none in UTF-8
        return _masked_text(url)
    before, mark, query = shown.partition("?")
    taken_apart = (parsed.host and "@" in parsed.host) or _USER_INFO.search(parsed.database or "")
    if taken_apart and not parsed.drivername.startswith(_OF_FILES):
        # By a password with an @, or a user with a slash: what is behind them was taken for something else.
        scheme, _, rest = unquote(before).partition("://")
        before = f"{scheme}://{_masked_user(rest)}"
    return before + mark + "&".join(map(_masked_part, query.split("&"))) if mark else before


def discreet(text: str, url: str) -> str:
    """Return what a driver says of a URL, without what is secret in it; the text may have parts of the URL in it."""
    for secret in _secrets(url):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return _SECRET_PAIR.sub(rf"\1{_MASK}", text)


def without_secrets(value: Any) -> Any:
    """Return plain values as a page may show them, without what an environment holds, and passwords in texts."""
    if isinstance(value, dict):
        return {key: _MASK if key == "env" and each else without_secrets(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    if isinstance(value, str):
        masked = _PASSWORD_IN_TEXT.sub(rf"\1{_MASK}@", value)
        return _SECRET_ARGUMENT.sub(rf"\1{_MASK}", _SECRET_PAIR.sub(rf"\1{_MASK}", masked))
    return value


def _masked_part(part: str) -> str:
    """Mask a parameter of a URL's query by its name, or where its value is a connection string with a password."""
    name, equals, value = part.partition("=")
    plain = unquote_plus(value)
    if equals and (_SECRET_NAME.search(unquote_plus(name)) or _SECRET_PAIR.search(plain) or plain == _MASK):
        return f"{name}={_MASK}"
    return part


def _masked_text(text: str) -> str:
    """Mask what cannot be parsed: rather too much than too little."""
    before, mark, query = text.partition("?")
    if "@" in query:  # the mark may be a part of the password
        before, mark, query = text, "", ""
    scheme, slashes, rest = before.rpartition("://") if "://" in before else ("", "", before)
    user, colon, behind = rest.partition(":")
    if colon and slashes and "@" not in behind:
        # Where a port should be: it is a password if the @ is missing.
        _, slash, path = behind.partition("/")
        rest = f"{user}:{_MASK}{slash}{path}"
    rest = _masked_user(rest)
    if mark:
        query = "&".join(map(_masked_part, query.split("&")))
    return _SECRET_PAIR.sub(rf"\1{_MASK}", scheme + slashes + rest + mark + query)


def _masked_user(text: str) -> str:
    """Mask all that may be a password behind the first colon, up to the last @."""
    user, colon, behind = text.partition(":")
    return f"{user}:{_MASK}@{behind.rpartition('@')[2]}" if colon and "@" in behind else text


def _secrets(url: str) -> list[str]:
    """Return what is secret in a URL, in all ways in which it may be written, the longest first."""
    found: set[str] = set()
    shown = without_password(url)
    # What stands in the URL where the mask is.
    pattern = "(.*?)".join(map(re.escape, shown.split(_MASK)))
    match = re.fullmatch(pattern, url, re.DOTALL)
    if match:
        found.update(match.groups())
    for part in url.partition("?")[2].split("&"):
        if _masked_part(part) != part:
            found.add(part.partition("=")[2])
    try:
        password = sqlalchemy.make_url(url).password
        if password:
            found.add(str(password))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        found.update(re.split(r"[:@/?]", url.partition("://")[2])[1:2])
    written = {way(secret) for secret in found for way in (str, unquote, unquote_plus)}
    # A password with an @ in it comes apart: each of its parts is to be hidden.
    parts = {part for secret in written for part in re.split(r"[@/:]", secret)}
    return sorted((written | parts) - {"", _MASK}, key=len, reverse=True)
