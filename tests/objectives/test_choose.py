"""Whatever is given becomes the objective that is searched, or a sentence says what is missing."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from stantune.errors import UsageError
from stantune.images.data import data_root
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import BUILT_IN
from stantune.objectives.choose import find_objective, load_source, objective_of
from stantune.objectives.function.objective import FunctionObjective
from stantune.objectives.told import ToldObjective
from stantune.parameters import Float
from stantune.protocols import Metric
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.testing.executors import Counting

SPACE = Space({"x": Float(0, 1)})


def train(run):
    return 1.0


OBJECTIVE = FunctionObjective(train, SPACE, Metric("loss"), length=9)


def test_a_function():
    assert objective_of(train, SPACE, minimize="loss") == FunctionObjective(train, SPACE, Metric("loss"), "epoch")
    found = objective_of(train, SPACE, maximize="f1", unit="round", name="mine", stan=Stan())
    assert found == FunctionObjective(train, SPACE, Metric("f1", "maximize"), "round", None, "mine", Stan())


def test_nothing_is_a_search_by_ask_and_tell():
    assert objective_of(None, SPACE, minimize="loss") == ToldObjective("search", SPACE, Metric("loss"), "epoch")
    found = objective_of(None, SPACE, maximize="f1", unit="round", name="mine", stan=None)
    assert found == ToldObjective("mine", SPACE, Metric("f1", "maximize"), "round")


def test_a_problem():
    assert objective_of(BUILT_IN["mlp"]) == ProblemObjective(BUILT_IN["mlp"])
    assert objective_of(BUILT_IN["mlp"], stan=Stan()) == ProblemObjective(BUILT_IN["mlp"], Stan())


def test_a_file_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "import stantune as st\n\n\n@st.objective(space=st.Space({'x': st.Float(0, 1)}), minimize='loss')\n"
        "def mine(run):\n    return run.params['x']\n"
    )
    for source in ("~/mine.py:mine", "~/mine.py"):
        assert find_objective(source).identity == find_objective(f"{tmp_path}/mine.py:mine").identity


def test_data_of_an_objective_of_a_file_lie_where_it_is_said(tmp_path):
    imports = "import stantune as st\nfrom stantune.images.problem.built_in import find"
    (tmp_path / "mine.py").write_text(f"{imports}\nmine = st.ProblemObjective(find('lenet'))\n")
    assert find_objective(f"{tmp_path}/mine.py:mine", data=tmp_path).data == tmp_path
    assert find_objective(f"{tmp_path}/mine.py:mine").data is None


def test_data_lies_in_the_same_folder_for_every_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_objective("lenet", data=Path("~/sets")).data == tmp_path / "sets" == data_root("~/sets")
    assert find_objective("lenet", data=Path("sets")).data == Path("sets").absolute()
    assert find_objective("lenet").data is None
    with pytest.raises(UsageError, match=r"`data`=.*~nosuchuser/sets.* begins with the name of nobody here"):
        find_objective("lenet", data=Path("~nosuchuser/sets"))


def test_a_built_in_problem_with_options_is_found_by_name_in_other_processes_too():
    found = find_objective("mlp:sparse_bias=true,unified=true")
    assert found.name == "mlp:unified=true,sparse_bias=true"
    assert found.shares_data
    assert "made-of" not in found.identity
    assert found.identity != find_objective("mlp").identity
    there = cloudpickle.loads(cloudpickle.dumps(found))
    assert there.problem == found.problem
    assert there.identity == found.identity


def test_an_objective():
    assert objective_of(OBJECTIVE) is OBJECTIVE
    assert objective_of(OBJECTIVE, stan=Stan()) == replace(OBJECTIVE, stan=Stan())
    counting = Counting()
    assert objective_of(counting) is counting
    with pytest.raises(UsageError, match="objective counting has no `stan` that could be replaced; leave `stan` away"):
        objective_of(counting, stan=Stan())


@pytest.mark.parametrize(
    ("thing", "given", "sentence"),
    [
        (train, {}, "`space` is missing: say which parameters train has, as a Space"),
        (None, {}, "`space` is missing: say which parameters search has"),
        (train, {"space": SPACE}, "nothing says by which metric the trials of train are compared"),
        (
            train,
            {"space": SPACE, "minimize": "a", "maximize": "b"},
            "are two metrics, and trials of train are compared",
        ),
        ("mlp", {}, "'mlp' is nothing that can be searched; give a function of a Run, a Problem or an Objective"),
        (
            BUILT_IN["mlp"],
            {"space": SPACE},
            "`space` is for a function, and problem mlp says that itself; leave it away",
        ),
        (BUILT_IN["mlp"], {"maximize": "f1"}, "`maximize`=f1 is for a function, and problem mlp says that itself"),
        (OBJECTIVE, {"unit": "epoch"}, "`unit`=epoch is for a function, and objective train says that itself"),
        (Counting, {"space": SPACE, "minimize": "a"}, "Counting is a class"),
    ],
)
def test_what_is_missing_or_too_much_is_said(thing, given, sentence):
    with pytest.raises(UsageError, match=sentence):
        objective_of(thing, **given)


ONE = """
    import stantune.objectives.function.objective as f
    from sister import FACTOR
    from stantune.parameters import Float
    from stantune.space import Space

    def helper(run):
        return FACTOR

    @f.objective(space=Space({"x": Float(0, 1)}), minimize="loss", max_resource=9)
    def train(run):
        return helper(run)

    again = train
