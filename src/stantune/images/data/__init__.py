"""Data: built-in sets, fetched and checked, or the user's own; held in memory and gathered into batches."""

from __future__ import annotations

from stantune.images.data.batches import Augment, Batch, Batches, in_order
from stantune.images.data.datasets import load
from stantune.images.data.fetching.catalog import NAMES, data_root, is_present
from stantune.images.data.fetching.fetch import fetch
from stantune.images.data.holding_out import hold_out
from stantune.images.data.normalising import Normalise, Normaliser
from stantune.images.data.reading.folders import ImageFolder
from stantune.images.data.reading.torch_data import from_torch
from stantune.images.data.splits import Dataset, Split

__all__ = [
    "NAMES",
    "Augment",
    "Batch",
    "Batches",
    "Dataset",
    "ImageFolder",
    "Normalise",
    "Normaliser",
    "Split",
    "data_root",
    "fetch",
    "from_torch",
    "hold_out",
    "in_order",
    "is_present",
    "load",
]
