"""What a file imports is found beside it, counts as its code, and is never another file's module of the same name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import stantune as st
from stantune.objectives.choose import find_objective
from stantune.user_code.files import load_file

NAMES = ("layers_here", "parts_here", "more_here")


def written(folder: Path, **texts: str) -> Path:
    """Write files by their names without .py, and return the first."""
    files = [folder / f"{name}.py" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return files[0]


# By the top of the file, within a function, by another module, in packages with and without an __init__.py.
WAYS = {
    "at its top": {"net": "import layers_here\nVALUE = layers_here.VALUE\n", "layers_here": "VALUE = {}\n"},
    "a name": {"net": "from layers_here import VALUE\n", "layers_here": "VALUE = {}\n"},
    "by another": {
        "net": "from more_here import VALUE\n",
        "more_here": "from layers_here import VALUE\n",
        "layers_here": "VALUE = {}\n",
    },
    "in a folder": {
        "net": "from parts_here import layers\nVALUE = layers.VALUE\n",
        "parts_here/layers": "VALUE = {}\n",
    },
    "in a package": {
        "net": "from parts_here import VALUE\n",
        "parts_here/__init__": "from .layers import VALUE\n",
        "parts_here/layers": "VALUE = {}\n",
    },
    "in another in a folder": {
        "net": "import parts_here.more\nVALUE = parts_here.more.VALUE\n",
        "parts_here/more": "from . import layers\nVALUE = layers.VALUE\n",
        "parts_here/layers": "VALUE = {}\n",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_another_file_s_module_of_the_same_name_is_refused(way: str, tmp_path: Path) -> None:
    one, other = (
        written(tmp_path / name, **{file: text.replace("{}", str(number)) for file, text in WAYS[way].items()})
        for number, name in enumerate("ab")
    )
    assert load_file(one, "x").VALUE == 0
    folders, before = (
        sys.path.copy(),
        {name: module for name, module in sys.modules.items() if name.partition(".")[0] in NAMES},
    )
    with pytest.raises(
        st.UsageError, match=r"^\S+ imports \S+ from \S+, and a program has one module of a name"
    ) as told:
        load_file(other, "x")
    assert str(tmp_path / "a") in str(told.value)
    assert str(other.parent) in str(told.value)
    # The first goes on with its own.
    assert {name: module for name, module in sys.modules.items() if name in before} == before
    assert sys.path == folders
    assert load_file(one, "x").VALUE == 0


def test_a_module_that_is_imported_when_it_is_used_is_refused_too(tmp_path: Path) -> None:
    text = "def value():\n    import layers_here\n    return layers_here.VALUE\n"
    one = written(tmp_path / "a", net=text, layers_here="VALUE = 0\n")
    other = written(tmp_path / "b", net=text, layers_here="VALUE = 1\n")
    assert load_file(one, "x").value() == 0
    with pytest.raises(st.UsageError, match="imports layers_here from"):
        load_file(other, "x")


def test_what_is_not_imported_may_have_any_name(tmp_path: Path) -> None:
    one = written(tmp_path / "a", net="from layers_here import VALUE\n", layers_here="VALUE = 0\n")
    other = written(tmp_path / "b", net="from layers_here import VALUE\n")
    third = written(tmp_path / "c", net="import json\nVALUE = 2\n", layers_here="VALUE = 1\n", json="1 / 0\n")
    assert [load_file(file, "x").VALUE for file in (one, other, third)] == [0, 0, 2]


def test_the_same_module_by_another_way_is_the_same(tmp_path: Path) -> None:
    one = written(tmp_path / "a", net="from layers_here import VALUE\n", layers_here="VALUE = 0\n")
    other = written(tmp_path / "b", net="from layers_here import VALUE\n")
    (tmp_path / "b" / "layers_here.py").symlink_to(one.parent / "layers_here.py")
    assert [load_file(file, "x").VALUE for file in (one, other)] == [0, 0]


def test_a_file_s_own_folder_comes_before_those_of_others(tmp_path: Path) -> None:
    one = written(tmp_path / "a", net="", layers_here="VALUE = 0\n")
    other = written(tmp_path / "b", net="", layers_here="VALUE = 1\n")
    load_file(one, "x")
    load_file(other, "x")
    written(one.parent, net="from layers_here import VALUE\n")
    assert load_file(one, "x").VALUE == 0


def test_a_folder_of_the_user_s_that_stays_before_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "script", layers_here="VALUE = 0\n", **{"parts_here/layers": ""})
    file = written(tmp_path / "a", net="from layers_here import VALUE\n", layers_here="VALUE = 1\n")
    within = written(tmp_path / "b", net="from parts_here import layers\n", **{"parts_here/layers": ""})
    monkeypatch.syspath_prepend(tmp_path / "script")
    for each, name in ((file, "layers_here"), (within, "parts_here.layers")):
        with pytest.raises(st.UsageError, match=f"imports {name} from"):
            load_file(each, "x")


def test_a_file_that_is_run_again_is_not_run_with_what_another_one_imported_meanwhile(tmp_path: Path) -> None:
    text = "def value():\n    import layers_here\n    return layers_here.VALUE\n"
    one = written(tmp_path / "a", net=text, layers_here="VALUE = 0\n")
    other = written(tmp_path / "b", net="from layers_here import VALUE\n", layers_here="VALUE = 1\n")
    load_file(one, "x")
    assert load_file(other, "x").VALUE == 1
    with pytest.raises(st.UsageError, match="imports layers_here from"):
        load_file(one, "x")


@pytest.mark.parametrize("guard", ["if not TYPE_CHECKING:", 'if __name__ != "__main__":'])
def test_what_is_imported_in_any_case_is_looked_at(guard: str, tmp_path: Path) -> None:
    one = written(tmp_path / "a", net="from layers_here import VALUE\n", layers_here="VALUE = 0\n")
    text = f"from typing import TYPE_CHECKING\n{guard}\n    import layers_here\n"
    other = written(tmp_path / "b", net=text, layers_here="VALUE = 1\n")
    load_file(one, "x")
    with pytest.raises(st.UsageError, match="imports layers_here from"):
        load_file(other, "x")


@pytest.mark.parametrize("guard", ["if TYPE_CHECKING:", "if typing.TYPE_CHECKING:", 'if __name__ == "__main__":'])
def test_what_is_imported_by_nobody_is_no_conflict(guard: str, tmp_path: Path) -> None:
    one = written(tmp_path / "a", net="from layers_here import VALUE\n", layers_here="VALUE = 0\n")
    text = f"import typing\nfrom typing import TYPE_CHECKING\n{guard}\n    import layers_here\nelse:\n    VALUE = 1\n"
    other = written(tmp_path / "b", net=text, layers_here="1 / 0\n")
    assert [load_file(file, "x").VALUE for file in (one, other)] == [0, 1]


def test_a_file_that_arranges_its_own_imports_is_run_again(tmp_path: Path) -> None:
    text = f"import sys\nsys.path.insert(0, {str(tmp_path / 'src')!r})\nfrom layers_here import VALUE\n"
    file = written(tmp_path, net=text, layers_here="VALUE = 0\n")
    written(tmp_path / "src", layers_here="VALUE = 1\n")
    assert [load_file(file, "x").VALUE for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("copies", [1, 2])
def test_a_folder_that_is_before_all_stays_there(copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script's own is, or one of PYTHONPATH: what it is to be found before stands behind it."""
    written(tmp_path / "common", layers_here="VALUE = 0\n")
    file = written(tmp_path / "a", net="from layers_here import VALUE\n", layers_here="VALUE = 1\n")
    own, common = str(tmp_path / "a"), str(tmp_path / "common")
    monkeypatch.setattr(sys, "path", [own, common, *[own] * (copies - 1), *sys.path])
    before = sys.path.copy()
    assert load_file(file, "x").VALUE == 1
    assert sys.path[:2] == [own, common]
    assert [folder for folder in sys.path if folder != own] == [folder for folder in before if folder != own]


