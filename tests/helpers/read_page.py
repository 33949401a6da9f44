"""A search with every fate that a trial can have and with odd names, and what is in a report's page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import stantune as st
from stantune.report.page.contract import ReportNumbers

ODD = "</script><script>document.title='taken'</script><b>x</b>"
SPACE = st.Space(
    {
        "lr": st.Float(1e-3, 10, log=True),
        "width": st.Integer(1, 64),
        "kind": st.Categorical((ODD, True, 2)),
        "never": st.Categorical(("this", "other")),
        "depth": st.Integer(1, 3),
    },
    when={"depth": {"kind": (True,)}},
)


def train(run: st.Run) -> dict[str, float]:
    """Diverge at large rates, fail where the width is a multiple of nine, and else come to what the setting says."""
    for epoch in run.steps():
        run.loss(1 / (epoch + 1))
    if run.params["width"] % 9 == 0:
        raise ValueError(f"no data {ODD}")
    value = math.nan if run.params["lr"] > 3 else run.params["lr"] + run.params["width"] / 100 + 1 / (epoch + 1)
    return {"cost": value, f"other {ODD}": 1.0}


class Scripts(HTMLParser):
    """Collects what the elements with an id hold, and each address that the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.shown: list[str] = []
        self.tags: list[str] = []
        self._of: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        told = dict(attrs)
        self.addresses += [told[name] or "" for name in ("src", "href", "action") if name in told]
        self._of = told.get("id") if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._of is not None:
            self.texts[self._of] = self.texts.get(self._of, "") + data
        else:
            self.shown.append(data)


def parsed(text: str) -> Scripts:
    """Return what a page holds."""
    parser = Scripts()
    parser.feed(text)
    return parser


def numbers_in(text: str) -> dict[str, Any]:
    """Return the numbers that a page's script is given."""
    found: dict[str, Any] = json.loads(parsed(text).texts["numbers"])
    return found


def numbers_of(file: Path) -> ReportNumbers:
    """Return the numbers in a page, as the contract has them."""
    return ReportNumbers.model_validate(numbers_in(file.read_text(encoding="utf-8")))
