"""Digests that know what they were in earlier versions, so that what was begun by those is known again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Digest(str):
    """A digest of code.

    Attributes:
        earlier: what earlier versions said of the same code, by a rule that saw other things.
    """

    earlier: str

    def __new__(cls, text: str, earlier: str = "") -> Digest:
        """Return the text, which knows what it was."""
        self = super().__new__(cls, text)
        self.earlier = earlier
        return self

    def __add__(self, other: str) -> Digest:
        """Return both in one, by each rule."""
        return Digest(str(self) + str(other), self.earlier + getattr(other, "earlier", other))


def as_earlier(here: Any) -> Any:
    """Return plain values with what earlier versions said in place of digests, also nested."""
    if isinstance(here, Digest):
        return here.earlier
    if isinstance(here, Mapping):
        return {name: as_earlier(value) for name, value in here.items()}
    return [as_earlier(each) for each in here] if isinstance(here, list | tuple) else here


def as_noted(here: Any, there: Any) -> Any:
    """Return an identity with its digests by that rule by which another one, read from a file, has the same code.

    Args:
        here: what something depends on now; plain values and digests, also nested.
        there: what was noted of it.
    """
    if isinstance(here, Digest):
        return there if there == here.earlier else here
    if isinstance(here, Mapping):
        noted = there if isinstance(there, Mapping) else {}
        return {name: as_noted(value, noted.get(name)) for name, value in here.items()}
    if isinstance(here, list | tuple) and isinstance(there, list) and len(here) == len(there):
        return [as_noted(one, other) for one, other in zip(here, there, strict=True)]
    return here
