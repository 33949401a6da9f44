"""The learning curves of LCBench by YAHPO Gym's surrogate network, for curves.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stantune.parameters import Float, Integer, Parameter
from stantune.search.propose.sampling import sample
from stantune.space import Space

R = 52
# The best of so many settings is what others fall short of.
REFERENCE = 10_000
# Noise is drawn for so many trials of a seed; no search here has more.
MOST = 400
# How the model has them, after the epoch.
INPUTS = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")


class Curves:
    """The surrogate: errors in percent by task, setting and epoch."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._model = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        parts = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        named = {part["name"]: part for part in parts}
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        self.tasks = tuple(named["OpenML_task_id"]["choices"])
        self.space = Space({name: _parameter(named[name]) for name in INPUTS})

    def errors(self, task: str, settings: Sequence[Mapping[str, Any]], epochs: Sequence[int]) -> Any:
        """Return the errors, (settings, epochs)."""
        values = np.array([[float(setting[name]) for name in INPUTS] for setting in settings], np.float32)
        of_epochs = np.repeat(np.array(epochs, np.float32), len(values))[:, None]
        inputs = np.hstack([of_epochs, np.tile(values, (len(epochs), 1))])
        code = np.full((len(inputs), 1), self._codes[task], np.int32)
        # The second output is the validation accuracy.
        (found,) = self._model.run(None, {"x_cat": code, "x_cont": inputs})
        return 100 - found[:, 1].reshape(len(epochs), len(values)).T.astype(float)

    @cache  # noqa: B019 - one of these lives as long as the program
    def drawn(self, seed: int) -> tuple[Mapping[str, Any], ...]:
        """Return what the random sampler proposes."""
        return tuple(sample(self.space, seed, number) for number in range(MOST))

    @lru_cache(8 * MOST)  # noqa: B019
    def of_drawn(self, task: str, seed: int, stops: Sequence[int]) -> list[Any]:
        """Return a list that is filled with the errors of what the random sampler proposes, as they are asked for."""
        return []

    @cache  # noqa: B019
    def best(self, task: str) -> float:
        """Return the least error after all epochs of many settings drawn at random."""
        dice = np.random.default_rng(0)
        columns = [_uniform(parameter, dice.random(REFERENCE)) for parameter in self.space.values()]
        drawn = [dict(zip(INPUTS, row, strict=True)) for row in zip(*columns, strict=True)]
        return float(self.errors(task, drawn, [R]).min())


def _parameter(part: Mapping[str, Any]) -> Parameter:
    kind = Float if part["type"] == "uniform_float" else Integer
    return kind(part["lower"], part["upper"], log=part["log"])


def _uniform(parameter: Parameter, share: Any) -> Any:
    assert isinstance(parameter, Float | Integer)
    if parameter.log:
        values = np.exp(np.log(parameter.low) + share * (np.log(parameter.high) - np.log(parameter.low)))
    else:
        values = parameter.low + share * (parameter.high - parameter.low)
    return np.rint(values) if isinstance(parameter, Integer) else values
