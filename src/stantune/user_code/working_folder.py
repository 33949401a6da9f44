"""The working folder, put back after code of the user's: relative paths mean the same throughout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def kept_folder() -> Iterator[None]:
    """Put the working folder back in the end; one that is gone is left alone."""
    try:
        folder = os.getcwd()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.chdir(folder)