FUNCTION = """
import stantune as st
from layers_here import made

@st.objective(space=st.Space({"x": st.Float(0, 1)}), minimize="loss")
def train(run):
    return made(run)
"""


@pytest.mark.parametrize("name", ["train", "train.v2"])
def test_a_changed_module_beside_a_file_of_any_name_is_seen(name: str, tmp_path: Path) -> None:
    file = written(tmp_path, **{name: FUNCTION})
    said = []
    for value in (1, 2):
        written(tmp_path, layers_here=f"def made(run):\n    return {value}  # {'x' * value}\n")
        code = "import sys; from stantune.objectives.choose import find_objective as f; print(f(sys.argv[1]).identity)"
        run = [sys.executable, "-c", code, str(file)]
        said.append(subprocess.run(run, capture_output=True, text=True, check=True, cwd="/").stdout)
    assert said[0] != said[1]


OBJECT = """
import stantune as st
from layers_here import made

class Trainer:
    def __call__(self, run):
        return made(run)

train = st.objective(space=st.Space({"x": st.Float(0, 1)}), minimize="loss")(Trainer())
"""


@pytest.mark.parametrize("text", [FUNCTION, OBJECT])
def test_files_of_one_name_keep_their_own_code(text: str, tmp_path: Path) -> None:
    one = written(tmp_path / "a", net=text, layers_here="def made(run):\n    return 1\n")
    other = written(tmp_path / "b", net=text.replace("layers_here", "more_here"), more_here="def made(run): ...\n")
    alone = find_objective(str(one)).identity
    found = find_objective(str(one))
    find_objective(str(other))
    assert found.identity == alone


def test_a_study_of_files_with_modules_of_one_name_is_refused(tmp_path: Path) -> None:
    files = [
        written(tmp_path / name, net=FUNCTION, layers_here=f"def made(run):\n    return {number}\n")
        for number, name in enumerate("ab")
    ]
    with pytest.raises(st.UsageError, match=r"net\.py imports layers_here from .*two studies, not one"):
        st.study([str(file) for file in files], ways="none", seeds=1, max_resource=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_of_files_has_each_with_its_own_modules_in_workers(tmp_path: Path) -> None:
    made = "def made(run):\n    return run.params['x'] + {}\n"
    one = written(tmp_path / "a", net=FUNCTION, layers_here=made.format(1))
    # Found first by who imports it, and nobody does.
    text = FUNCTION.replace("layers_here", "more_here").replace("train", "other")
    other = written(tmp_path / "b", net=text, more_here=made.format(2), layers_here="1 / 0\n")
    given = {"seeds": 1, "max_resource": 2, "workers": 1, "threads": 1, "out": tmp_path / "out"}
    assert st.study([str(one), str(other)], ways="none", **given).complete
