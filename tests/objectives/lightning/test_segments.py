"""Lightning trains the trials, and whatever cuts them into segments leaves every bit as it was."""

from __future__ import annotations

import importlib
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from lightning_training import (
    SPACE,
    Net,
    check_segments,
    dataset,
    kept,
    loaders,
    module_of,
    objective,
    same_state,
    segment,
)
from segments import trained
from torch.utils.data import DataLoader

from stantune.objectives.lightning import objective as objectives
from stantune.objectives.lightning.objective import LightningObjective
from stantune.protocols import Conditions

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


class TestSegments:
    def test_the_parts_are_the_whole_bit_by_bit(self, tmp_path):
        moved = []
        whole = check_segments(tmp_path, objective())
        assert set(whole.metrics) == {"train_loss", "val_loss", "accuracy"}
        assert (whole.iterations, whole.diverged_at, whole.interrupted) == (6, None, False)
        again = trained(objective(), segment(tmp_path / "other", 0, 6), watch=moved.append)
        assert again == whole
        assert moved == sorted(moved)
        assert (moved[0], moved[-1]) == (0, 6)
        assert again.cost.exact == 6
        assert again.cost.exact_seconds > 0
        assert again.cost.evaluation_seconds > 0
        assert trained(objective(), segment(tmp_path / "third", 0, 6, seed=5)) != whole

    def test_each_single_epoch_may_be_a_fit_of_its_own(self, tmp_path, monkeypatch):
        whole = trained(objective(), segment(tmp_path / "whole", 0, 6))
        monkeypatch.setattr(objectives, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(objectives, "SAVE_SETUPS", 0.0)
        cut = trained(objective(), segment(tmp_path / "cut", 0, 6))
        assert cut == whole
        assert cut.cost.exact == 6
        same_state(tmp_path / "cut/trial-3.pt", tmp_path / "whole/trial-3.pt")

    def test_a_data_module_whose_split_is_drawn(self, tmp_path):
        class Data(LightningDataModule):
            def setup(self, stage):
                self.parts = torch.utils.data.random_split(dataset(90), (60, 30))

            def train_dataloader(self):
                return DataLoader(self.parts[0], batch_size=10, shuffle=True)

            def val_dataloader(self):
                return DataLoader(self.parts[1], batch_size=10, shuffle=True)

        check_segments(tmp_path, objective(data=lambda params: Data()))
        once = Data()
        assert trained(objective(data=lambda params: once), segment(tmp_path / "1", 0, 2)) == trained(
            objective(data=lambda params: once), segment(tmp_path / "2", 0, 2)
        )
        assert "train_dataloader" not in vars(once)

    def test_a_module_with_loaders_of_its_own(self, tmp_path):
        class Own(Net):
            def train_dataloader(self):
                return loaders({})[0]

            def val_dataloader(self):
                return loaders({})[1]

        assert (
            check_segments(tmp_path, objective(Own, None)).metrics
            == trained(objective(), segment(tmp_path / "given", 0, 6)).metrics
        )

    def test_a_loader_with_a_generator_and_processes_that_stay(self, tmp_path):
        def data(params):
            generator = torch.Generator().manual_seed(4)
            return loaders(params, generator=generator, num_workers=2, persistent_workers=True)

        check_segments(tmp_path, objective(data=data), (1, 3))

    def test_several_loaders_and_a_stream_of_unknown_length(self, tmp_path):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                images, labels = dataset()[:]
                for place in torch.randperm(len(labels)):
                    yield images[place], labels[place]

        class Several(Net):
            def training_step(self, batch, batch_idx):
                return super().training_step(batch["one"], batch_idx) + super().training_step(batch["two"], batch_idx)

        def data(params):
            both = {"one": loaders(params)[0], "two": DataLoader(Stream(), batch_size=20)}
            return CombinedLoader(both, "min_size"), loaders(params)[1]

        check_segments(tmp_path, objective(Several, data), (1, 3))
        check_segments(
            tmp_path / "alone",
            objective(data=lambda params: (DataLoader(Stream(), 20), loaders(params)[1]), module=plain),
            (1, 3),
        )

    def test_random_choices_in_hooks_and_in_a_loaders_processes(self, tmp_path):
        class Noisy(torch.utils.data.Dataset):
            def __len__(self):
                return 60

            def __getitem__(self, place):
                image, label = dataset()[place]
                return image + 0.1 * torch.randn(()) + 0.1 * random.random() + 0.1 * np.random.rand(), label

        class Drawing(Net):
            def on_train_epoch_start(self):
                self.noise = random.random() + np.random.rand() + torch.rand(()).item()

            def training_step(self, batch, batch_idx):
                return super().training_step([batch[0].float() + self.noise, batch[1]], batch_idx)

        def data(params):
            return DataLoader(Noisy(), batch_size=10, shuffle=True, num_workers=2), loaders(params)[1]

        check_segments(tmp_path, objective(Drawing), (1, 3))
        check_segments(tmp_path / "workers", objective(Drawing, data), (1, 3))

    def test_a_plateau_schedule_and_accumulated_gradients(self, tmp_path):
        class Plateau(Net):
            def configure_optimizers(self):
                optimizer = torch.optim.Adam(self.parameters(), self.lr)
                schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

        check_segments(tmp_path, objective(Plateau, trainer_settings={"accumulate_grad_batches": 4}), (1, 2, 6))
        rates = [group["lr"] for group in kept(tmp_path / "whole/trial-3.pt")["optimizer_states"][0]["param_groups"]]
        assert rates[0] < 0.01

    def test_a_schedule_sees_the_whole_length(self, tmp_path):
        seen = []

        class Looking(Net):
            def configure_optimizers(self):
                seen.append((self.trainer.max_epochs, self.trainer.estimated_stepping_batches))
                return super().configure_optimizers()

            def on_train_batch_start(self, batch, batch_idx):
                seen.append((self.trainer.max_epochs, 162))

        prepared = LightningObjective(Looking, loaders, SPACE).prepared(Conditions(27)).objective
        trained(prepared, segment(tmp_path, 0, 3))
        assert set(seen) == {(27, 162)}

    def test_validation_that_is_not_due_is_done_in_the_end(self, tmp_path):
        seldom = check_segments(tmp_path, objective(trainer_settings={"check_val_every_n_epoch": 4}), (1, 3))
        often = trained(objective(), segment(tmp_path / "often", 0, 3))
        assert seldom.metrics == often.metrics

    def test_a_segment_that_was_done_is_not_done_again(self, tmp_path):
        what, asked = objective(), segment(tmp_path, 0, 2)
        first = trained(what, asked)
        content = asked.checkpoint.read_bytes()

        def not_again(params: object) -> None:
            raise AssertionError("it makes a module")

        second = trained(objective(module=not_again, name="Net"), asked)
        assert (second, second.cost) == (first, first.cost)
        assert asked.checkpoint.read_bytes() == content

    def test_without_its_checkpoint_it_begins_anew(self, tmp_path):
        assert trained(objective(), segment(tmp_path / "a", 2, 4)) == trained(
            objective(), segment(tmp_path / "b", 0, 4)
        )

    @pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
    def test_either_package(self, tmp_path, package):
        base = importlib.import_module(package).LightningModule
        assert (
            check_segments(tmp_path, objective(module_of(base)), (1, 2)).metrics
            == trained(objective(), segment(tmp_path / "net", 0, 2)).metrics
        )


def plain(params):
    class Plain(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)

    return Plain(params)
