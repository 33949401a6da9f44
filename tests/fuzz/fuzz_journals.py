"""Lines of a search's journal: one is changed, doubled, moved or left out, and the same search goes on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from finished import FinishedSearch
from fuzz import Make
from fuzz_cells import changed_json


def prepare(place: Path) -> Make:
    """Have lines changed of a copy of a whole search's journal in `place`."""
    search = FinishedSearch(place, "journal:///{file}")

    def make(rng: random.Random) -> tuple[str, Callable[[], str]]:
        file = search.fresh()
        lines = file.read_bytes().split(b"\n")
        at, way = rng.randrange(len(lines)), rng.randrange(8)
        what = f"line {at}: {lines[at]!r}"
        if way < 4 and lines[at]:
            lines[at] = json.dumps(changed_json(json.loads(lines[at]), rng)).encode()
            what += f" -> {lines[at]!r}"
        elif way == 4:
            what += f" doubled at {(there := rng.randrange(len(lines)))}"
            lines.insert(there, lines[at])
        elif way == 5:
            what += " gone"
            del lines[at]
        elif way == 6:
            what += f" and all behind it cut off after {(most := rng.randrange(len(lines[at]) + 1))}"
            lines[at:] = [lines[at][:most]]
        else:
            there = rng.randrange(len(lines[at]) + 1)
            noise = rng.choice(
                (b"\0", b"\xff", b"\xed\xa0\x80", b"{", b'"', b"9" * 5000, b"[" * 10000, rng.randbytes(5))
            )
            what += f" with {noise[:20]!r} at {there}"
            lines[at] = lines[at][:there] + noise + lines[at][there + rng.randrange(3) :]
        file.write_bytes(b"\n".join(lines))
        # What a line says may be legal, and to leave one out that began a trial is to have trained less.
        return what, lambda: search.use(legal=True)

    return make
