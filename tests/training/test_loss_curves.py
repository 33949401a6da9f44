"""A problem's training tells the loss of each iteration, however it is cut."""

from __future__ import annotations

import torch

from stantune.training import checkpoint


def test_each_iteration_has_a_loss(quick, tmp_path):
    def trained(name, *stops):
        start = 0
        for stop in stops:
            outcome = quick(tmp_path / name, start, stop)
            start = stop
        return outcome.losses

    whole = trained("whole.pt", 300)
    assert (whole.end, whole.every, len(whole.means)) == (300, 4, 75)
    assert whole.means[-1] < whole.means[0]
    assert trained("cut.pt", 1, 130, 131, 300) == whole


def test_a_diverged_training_has_those_before(quick, tmp_path):
    outcome = quick(tmp_path / "trial.pt", 0, 300, stan=None, evaluate=("validation",))
    assert outcome.losses.end == outcome.iterations == 300


def test_a_checkpoint_of_before_has_none(quick, tmp_path):
    path = tmp_path / "trial.pt"
    quick(path, 0, 5)
    saved = torch.load(path, weights_only=True)
    del saved["state"]["losses"]
    checkpoint.save(path, saved["identity"], saved["state"])
    assert [at for at, _ in quick(path, 5, 8).losses.points] == [6, 7, 8]
