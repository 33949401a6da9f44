"""The command's standard streams: a lost terminal or pipe ends nothing, and `--json -` has standard output alone."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from stantune.errors import StantuneError

# What comes of a terminal that was closed, and of a pipe that nobody reads any more.
_GONE = (errno.EIO, errno.EPIPE)
_reserved: dict[str, TextIO] = {}


class _Lasting(io.FileIO):
    """A stream's descriptor to which writing never fails: a search outlives whoever was listening.

    Attributes:
        fault: why something was not written although somebody listens, a full disk say; None where all was.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.fault: str | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _GONE:
                # For good, and so that native code and other programs do not fail at it either.
                _point(self.fileno(), os.devnull)
            else:
                self.fault = error.strerror
            return memoryview(data).nbytes


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Run a command whose streams may be lost; what cannot be shown, a lone surrogate say, is shown escaped.

    Where a caller has put other streams in their place, these are as they were afterwards. The process's own are the
    command's to the end of the process: what is printed at exit is no result either.

    Raises StantuneError in the end where standard output was not written whole, on a full disk say.
    """
    before = sys.stdout, sys.stderr
    lasting: list[_Lasting] = []
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            # Or the next file that is opened, a trial table say, would take what native code prints.
            _point(number, os.devnull)
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = _Lasting(number)
            lasting.append(raw)
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    io.BufferedWriter(raw),
                    encoding=stream.encoding,
                    errors="backslashreplace",
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                ),
            )
    try:
        yield
    except SystemExit as end:
        if not end.code:
            _check_whole(lasting)
        raise
    finally:
        _reserved.clear()
        if not lasting:
            sys.stdout, sys.stderr = before


def reserve_stdout() -> None:
    """Keep standard output for `print_result`: whatever else is printed there from now on goes to standard error.

    That is what the user's network and file print, in Python or natively.
    """
    if "stdout" in _reserved:
        return
    if isinstance(getattr(getattr(sys.stdout, "buffer", None), "raw", None), _Lasting):
        sys.stdout.flush()
        _reserved["stdout"] = open(os.dup(1), "w", encoding="utf-8", newline="\n")  # noqa: SIM115  (to the end)
        os.dup2(2, 1)
    else:
        _reserved["stdout"] = sys.stdout
    sys.stdout = sys.stderr


def print_result(text: str) -> None:
    """Print to what `reserve_stdout` has kept; raises OSError where that cannot be."""
    stream = _reserved["stdout"]
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # Or the interpreter would try once more at its end, and say so.
        with contextlib.suppress(OSError):
            stream.close()
        raise


def _check_whole(lasting: Sequence[_Lasting]) -> None:
    if lasting and sys.stdout is not None:
        sys.stdout.flush()
        if lasting[0].fault is not None:
            raise StantuneError(f"standard output cannot be written ({lasting[0].fault}); send it somewhere else")


def _point(number: int, path: str) -> None:
    """Make a descriptor one of the file at `path`."""
    other = os.open(path, os.O_WRONLY)
    if other == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(other, number)
        os.close(other)
