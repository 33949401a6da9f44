"""What is given beside module and data: callbacks and the Trainer's settings, looked at before they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.objectives.lightning.fit import RESERVED


def callbacks_of(given: Any) -> Sequence[Any]:
    """Return callbacks as several, also where one is given, or None, as to Lightning's Trainer; raises UsageError."""
    several = given if isinstance(given, Sequence) else () if given is None else [given]
    for each in several:
        if isinstance(each, type) or not is_callback(each):
            raise UsageError(
                f"`callbacks` has {shown(each)}, which is no callback of Lightning's; give one, such as EarlyStopping()"
            )
    return several


def is_callback(thing: Any) -> bool:
    """Tell whether something is a callback, or the class of one."""
    # Lightning, of which there are two packages, is not imported before it is needed.
    return hasattr(thing, "on_train_batch_end")


def check_settings(settings: Any) -> None:
    """Raise UsageError where these are no settings of the Trainer's, or some that belong to the search."""
    if not isinstance(settings, Mapping):
        raise UsageError(f"`trainer_settings` is {shown(settings)}, and no dict of settings; give one")
    for name, why in RESERVED.items():
        if name in settings:
            raise UsageError(f"`trainer_settings` has {name}={settings[name]!r}, which is not theirs to say: {why}")
