"""Where STAN changes nothing is said before the first training, to those who asked for something to be spared."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from corners import CLASSES, CORNERS
from torch import nn

from stantune import Stan
from stantune.errors import NoEffectWarning
from stantune.images.no_effect import of_no_effect, said_already
from stantune.stan.layers.meprop import MeProp
from stantune.stan.surgery import accelerate_


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


WITHOUT = replace(CORNERS, name="without convolutions", network=perceptron)


@pytest.mark.parametrize("rate", [0.5, 0.25, "auto", "annealed"])
def test_it_is_said_where_something_was_to_be_spared(rate):
    iterations = 27 if rate == "annealed" else None
    (sentence,) = of_no_effect(WITHOUT, Stan(rate=rate, iterations=iterations))
    assert sentence.startswith("note: STAN changes nothing in this model")


def test_nobody_is_told_who_asked_for_nothing():
    assert of_no_effect(WITHOUT, Stan(rate=1)) == []


def test_meprop_that_keeps_all_is_said():
    """Such a training is one with native kernels alone, by another name."""
    (sentence,) = of_no_effect(CORNERS, Stan(rate=1, meprop=MeProp(CLASSES)))
    assert sentence.startswith("note: meProp changes nothing in this model (")
    assert f"top_k={CLASSES} of meProp keeps all of its {CLASSES} components" in sentence
    assert of_no_effect(CORNERS, Stan(rate=1, meprop=MeProp(CLASSES - 1))) == []
    assert of_no_effect(CORNERS, Stan(rate=1, meprop=MeProp(0))) == []


@pytest.mark.parametrize("rate", [0.5, "auto", 1])
def test_nothing_is_said_where_something_is_spared(rate):
    assert of_no_effect(CORNERS, Stan(rate=rate)) == []


def test_what_other_threads_warn_of_is_left_alone():
    """To catch a warning changes the filters of all threads, for ever where theirs overlaps."""

    def network() -> nn.Module:
        assert warnings.filters is filters
        return perceptron()

    filters = warnings.filters
    assert len(of_no_effect(replace(WITHOUT, network=network), Stan())) == 1


def test_trainings_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with said_already():
            accelerate_(perceptron(), Stan())
        with pytest.raises(NoEffectWarning):
            accelerate_(perceptron(), Stan())
