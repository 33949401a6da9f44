"""The data sets of the built-in problems: fetched, checked, held as bytes and gathered into batches."""

from __future__ import annotations

from stantune.images.data.batches import Augment, Batch, Batches, Normalise, Normaliser, in_order
from stantune.images.data.catalog import NAMES, data_root, is_present
from stantune.images.data.datasets import Dataset, Split, hold_out, load
from stantune.images.data.fetching import fetch

__all__ = [
    "NAMES",
    "Augment",
    "Batch",
    "Batches",
    "Dataset",
    "Normalise",
    "Normaliser",
    "Split",
    "data_root",
    "fetch",
    "hold_out",
    "in_order",
    "is_present",
    "load",
]
