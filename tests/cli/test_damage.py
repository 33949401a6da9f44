"""Failures that are nobody's typing: damaged files, unusable places. One sentence, exit code 1, and a way on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.cli import output
from stantune.search.directory.directory import SearchDirectory

Stantune = Callable[..., Any]
AsWhole = Callable[[dict[str, Any]], None]
CutAt = Callable[[int], tuple[object, ...]]


def sentence(run: Any, code: int = 1) -> str:
    """The one line that the command said as it failed."""
    assert run.code == code, run
    line: str = run.err.splitlines()[-1]
    assert line.startswith("stantune: ")
    assert "Traceback" not in run.err
    assert "unexpectedly" not in line
    return line


@pytest.fixture(scope="module")
def mnist_copy(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with links to MNIST's large files and copies of the small ones."""
    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (data_dir / "MNIST" / "raw").iterdir():
        if "images" in file.name:
            (raw / file.name).symlink_to(file)
        elif "labels" in file.name:
            shutil.copy(file, raw)
    return root


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\0" * 9 + content[9:]])
def test_data_cut_short_or_altered(
    stantune: Stantune, mnist_copy: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    file = next((mnist_copy / "MNIST" / "raw").glob("train-labels*"))
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    for command in (("train", "lenet", "--iterations", 1), ("search", "lenet", "--quick", "--out", tmp_path / "out")):
        run = stantune(*command, "--threads", 1, "--data", mnist_copy)
        said = sentence(run)
        assert len(run.err.splitlines()) == 1
        assert str(file) in said
        assert f"stantune data fetch mnist --data {mnist_copy}" in said
    file.write_bytes(sound)


@pytest.mark.parametrize("below", [True, False])
def test_directory_not_writable(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path, below: bool) -> None:
    # Tests may run as root, whom no permission keeps out: a file where the directory should be does.
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out" if below else tmp_path / "file"
    said = sentence(stantune("search", *tiny, "--out", out))
    assert str(out) in said
    assert "--out" in said


def test_directory_of_another_problem(
    stantune: Stantune, tiny_file: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    assert stantune("search", f"{tiny_file}:flat", "--out", tmp_path, "--budget", 0, "--threads", 1).code == 0
    said = sentence(stantune("search", *tiny, "--out", tmp_path), code=2)
    assert "problem: flat there, tiny here" in said
    assert "--fresh" in said


def test_directory_with_its_trials_elsewhere(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    here = ("search", *tiny, "--out", tmp_path, "--budget", 0)
    assert stantune(*here, "--storage", url).code == 0
    said = sentence(stantune(*here), code=2)
    assert url in said
    assert "no --storage" in said
    (tmp_path / "search.json").write_text("{")
    assert "search.json" in sentence(stantune(*here))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///{directory}/missing/trials.db", ("missing/trials.db", "directory exists")),
        ("sqlite:///{directory}/text", ("text", "move it away or name another")),
        ("postgresql://me:secret@127.0.0.1:9/trials", ("postgresql://me:***@127.0.0.1:9/trials",)),
        ("oracel://127.0.0.1/trials", ("oracel", "leave --storage away")),
    ],
)
def test_storage_that_does_not_answer(
    stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path, url: str, said: tuple[str, ...]
) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    run = stantune("search", *tiny, "--out", tmp_path / "out", "--storage", url.format(directory=tmp_path))
    line = sentence(run)
    for words in said:
        assert words in line
    assert "secret" not in run.err + run.out
    # The directory is not bound to a storage that never was.
    assert stantune("search", *tiny, "--out", tmp_path / "out", "--budget", 0).code == 0


def test_trial_table_damaged(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    here = ("search", *tiny, "--out", tmp_path)
    assert stantune(*here, "--budget", 0).code == 0
    (tmp_path / "search.db").write_bytes(b"SQLite format 3\0" + b"?" * 5000)
    for name in ("search.db-wal", "search.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    assert "search.db" in sentence(stantune(*here))
    assert stantune(*here, "--fresh", "--yes", "--budget", 0).code == 0


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _swap(file: Path) -> None:
    other = next(other for other in sorted(file.parent.glob("*.pt")) if other != file)
    shutil.copy(other, file)


@pytest.mark.parametrize("damage", [_cut, _flip, _empty])
def test_checkpoint_damaged(
    stantune: Stantune, cut_at: CutAt, as_whole: AsWhole, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    # In the middle of the first promoted trial's second segment: 9 trials of 6 iterations, then 14 each.
    here = cut_at(60)
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    assert len(checkpoints) == 3
    damage(checkpoints[0])

    ended = stantune(*here, "--json", "-")
    assert ended.code == 0
    assert "failed (its checkpoint was cut short or altered): tried again" in ended.err
    assert ended.json["counts"]["retries"] == 1
    counts = {**ended.json["counts"], "retries": 0}
    as_whole({**ended.json, "counts": counts})


def test_checkpoint_of_another_trial(stantune: Stantune, cut_at: CutAt, as_whole: AsWhole, tmp_path: Path) -> None:
    # It is sound, and somebody's doing: nothing is deleted that may be needed.
    here = cut_at(60)
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    before = {file: file.read_bytes() for file in checkpoints}
    _swap(checkpoints[0])
    said = sentence(stantune(*here))
    assert str(checkpoints[0]) in said
    assert "delete it" in said
    assert all(file.read_bytes() == before[file] for file in checkpoints[1:])

    checkpoints[0].unlink()
    ended = stantune(*here, "--json", "-")
    assert ended.code == 0
    as_whole(ended.json)


def test_final_checkpoint_damaged(
    whole: Any, stantune: Stantune, cut_at: CutAt, as_whole: AsWhole, tmp_path: Path
) -> None:
    here = cut_at(whole.run.json["iterations_trained"] + 30)
    _cut(tmp_path / "final.pt")
    ended = stantune(*here, "--json", "-")
    assert ended.code == 0
    assert "the final training of trial 15 failed (its checkpoint was cut short or altered): tried again" in ended.err
    as_whole(ended.json)


def test_two_searches_on_one_directory(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    here = ("search", *tiny, "--out", tmp_path, "--budget", 0)
    with SearchDirectory(tmp_path).locked():
        for command in (here, (*here, "--fresh", "--yes")):
            said = sentence(stantune(*command))
            assert str(tmp_path) in said
            assert "--out" in said
    assert stantune(*here).code == 0


def test_training_checkpoint_of_another_setting(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    here = ("train", f"{tiny_file}:problem", "--threads", 1, "--checkpoint", tmp_path / "x.pt", "--iterations", 3)
    assert stantune(*here).code == 0
    assert "x.pt" in sentence(stantune(*here, "--seed", 1))
    sentence(stantune(*here, "--iterations", 2), code=2)
    _cut(tmp_path / "x.pt")
    assert "delete it" in sentence(stantune(*here))


def test_json_that_cannot_be_written_in_the_end(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "write_whole", full)
    target = tmp_path / "result.json"
    said = sentence(stantune("train", f"{tiny_file}:flat", "--threads", 1, "--json", target))
    assert str(target) in said
    assert "No space left" in said
