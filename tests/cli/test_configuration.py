"""`stantune search --config`: options in a file, which the command line wins over; `--show-config` prints them."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from stantune.cli import app
from stantune.cli.configuration import Key, keys_of, options_text, read_options

Stantune = Callable[..., Any]
SEARCH: Any = typer.main.get_command(app).commands["search"]  # type: ignore[attr-defined]
KEYS = keys_of(SEARCH)
OPTIONS = {key.parameter: key for key in KEYS.values()}
# A value of each kind that is no option's default.
OTHER: dict[type, Any] = {
    bool: True,
    int: 7,
    float: 0.25,
    str: 'any "text", \\ and é',
    Path: "some/where",
    list: ["a=1", "b='x'"],
}


def written(folder: Path, text: str) -> Path:
    file = folder / "search.toml"
    file.write_text(text)
    return file


def test_a_file_may_say_every_option_but_which_file() -> None:
    parameters = {parameter.name for parameter in SEARCH.params}
    assert set(OPTIONS) == parameters - {"config", "show_config"}
    assert OPTIONS["engine"].name == "executor"
    assert KEYS["max-resource"] is KEYS["max-iterations"]


@pytest.mark.parametrize("name", sorted(key.name for key in OPTIONS.values()))
def test_what_is_shown_gives_the_same_again(name: str, stantune: Stantune, tmp_path: Path) -> None:
    key = KEYS[name]
    value = str(tmp_path / "result.json") if name == "json" else OTHER[key.kind]
    said = f'problem = "{"lenet" if name != "problem" else "cq"}"\n'
    if name != "problem":
        said += options_text({key.parameter: value}, {name: key}, "one option")
    first = stantune("search", "--config", written(tmp_path, said), "--show-config")
    assert (first.code, first.err) == (0, "")
    shown = tomllib.loads(first.out)
    assert shown[name] == ("cq" if name == "problem" else value)
    second = stantune("search", "--config", written(tmp_path, first.out), "--show-config")
    assert second.out == first.out


def test_what_is_typed_is_shown_as_a_file_would_say_it(stantune: Stantune, tmp_path: Path) -> None:
    typed = ("--set", "lr=0.1", "--set", "momentum=0.9", "--quick", "--rate", "0.25", "--data", "d", "--tolerance", "1")
    text = 'problem = "lenet"\nset = ["lr=0.1", "momentum=0.9"]\nquick = true\nrate = 0.25\ndata = "d"\ntolerance = 1'
    by_file = stantune("search", "--config", written(tmp_path, text), "--show-config")
    assert by_file.out == stantune("search", "lenet", *typed, "--show-config").out
    assert 'rate = "0.25"' in by_file.out
    assert "# trials = N\n" in by_file.out


def test_it_is_on_standard_output_also_where_the_result_would_be(stantune: Stantune) -> None:
    shown = stantune("search", "lenet", "--json", "-", "--show-config")
    assert (shown.code, shown.err) == (0, "")
    assert tomllib.loads(shown.out)["json"] == "-"
    assert shown.out.replace('json = "-"', "# json = FILE") == stantune("search", "lenet", "--show-config").out


def test_the_command_line_wins(stantune: Stantune, tmp_path: Path) -> None:
    text = 'problem = "lenet"\nset = ["lr=0.1"]\nquick = true\nseed = 3\neta = 4'
    file = written(tmp_path, text)
    typed = ("lenet", "--set", "momentum=0.9", "--no-quick", "--seed", "0")
    shown = tomllib.loads(stantune("search", *typed, "--config", file, "--show-config").out)
    assert (shown["set"], shown["quick"], shown["seed"], shown["eta"]) == (["momentum=0.9"], False, 0, 4)


def test_each_flag_can_be_taken_back() -> None:
    flags = [parameter for parameter in SEARCH.params if OPTIONS.get(parameter.name, KEYS["seed"]).kind is bool]
    assert {flag.name: flag.secondary_opts for flag in flags} == {
        flag.name: [f"--no-{flag.opts[0][2:]}"] for flag in flags
    }


def test_it_needs_no_pytorch(stantune: Stantune, tmp_path: Path) -> None:
    # Nothing is looked at but the options.
    with mock.patch.dict(sys.modules, {"stantune.tuning.tune": None, "stantune.objectives.choose": None}):
        assert stantune("search", "lenet", "--show-config").code == 0


REFUSED = [
    # what the file says, what is typed, what the sentence must hold
    ("max-iteration = 5", (), ("search.toml says max-iteration = 5", "no such option", "write max-iterations")),
    ("max_iterations = 5", (), ("max_iterations = 5", "write max-iterations")),
    ("[stan]\nrate = 0.5", (), ("says stan = {'rate': 0.5}", "--show-config")),
    ('config = "other.toml"', (), ('config = "other.toml"', "no such option")),
    ("max-iterations = 5\nmax-resource = 6", (), ("max-iterations and max-resource", "one option")),
    ('max-iterations = "600"', (), ('max-iterations = "600"', "whole number, without quotes")),
    ("max-iterations = 60.5", (), ("max-iterations = 60.5", "whole number")),
    ("max-iterations = true", (), ("max-iterations = true", "whole number")),
    (f"seed = 0x{'f' * 5000}", (), ("seed = ", "whole number")),
    (f"seed = {'9' * 5000}", (), ("--config", "is no TOML")),
    ('tolerance = "small"', (), ('tolerance = "small"', "a number, without quotes")),
    ("quick = 1", (), ("quick = 1", "true or false")),
    ("budget = 10:30:00", (), ("budget = datetime.time(10, 30)", "a text in quotes, or a number")),
    ("threads = true", (), ("threads = true", "a text in quotes, or a number")),
    ("data = 5", (), ("data = 5", "a path in quotes")),
    ('set = "lr=0.1"', (), ('set = "lr=0.1"', "a list of texts")),
    ("set = [0.1]", (), ("set = [0.1]", "a list of texts")),
    ("set = {lr = 0.1}", (), ("set = {'lr': 0.1}", "a list of texts")),
    # Values that the command does not take.
    ("lag = 0", (), ("search.toml says lag = 0: ", "1; change it there")),
    ("eta = 1", (), ("--eta 1", "2 or more", "(", "search.toml says eta = 1)")),
    ('sampler = "grid"', (), ("--sampler 'grid'", "random", 'says sampler = "grid")')),
    ("rate = 0.3", (), ("rate=0.3", "says rate = ")),
    ('json = "/no/such/folder/x.json"', (), ("--json", "cannot be written", "says json = ")),
    ('problem = "lenett"', None, ("'lenett'", "did you mean lenet?", 'says problem = "lenett")')),
    ('problem = "cq"', (), ('search.toml says problem = "cq"', "the command lenet", "leave one of them out")),
    (
        'checkpoints = "s3://me:secret@host/db"',
        (),
        ("--checkpoints s3://me:***@host/db ", 'says checkpoints = "s3://me:***@host/db")'),
    ),
    (
        'log = ["csv", "mlflo=http://me:secret@host"]',
        (),
        ("--log has 'mlflo=http://me:***@host'; give csv, ", 'says log = ["csv", "mlflo=http://me:***@host"])'),
    ),
    ('log = {to = "http://me:secret@host"}', (), ("says log = {'to': 'http://me:***@host'}",)),
    (f"a{'.a' * 5000} = 1", (), ("says a = a dict, and there is no such option",)),
    # No such files.
    ("max-iterations = ", (), ("--config", "is no TOML", "Invalid value", "max-iterations = 600")),
    ("seed = 1\nseed = 2", (), ("is no TOML", "overwrite a value")),
    ("a = " + "[" * 5000, (), ("is no TOML",)),
]


@pytest.mark.parametrize(("text", "typed", "holds"), REFUSED, ids=[text[:24] for text, _, _ in REFUSED])
def test_bad_files(
    text: str, typed: tuple[str, ...] | None, holds: tuple[str, ...], stantune: Stantune, tmp_path: Path
) -> None:
    file = written(tmp_path, text)
    problem = () if typed is None else ("lenet",)
    done = stantune("search", *problem, "--config", file, "--out", tmp_path / "out")
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert all(part in done.err for part in holds), done.err
    assert "secret" not in done.err
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_of_the_docs(stantune: Stantune, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    [said] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    done = stantune("search", "--config", written(tmp_path, said), "--show-config")
    assert (done.code, done.err) == (0, "")
    assert tomllib.loads(done.out).items() >= {**tomllib.loads(said), "rate": "0.25"}.items()


def test_files_that_cannot_be_read(stantune: Stantune, tmp_path: Path) -> None:
    missing, folder, odd = tmp_path / "missing.toml", tmp_path, tmp_path / "odd.toml"
    odd.write_bytes(b'out = "\xff"')
    for file, why in ((missing, "No such file"), (folder, "directory"), (odd, "no text in UTF-8")):
        done = stantune("search", "lenet", "--config", file)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"--config {file}" in done.err
        assert why in done.err


def test_the_home_folder_is_that_of_a_shell(
    stantune: Stantune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("data", "out", "start-from", "solver", "json")
    text = "".join(f'{name} = "~/{name}"\n' for name in names) + 'problem = "~/mine.py:NAME"\nlog = ["csv=~/log.csv"]'
    said = tomllib.loads(stantune("search", "--config", written(tmp_path, text), "--show-config").out)
    assert {name: said[name] for name in names} == {name: f"{tmp_path}/{name}" for name in names}
    assert said["problem"] == f"{tmp_path}/mine.py:NAME"
    # Loggers look at theirs themselves.
    assert said["log"] == ["csv=~/log.csv"]


def test_what_is_typed_over_the_file_is_not_said_to_stand_there(stantune: Stantune, tmp_path: Path) -> None:
    done = stantune("search", "lenet", "--config", written(tmp_path, "eta = 4"), "--eta", "1")
    assert "--eta 1" in done.err
    assert "search.toml" not in done.err


def test_lines_of_windows_and_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_bytes(b"\xef\xbb\xbfeta = 4\r\nseed = 1\r\nlayers = []\r\n")
    assert read_options(file, KEYS) == {"eta": 4, "seed": 1}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_comes_back(text: str) -> None:
    key = Key("out", "out", str, "DIR")
    assert tomllib.loads(options_text({"out": text}, {"out": key}, "a text")) == {"out": text}


def test_what_is_no_text_and_what_is_secret_is_left_out() -> None:
    names = {name: KEYS[name] for name in ("out", "storage", "set")}
    values = {"out": "\udcff", "storage": "mysql://me:secret@host/db", "set": []}
    lines = options_text(values, names, "some options", shared=True)
    assert tomllib.loads(lines) == {}
    assert "secret" not in lines
    assert 'storage = "mysql://me:secret@host/db"' in options_text(values, names, "some options")


def test_where_loggers_write_to_is_kept_if_it_is_no_secret() -> None:
    names = {"log": KEYS["log"]}
    values: dict[str, Any] = {"log": ["csv", "mlflow=http://localhost:5000", "mlflow=databricks://mine?a=b"]}
    assert tomllib.loads(options_text(values, names, "some options", shared=True)) == values
    for url in ("postgresql://me:secret@host/db", "http://me:secret@host:5000", "mysql://host/db?password=secret"):
        lines = options_text({"log": ["csv", f"mlflow={url}"]}, names, "some options", shared=True)
        assert "# log has a password, which is kept nowhere" in lines


def test_it_is_kept_beside_the_search(stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "search"
    said = f'problem = "{tiny[0]}"\nmin-iterations = 6\nmax-iterations = 18\nthreads = 1\nfinalists = 2\nout = "{out}"'
    file = written(tmp_path, said)
    first = stantune("search", "--config", file, "--fresh", "--yes", "--seed", "5")
    assert first.code == 0, first.err
    kept = tomllib.loads((out / "search-options.toml").read_text())
    assert kept.items() >= {"problem": tiny[0], "finalists": 2, "threads": "1", "seed": 5, "out": str(out)}.items()
    # What was asked of that call is not asked again.
    assert not kept.keys() & {"fresh", "yes", "accept-changes", "debug"}
    again = stantune("search", "--config", out / "search-options.toml", "--json", "-")
    assert again.json["complete"]
    # Another search is refused, and what was asked of this one stays.
    before = (out / "search-options.toml").read_bytes()
    other = stantune("search", "--config", file, "--seed", "6")
    assert other.code == 2
    assert (out / "search-options.toml").read_bytes() == before
    assert stantune("delete", out, "--yes").code == 0
    assert not out.exists()
