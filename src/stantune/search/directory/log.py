"""The log file of a search: what it says, with times and levels, in its directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from stantune.errors import words_of
from stantune.texts import one_line

# A file of that size is set aside, and so many are kept; a line for each minute fills one in a month.
FILE_BYTES = 4_000_000
FILES_ASIDE = 3


class _Handler(RotatingFileHandler):
    """Writes to the file; where that cannot be, the search goes on without."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's own name)
        """See logging.Handler."""


@contextmanager
def logging_to(file: Path) -> Iterator[logging.Logger]:
    """Give a logger that writes to a file, behind what is in it, and nowhere else; what is raised is logged, too."""
    handler = _Handler(
        file, maxBytes=FILE_BYTES, backupCount=FILES_ASIDE, encoding="utf-8", delay=True, errors="backslashreplace"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    # Not one that the program's own settings of logging know.
    logger = logging.Logger("stantune.search", logging.INFO)
    logger.addHandler(handler)
    try:
        yield logger
    except BaseException as error:
        logger.error(one_line(f"ended: {words_of(error)}"))
        raise
    finally:
        handler.close()