"""
PROBLEM = """
    from dataclasses import replace
    from stantune.images.problem.built_in import BUILT_IN
    mine = replace(BUILT_IN["mlp"], name="mine")
"""
OTHER = """
    from dataclasses import dataclass
    from stantune.testing.executors import Counting

    @dataclass(frozen=True)
    class Mine(Counting):
        name: str = "mine"

    mine = Mine()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    (tmp_path / "sister.py").write_text("FACTOR = 2.0")

    def write(text, name="own.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_a_name_of_a_built_in_problem(tmp_path):
    found = find_objective("mlp", Stan(), tmp_path)
    assert found == ProblemObjective(BUILT_IN["mlp"], Stan(), tmp_path, "mlp")
    with pytest.raises(UsageError, match=r"no problem is called 'mpl' \(did you mean mlp\?\): there are lenet, "):
        find_objective("mpl")


@pytest.mark.parametrize("named", [False, True])
def test_a_decorated_function_of_a_file(file, named):
    path = file(ONE)
    found = find_objective(f"{path}:train" if named else str(path), Stan(rate=0.25))
    assert isinstance(found, FunctionObjective)
    assert (found.name, found.length, found.source, found.rate) == ("train", 9, f"{path}:train", 0.25)
    assert found(None) == 2.0
    pickled = cloudpickle.dumps(found)
    # It is found by its source, and not sent.
    path.write_text(f"# A comment.\n{path.read_text()}\nLOADED = True\n")
    copy = cloudpickle.loads(pickled)
    assert copy.function.__globals__["LOADED"]
    assert (copy.identity, copy.stan, copy.space) == (found.identity, found.stan, found.space)
    path.write_text(path.read_text().replace("FACTOR\n\n", "7.0\n\n"))
    with pytest.raises(UsageError, match=r"own\.py:train was changed since the search began.* put it back as it was"):
        cloudpickle.loads(pickled)


def test_a_problem_of_a_file(file):
    path = file(PROBLEM)
    found = find_objective(f"{path}:mine", None, path.parent)
    assert isinstance(found, ProblemObjective)
    assert (found.name, found.source, found.data) == ("mine", f"{path}:mine", path.parent)


def test_a_problem_for_the_file_s_own_use_is_none_to_choose(file):
    more = "from dataclasses import replace\n_base, mine = mine, replace(mine, name='second')\n"
    path = file(f"{textwrap.dedent(PROBLEM)}\n{more}")
    assert find_objective(str(path)).name == "second"
    assert find_objective(f"{path}:_base").name == "mine"


def test_an_objective_of_a_file_travels(file, monkeypatch):
    found = find_objective(str(file(OTHER)))
    assert found.name == "mine"
    pickled = cloudpickle.dumps(found)
    # Another process knows no such module.
    monkeypatch.delitem(sys.modules, type(found).__module__)
    assert cloudpickle.loads(pickled).name == "mine"


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        (ONE, ":none", r"own.py has nothing called 'none'; it has train"),
        (
            ONE,
            ":helper",
            r"own.py:helper is a function and no Problem or Objective; put @stantune.objective\(space=..., ",
        ),
        (ONE, ":FACTOR", r"own.py:FACTOR is a float and no Problem or Objective; name one"),
        ("x = 1", "", r"own.py is taken where it has one Problem.*, and it has none; put @stantune.objective\("),
        ("x = 1", ":y", r"own.py has nothing called 'y'; it has nothing that can be searched"),
        (ONE + PROBLEM, "", r"it has 2 of them \(train, mine\); give .*own.py:NAME"),
        ("1 / 0", "", r"own.py cannot be imported: ZeroDivisionError: division by zero \(line 1\)"),
        ("1 +", ":a", "own.py cannot be imported: SyntaxError"),
    ],
)
def test_what_a_file_does_not_have_is_said(file, text, name, sentence):
    path = file(text)
    with pytest.raises(UsageError, match=sentence):
        find_objective(f"{path}{name}")


def test_a_file_that_is_not_there_is_said(tmp_path):
    for source in ("nowhere.py", "nowhere.py:train", f"{tmp_path}:train"):
        with pytest.raises(UsageError, match=r"there is no file .*; give yours as FILE.py:NAME"):
            find_objective(source)
    (tmp_path / "data.csv").touch()
    with pytest.raises(UsageError, match=r"data.csv is no Python file; give yours as FILE.py:NAME"):
        find_objective(f"{tmp_path / 'data.csv'}:train")


def test_a_source_is_run_anew(file):
    path = file("x = 1")
    assert load_source(f"{path}:x") == 1
    file("x = 2  # longer")
    assert load_source(f"{path}:x") == 2
