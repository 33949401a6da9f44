"""What all checks need: that Python heeds their assertions."""

from __future__ import annotations

from stantune.errors import UsageError


def require_assertions() -> None:
    """Raise UsageError where Python leaves assertions out, so that whatever is wrong would pass."""
    if not __debug__:
        raise UsageError(
            "Python runs with -O or PYTHONOPTIMIZE, which leaves out the assertions that a check consists of; run it "
            "without"
        )
