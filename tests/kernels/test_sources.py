"""The native sources: what holds for all of native/, and no compiler says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "native"


def test_no_two_headers_define_types_of_one_name() -> None:
    # The linker keeps one of two member functions that have one name, and gives it both types.
    headers = "\n".join(path.read_text(encoding="utf-8") for path in sorted(NATIVE.glob("*.hpp")))
    # Elsewhere, types are in unnamed namespaces; forms of a type for different processors stand in one header.
    names = Counter(re.findall(r"^(?:struct|class)\s+(\w+)(?:\s+final)?\s*(?::[^;{]*)?\{", headers, re.MULTILINE))
    several = {name for name, number in names.items() if number > 1}
    assert len(names) > 10
    assert several == {"NegativeHalf", "NegativeThreeQuarters"}
