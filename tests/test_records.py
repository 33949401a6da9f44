"""Records: what was saved comes back, and nothing else is taken for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from pydantic import TypeAdapter

from stantune.compare.records import Records
from stantune.errors import StantuneError, UsageError
from stantune.stan.config import LayerPlan, Memo, Stan
from stantune.stan.layers.meprop import MeProp

KIND = TypeAdapter(dict[str, float])
IDENTITY = {"problem": "tiny", "rates": (0.5, 0.25), "stan": {"a": {"period": 9}}}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    content = {"seconds": 0.1 + 0.2, "error": 1 / 3}
    with Records(tmp_path / "made" / "here", IDENTITY).locked():
        Records(tmp_path / "made" / "here", IDENTITY).save("seed-0", content, KIND)
    records = Records(tmp_path / "made" / "here", IDENTITY)
    assert records.load("seed-0", KIND) == content, "to the last bit"
    assert records.load("seed-1", KIND) is None
    assert {file.name for file in (tmp_path / "made" / "here").iterdir()} - {".lock"} == {"seed-0.json"}


@dataclass(frozen=True)
class Held:
    stan: Stan


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    kind = TypeAdapter(Held)
    memo, meprop = Memo(samples=9, epoch=3, budget=2**40), MeProp(top_k=8, unified=True)
    for stan in (
        Stan(),
        Stan(rate=0.25, period=None, layers=("conv1", "b.*"), meprop=meprop),
        Stan(tail=3, iterations=9, seed=2**62, memo=memo, linear=("fc*",)),
        Stan(tolerance=0.3, plan=(LayerPlan("conv1", ("rows", "blocks")), LayerPlan("conv2", ()))),
    ):
        records = Records(tmp_path, {})
        records.save("plan", Held(stan), kind)
        assert records.load("plan", kind) == Held(stan)


def test_nothing_is_kept_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = Records(None, IDENTITY)
    with records.locked():
        records.save("seed-0", {"x": 1.0}, KIND)
        assert records.load("seed-0", KIND) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ({**IDENTITY, "problem": "cq"}, "problem is tiny there and cq here"),
        ({**IDENTITY, "rates": (0.5,)}, "rates is [0.5, 0.25] there and [0.5] here"),
        ({**IDENTITY, "stan": {"a": {"period": 4}}}, "stan.a.period is 9 there and 4 here"),
        ({**IDENTITY, "seed": 0}, "(seed is here alone)"),
        ({"problem": "tiny", "rates": (0.5, 0.25)}, "(stan is there alone)"),
        ({**IDENTITY, "se\x7fed": {"\n": 1}}, "(se\\x7fed is here alone)"),
        ({**IDENTITY, "stan": {"a": {}, "b": {}}}, "(stan.a.period is there alone, stan.b is here alone)"),
        ({str(number): number for number in range(9)}, "(0 is here alone, 1 is here alone, 2 is here alone)"),
    ],
)
def test_another_commands_record_is_refused(tmp_path: Path, identity: dict[str, Any], said: str) -> None:
    Records(tmp_path, IDENTITY).save("seed-0", {}, KIND)
    with pytest.raises(UsageError, match="another directory with --out") as caught:
        Records(tmp_path, identity).load("seed-0", KIND)
    assert said in str(caught.value)
    assert "seed-0.json" in str(caught.value)


def test_another_versions_record_is_refused(tmp_path: Path) -> None:
    records = Records(tmp_path, IDENTITY)
    records.save("x", {}, KIND)
    file = tmp_path / "x.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 0}))
    with pytest.raises(UsageError, match="of another version"):
        records.load("x", KIND)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1, "content": {}}',
        "\x00",
        '{"version": 1, "identity": {}, "content": {"x": "slow"}}',
        '{"version": 1, "identity": {}, "content": null}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_a_damaged_record_is_no_other_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "seed-0.json").write_text(text)
    with pytest.raises(StantuneError, match=r"seed-0\.json is damaged; delete it"):
        Records(tmp_path, {}).load("seed-0", KIND)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(StantuneError, match="another command is at work"),
        Records(tmp_path, {}).locked(),
    ):
        raise AssertionError
    (tmp_path / ".seed-0.json.0123.part").write_text("half")
    with Records(tmp_path, {}).locked():
        assert not list(tmp_path.glob("*.part"))


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StantuneError, match="choose another with --out"), Records(tmp_path / "file", {}).locked():
        raise AssertionError
    (tmp_path / "x.json").mkdir()
    with pytest.raises(StantuneError, match=r"x\.json cannot be read"):
        Records(tmp_path, {}).load("x", KIND)
    with pytest.raises(StantuneError, match=r"y\.json cannot be written"):
        Records(tmp_path / "missing", {}).save("y", {}, KIND)


def test_what_differs_is_named_at_no_length(tmp_path: Path) -> None:
    Records(tmp_path, {"problem": "9" * 10_000, "x\ny": 1}).save("x", {}, KIND)
    with pytest.raises(UsageError, match="was written by another command") as refused:
        Records(tmp_path, {"problem": "a"}).load("x", KIND)
    assert len(str(refused.value)) < 1000
