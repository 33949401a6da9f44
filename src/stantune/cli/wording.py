"""Errors name parameters, `max_resource`; on the command line they are options, --max-iterations."""

from __future__ import annotations

import re

# Those whose option is not the name with dashes.
_OPTIONS = {
    "max_resource": "--max-iterations",
    "min_resource": "--min-iterations",
    "final_resource": "--final-iterations",
    "fixed": "--set",
    "loggers": "--log",
    "stan": "--accelerate",
}
# Values that are words on the command line.
_VALUES = {"None": "none"}
# What follows the option, where that is not a space.
_JOINED = {"rates": "--accelerate stan:"}


def worded(sentence: str) -> str:
    """Return a sentence with the names of options in place of those of parameters in backticks."""

    def option(found: re.Match[str]) -> str:
        name, given, value = found.groups()
        if given and name in _JOINED:
            return _JOINED[name]
        return _OPTIONS.get(name, f"--{name.replace('_', '-')}") + (" " if given else "") + _VALUES.get(value, "")

    return re.sub(rf"`([a-z_]+)`(?:(=)({'|'.join(_VALUES)})?)?", option, sentence)
