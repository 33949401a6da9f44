"""Reads what torch.save wrote, whoever wrote it: nothing in it is executed, and the reading ends.

Tuples of tuples make 2**40 values of some bytes: it does not end where such a value is hashed, as a key of a dict is,
or gone through.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

# What training saves shares a few values, such as the betas of all parameter groups.
_SHARED = 100
_LEAST = 10**6
# How PyTorch ends an archive: the directory's size and start, in 64 bits; where that is told; and how all archives end.
_END = struct.Struct("<4s36x2Q4s4xQ4x4s18x")
_HASHING = ("SETITEM", "SETITEMS", "ADDITEMS", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID")
_HASHABLE = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "DUP", "REDUCE", "NEWOBJ")


class UnsoundError(ValueError):
    """It is nothing that torch.save wrote of a training's state."""


def read(content: bytes) -> Any:
    """Return what an archive holds, on the CPU.

    Raises:
        UnsoundError: it is no such archive, or stands for far more values than it has bytes.
        Exception: of many kinds, which torch.load lets through.
    """
    _check_form(content)
    # By PyTorch's own reader, whose rules are its own: the name may be in another case.
    program = torch._C.PyTorchFileReader(io.BytesIO(content)).get_record("data.pkl")
    most = _SHARED * len(program) + _LEAST
    _check_program(program, most)
    value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    _check_value(value, most)
    return value


def _check_form(content: bytes) -> None:
    """Raise UnsoundError where torch.load would read something else than zipfile, or unpack what is small in the file.

    It takes what begins otherwise for a format of old, and finds the directory where the end says that it is; zipfile
    takes any beginning, and the directory right before the end.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
        end = len(content) - len(archive.comment) - _END.size
    numbers, size, start, place, found, last = _END.unpack_from(content, max(end, 0))
    whole = content.startswith(b"PK\3\4") and (numbers, place, last) == (b"PK\6\6", b"PK\6\7", b"PK\5\6")
    if packed or not whole or not start + size == found == end:
        raise UnsoundError("it is packed, or no archive as PyTorch writes them")


def _check_program(program: bytes, most: int) -> None:
    """Raise UnsoundError where reading a pickle would make or hash a value of more than so many."""
    stack: list[int | None] = []  # how many values each one is, 1 for what cannot be hashed; None for a mark
    memo: dict[Any, int] = {}
    total = 0
    for opcode, argument, _ in pickletools.genops(program):
        name, before, after = opcode.name, opcode.stack_before, opcode.stack_after
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1] or 1
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
            continue
        size = 1
        if pickletools.markobject in before:
            while (popped := stack.pop()) is not None:
                size += popped
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            size += stack.pop() or 1
        if name in _HASHING:
            total += size
        if max(size, total) > most:
            raise UnsoundError("it stands for far more values than it has bytes")
        for made in after:
            stack.append(None if made is pickletools.markobject else size if name in _HASHABLE else 1)


def _check_value(value: Any, most: int) -> None:
    """Raise UnsoundError where a value is of more than so many, all that is shared counted each time."""
    sizes: dict[int, int] = {}

    def size(one: Any) -> int:
        if isinstance(one, Mapping):
            parts = [*one, *one.values()]
        elif isinstance(one, list | tuple | set):
            parts = list(one)
        else:
            return 1
        if id(one) not in sizes:
            # One that holds itself has no end either.
            sizes[id(one)] = most + 1
            sizes[id(one)] = 1 + sum(map(size, parts))
        if sizes[id(one)] > most:
            raise UnsoundError("it stands for far more values than it has bytes, or holds itself")
        return sizes[id(one)]

    size(value)
