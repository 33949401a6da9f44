"""Seeds derived from a run's one seed, the same on every machine and in every process."""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all of `parts` and on nothing else.

    Every random choice of a run draws from a generator seeded by `derive(purpose, seed, …)`, so that a choice is a
    pure function of its name and place (an epoch, a trial, an iteration) and a resumed run needs no generator state.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
