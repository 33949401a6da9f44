"""The loggers that are known by a name, and what a user gives for one."""

from __future__ import annotations

from pathlib import Path

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.search.table.storages.masking import without_secrets
from stantune.search.telling.loggers import Logger
from stantune.texts import brief

NAMES = ("csv", "tensorboard", "mlflow", "wandb")


def loggers_of(given: object) -> list[Logger]:
    """Return the loggers that are given; raises UsageError and StantuneError, see `logger_of`."""
    if not isinstance(given, list | tuple):
        raise UsageError(f"`loggers`={shown(given)} is no list; give one of Loggers, or of names: {_names()}")
    found = [logger_of(one) for one in given]
    for number, logger in enumerate(found):
        if any(logger.name == other.name for other in found[:number]):
            raise UsageError(f"`loggers` has {brief(logger.name)} twice; leave one of them out")
    return found


def logger_of(given: object) -> Logger:
    """Return the logger that is given: one, or the name of one, with where it writes behind =, as in "csv=log.csv".

    Raises:
        UsageError: it is none.
        StantuneError: what it needs is not installed.
    """
    if not isinstance(given, str):
        if isinstance(given, type) or not isinstance(given, Logger):
            raise UsageError(f"`loggers` has {shown(given)}, which is no Logger; give one, or {_names()}")
        if not isinstance(given.name, str) or not given.name:
            raise UsageError(
                f"`loggers` has a {type(given).__name__} whose name is {shown(given.name)}; give it a text, by which a "
                "search knows it again"
            )
        return given
    name, equals, place = given.partition("=")
    if name not in NAMES or (equals and not place):
        raise UsageError(
            f"`loggers` has {brief(without_secrets(given))!r}; give {_names()}, and where it writes behind =, as in "
            "csv=log.csv"
        )
    if name == "csv":
        from stantune.integrations.csv_log import CsvLogger

        return CsvLogger(Path(place) if place else None)
    if name == "tensorboard":
        from stantune.integrations.tensorboard_log import TensorBoardLogger

        return TensorBoardLogger(Path(place) if place else None)
    if name == "mlflow":
        from stantune.integrations.mlflow_log import MlflowLogger

        return MlflowLogger(place or None)
    from stantune.integrations.wandb_log import WandbLogger

    return WandbLogger(place or None)


def _names() -> str:
    return f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
