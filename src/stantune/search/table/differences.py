"""How a search differs from that which its study was begun by, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stantune.errors import UsageError
from stantune.texts import brief

_NOT_LONGER = (
    "; a longer search can go on from its table where only `brackets` is more and the sampler is random, and begin "
    "with its best settings in another place with `start_from`"
)
_CHANGED = (
    "; what was trained so far was by other code: undo the change, or say with `accept_changes` that the results may "
    "be compared"
)
_UNNOTED = (
    "; where an earlier version began it, which did not note what PyTorch is set to, say with `accept_changes` that "
    "the results may be compared"
)


def differences_between(there: Any, here: Any, name: str = "") -> list[str]:
    """Name what differs between two plain values, by dotted names where they are nested."""
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            difference
            for key in sorted({*there, *here})
            for difference in differences_between(
                there.get(key, "not set"), here.get(key, "not set"), f"{name}.{brief(key)}" if name else brief(key)
            )
        ]
    return [] if there == here else [f"{name}: {brief(there)} there, {brief(here)} here"]


def another_search(study_name: str, where: str, differences: Sequence[str]) -> UsageError:
    """Return what is said of a study that is another search's, and what can be done where only little differs."""
    names = {line.partition(":")[0].partition(".")[0] for line in differences}
    lengths = {"max-iterations", "min-iterations", "brackets"}
    unnoted = any(line.startswith("process: not set there") for line in differences)
    if lengths & names:
        why = _NOT_LONGER
    elif names - {"code", "made-of"} == {"process"} and unnoted:
        why = _UNNOTED
    else:
        why = _CHANGED if names <= {"code", "made-of"} else ""
    return UsageError(
        f"the study {study_name!r} in {where} is that of another search "
        f"({'; '.join(differences)}): give the settings it was begun with, another place, or `fresh`{why}"
    )
