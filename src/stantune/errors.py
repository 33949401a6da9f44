"""The few kinds of error and warning that stantune raises; each carries one sentence for the user."""

from __future__ import annotations


class StantuneError(Exception):
    """Something failed; the message is one sentence that names the value, the place and the remedy.

    `exit_code` is what the command line ends with: 1 for a failure, 2 for bad use.
    """

    exit_code = 1


class UsageError(StantuneError, ValueError):
    """What was asked for cannot be done as asked: an unknown name, a value outside its range."""

    exit_code = 2


class DataError(StantuneError):
    """A data file is missing, cut short or altered, or could not be fetched."""


class CheckpointError(StantuneError):
    """A checkpoint cannot be read, or belongs to another trial."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is cut short or altered; what it held can only be trained again."""


class ForeignCheckpointError(CheckpointError):
    """A checkpoint is another trial's, another setting's or another version's."""


class AheadCheckpointError(DamagedCheckpointError, UsageError):
    """A checkpoint is further than what is to be trained: bad use by hand.

    In a search it is of no use, as a damaged one is: the trial table has lost what came last, and says what is trained.
    """


class StoreError(StantuneError):
    """The trial table cannot be reached, is locked, or is another search's."""


class StanWarning(UserWarning):
    """Training goes on, but not as the user may think: `step()` is not called, an output is not finite."""


class NoEffectWarning(StanWarning):
    """Nothing was changed: the request was sound but there was nothing that it applies to."""


def words_of(error: BaseException) -> str:
    """Return kind and words of any error, also of one whose own method fails to tell them."""
    try:
        said = str(error).strip()
    except Exception:
        said = "it cannot say what it is"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
