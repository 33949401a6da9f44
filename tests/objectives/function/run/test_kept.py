"""What is kept of a function's Run: its folder, its files and its checkpoint, and which checkpoints are refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from counting import keeping

from stantune.errors import AheadCheckpointError, CheckpointError, DamagedCheckpointError, StantuneError, UsageError
from stantune.objectives.function import course
from stantune.protocols import Metric

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_is_kept_without_a_name_is_told_in_a_sentence(trained):
    def swallows(run):
        try:
            run.keep(torch.nn.Linear(1, 1))
        except Exception:
            return 1.0

    for function in (swallows, lambda run: run.keep([0.0], count=[0])):
        with pytest.raises(
            UsageError, match=r"^run\.keep was given a (Linear|list) without a name, .* name each thing"
        ):
            trained(function)


def test_its_folder_is_made_when_it_is_used_and_stays(trained):
    trained(lambda run: 1.0, 0, 1)
    assert not (trained.where / "trial-000000").exists()

    def train(run):
        (run.directory / "log").write_text("one line")
        return 1.0

    trained(train, 0, 1)
    trained(train, 1, 2)
    trained(train, 0, 2, final=True)
    assert (trained.where / "trial-000000" / "log").read_text() == "one line"
    assert (trained.where / "final" / "log").exists()


def test_files_are_kept_in_the_one_checkpoint(trained):
    def train(run):
        where = run.checkpoint_dir
        state = where / "deep" / "state.txt"
        lines = state.read_text().splitlines() if state.exists() else []
        state.parent.mkdir(exist_ok=True)
        for step in run.steps():
            lines.append(f"{step} {random.random()}")
            state.write_text("\n".join(lines))
            (where / f"of-{step}.bin").write_bytes(bytes([step]) * step)
            (where / f"of-{step - 1}.bin").unlink(missing_ok=True)
        assert sorted(path.name for path in where.iterdir()) == ["deep", f"of-{run.stop - 1}.bin"]
        return {"loss": len(lines), "hash": hash(tuple(lines)) % 1000}

    whole = trained(train, 0, 4)
    assert whole.metrics["loss"] == 4
    assert list(trained.where.iterdir()) == [trained.checkpoint]
    trained.checkpoint.unlink()
    # What a killed process has left there is nobody's.
    left = trained.where / "trial-000000.checkpoint" / "deep"
    left.mkdir(parents=True)
    (left / "state.txt").write_text("9 9\n9 9")
    trained(train, 0, 1)
    trained(train, 1, 4, stop_early=lambda: len(trained.watched) == 7)
    assert trained(train, 1, 4) == whole


def test_a_folder_that_the_function_deletes_is_empty(trained):
    def train(run):
        state = run.checkpoint_dir / "state"
        assert not state.exists()
        for step in run.steps():
            state.write_text(str(step))
        shutil.rmtree(run.checkpoint_dir)
        return 1.0

    assert trained(train, 0, 2).iterations == 2

    def first(run):
        shutil.rmtree(run.checkpoint_dir)
        return float(len(list(run.steps())))

    trained.checkpoint.unlink()
    assert trained(first, 0, 2).metrics == {"loss": 2.0}
    assert trained(first, 2, 3).metrics == {"loss": 1.0}


def test_files_of_a_function_without_steps_are_kept_when_it_returns(trained):
    def train(run):
        state = run.checkpoint_dir / "done"
        done = int(state.read_text()) if state.exists() else 0
        assert done == run.start
        state.write_text(str(run.stop))
        return {"loss": done}

    assert trained(train, 0, 2).metrics == {"loss": 0}
    assert trained(train, 2, 6).metrics == {"loss": 2}


def test_a_damaged_checkpoint_is_known(trained):
    trained(keeping, 0, 2)
    trained.checkpoint.write_bytes(trained.checkpoint.read_bytes()[:-100])
    with pytest.raises(DamagedCheckpointError):
        trained(keeping, 2, 4)


@pytest.mark.parametrize(
    "other", [{"seed": 6}, {"params": {"x": 0.25}}, {"unit": "iteration"}, {"metric": Metric("loss", "maximize")}]
)
def test_another_trials_checkpoint_is_refused(trained, other):
    trained(keeping, 0, 2)
    with pytest.raises(CheckpointError, match="is another trial's or another version's"):
        trained(keeping, 2, 4, **other)


def test_a_checkpoint_that_is_too_far_is_refused(trained):
    trained(keeping, 0, 4)
    with pytest.raises(AheadCheckpointError, match="is at 4, beyond 2, where the segment ends; delete it to"):
        trained(keeping, 0, 2)


def test_a_function_that_takes_nothing_of_what_was_kept_is_refused(trained):
    trained(keeping, 0, 2)
    with pytest.raises(CheckpointError, match=r"holds count, and here nobody has called run.keep for that"):
        trained(lambda run: sum(range(run.start, run.stop)), 2, 4)


def test_changed_code_may_go_on_where_the_search_lets_it(trained):
    def keeping_more(run):
        return {**keeping(run), "more": 1.0}

    trained(keeping, 0, 2)
    assert trained(keeping_more, 2, 4).metrics == {"loss": 4.0, "more": 1.0}


def test_a_checkpoint_that_cannot_be_written_ends_the_search_even_where_the_function_does_not_care(trained):
    def train(run):
        kept = [0]
        run.keep(kept=kept)
        try:
            for _ in run.steps():
                pass
        except Exception:
            pass
        return 1.0

    trained.where.joinpath("trial-000000.pt").mkdir()
    (trained.where / "trial-000000.pt" / "x").touch()
    with pytest.raises(StantuneError):
        trained(train)


def test_it_saves_once_a_minute(trained, monkeypatch):
    saves = []
    save = course.Keeper.save
    monkeypatch.setattr(course.Keeper, "save", lambda *args: (saves.append(args[0].done), save(*args)))
    trained(keeping, 0, 9)
    assert saves == [9]
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.0)
    trained.checkpoint.unlink()
    trained(keeping, 0, 4)
    assert saves == [9, 1, 2, 3, 4]


def test_it_leaves_nothing_of_its_paths_behind(trained, tmp_path: Path):
    trained(keeping, 0, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["trial-000000.pt"]
