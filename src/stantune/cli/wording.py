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
# What follows the option, where that is not a space.
_JOINED = {"rates": "--accelerate stan:"}


def worded(sentence: str) -> str:
    """Return a sentence with the names of options in place of those of parameters in backticks."""

    def option(found: re.Match[str]) -> str:
        name, given = found[1], found[2]
        if given and name in _JOINED:
            return _JOINED[name]
        return _OPTIONS.get(name, f"--{name.replace('_', '-')}") + (" " if given else "")

    return re.sub(r"`([a-z_]+)`(=?)", option, sentence)
