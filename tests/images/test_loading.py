"""load: the winner's network predicts what was measured of it; what it is not made from is said; the files' layout."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earlier_code import noted_as_before
from torch import Tensor, nn

import stantune as st
from stantune.images.problem.built_in import BUILT_IN
from stantune.images.problem.facts import FACTS
from stantune.training import checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "predicting.md"

pytestmark = pytest.mark.usefixtures("one_thread")


# Earlier versions did not see such a statement.
WIDTH, (CHANNELS,) = 4, (3,)


def squares(root: Path | None) -> st.Dataset:
    """Return images of noise, every second one with a brighter square."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(200, (300, 8, 8, 3), generator=generator).to(torch.uint8)
    labels = torch.arange(300) % 2
    images[labels == 1, 2:6, 2:6] += 50
    return st.Dataset("squares", (images[:200], labels[:200]), (images[200:], labels[200:]))


def network(width: int = 4) -> nn.Module:
    """Return a network whose predictions depend on its mode."""
    layers = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(64 * width, 2))


PROBLEM = st.Problem(
    name="squares",
    network=network,
    data=squares,
    space=st.Space({"lr": st.Float(0.003, 0.03, log=True), "width": st.Integer(2, 5)}),
    solver=st.Solver(lr=0.01, momentum=0.9),
    iterations=40,
    batch_size=20,
    normalise=st.Normalise(scale=0.5, mean="image", std="channel"),
)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a search that is done."""
    out = tmp_path_factory.mktemp("searched") / "out"
    objective = st.ProblemObjective(PROBLEM, st.Stan(rate=0.5))
    st.tune(objective, max_resource=40, min_resource=10, brackets=1, threads=1, out=out)
    return out


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> Path:
    """A directory of its own, to be altered."""
    return Path(shutil.copytree(searched, tmp_path / "copy"))


def noted_anew(directory: Path, name: str, state: dict[str, Any]) -> None:
    """Write a file of weights, and its digest into the table, as if a search had written it."""
    path = directory / name
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    checkpoint.save(path, "", state)
    now = hashlib.sha256(path.read_bytes()).hexdigest()
    with sqlite3.connect(directory / "search.db") as table:
        changed = table.execute(
            "UPDATE study_user_attributes SET value_json = replace(value_json, ?, ?) WHERE value_json LIKE ?",
            (before, now, f"%{before}%"),
        )
        assert changed.rowcount == 1
    table.close()


def error(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        return 100 * float((net(images).argmax(1) != labels).float().mean())


@pytest.mark.parametrize("weights", ["final", "best"])
def test_it_predicts_what_was_measured(searched: Path, weights: Any) -> None:
    before = torch.get_rng_state()
    net = st.load(searched, PROBLEM, weights=weights)
    assert torch.equal(torch.get_rng_state(), before)
    test = squares(None).test
    images = test.inputs.permute(0, 3, 1, 2).contiguous()
    assert error(net, images, test.targets) == pytest.approx(net.metrics["test error"])
    assert (net.classes, net.input_shape, net.input_dtype) == (2, (3, 8, 8), torch.uint8)
    assert net.network[0].out_channels == net.setting["width"]
    # As evaluation itself does it, to the bit, from bytes and from floats in their units.
    splits = PROBLEM.load()
    with torch.inference_mode():
        expected = net.network(splits.normaliser(test.inputs))
        assert torch.equal(net(images), expected)
        assert torch.equal(net(images.double()), expected)
        assert torch.equal(net(images[:1]), net.network(splits.normaliser(test.inputs[:1])))


def test_the_normaliser_is_in_its_state(searched: Path) -> None:
    net, other = st.load(searched, PROBLEM), st.load(searched, PROBLEM)
    other.mean.zero_()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.mean, net.mean)
    assert {"mean", "std", "network.0.weight"} <= net.state_dict().keys()


def test_weights_of_before_their_inputs_were_kept(copy: Path) -> None:
    expected = st.load(copy, PROBLEM)
    state = checkpoint.load_any(copy / "final.pt")
    del state["inputs"]
    noted_anew(copy, "final.pt", state)
    net = st.load(copy, PROBLEM)
    assert torch.equal(net.mean, expected.mean)
    assert torch.equal(net.std, expected.std)
    # The data are needed now, and so count.
    with pytest.raises(st.UsageError, match="the normalise of problem 'squares' changed since"):
        st.load(copy, replace(PROBLEM, normalise=st.Normalise(scale=2.0)))


def test_the_weights_of_a_trial_itself_need_no_training_set(tmp_path: Path) -> None:
    sizes = {"max_resource": 9, "min_resource": 3, "brackets": 1, "threads": 1}
    for _ in range(2):
        # Again, where it is done: what is announced is as it was.
        found = st.tune(PROBLEM, final="continue", out=tmp_path / "out", **sizes)
        bits = (tmp_path / "out" / "final.pt").read_bytes()
        assert found.final is not None

    def gone(root: Path | None) -> st.Dataset:
        raise AssertionError("the training set was asked for")

    net = st.load(tmp_path / "out", replace(PROBLEM, data=gone))
    test = squares(None).test
    assert error(net, test.inputs.permute(0, 3, 1, 2), test.targets) == pytest.approx(net.metrics["test error"])
    assert (tmp_path / "out" / "final.pt").read_bytes() == bits


def test_a_problem_of_ones_own_is_given(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(st.UsageError, match=r"is of your own problem 'squares', and only its code can .*FILE\.py:NAME"):
        st.load(searched)
    with pytest.raises(st.UsageError, match="is of the problem 'squares', and `problem` is 'another'; give that one"):
        st.load(searched, replace(PROBLEM, name="another"))
    with pytest.raises(st.UsageError, match="`problem`=7 is no Problem"):
        st.load(searched, 7)  # type: ignore[arg-type]
    with pytest.raises(st.UsageError, match=r"there is no file nowhere\.py"):
        st.load(searched, "nowhere.py:problem")
    with pytest.raises(st.UsageError, match="`weights`='last' is neither final nor best"):
        st.load(searched, PROBLEM, weights="last")  # type: ignore[arg-type]
    # A built-in one is known by its name; that of a name alone might be any.
    monkeypatch.setitem(BUILT_IN, "squares", PROBLEM)
    monkeypatch.setitem(FACTS, "squares", FACTS["lenet"])
    with pytest.raises(st.UsageError, match="is of your own problem 'squares'"):
        st.load(searched)
    st.tune(st.ProblemObjective(PROBLEM), max_resource=2, min_resource=1, threads=1, out=tmp_path / "built-in")
    assert st.load(str(tmp_path / "built-in")).metrics


def test_a_network_that_changed(searched: Path) -> None:
    def other(width: int = 4) -> nn.Module:
        made = network(width)
        made[2] = nn.Tanh()  # type: ignore[operator]
        return made

    with pytest.raises(st.UsageError, match=r"the network of problem 'squares' changed since the search in .* began"):
        st.load(searched, replace(PROBLEM, network=other))
    net = st.load(searched, replace(PROBLEM, network=other), accept_changes=True)
    assert isinstance(net.network[2], nn.Tanh)
    # What the weights do not depend on may be another.
    assert st.load(searched, replace(PROBLEM, normalise=st.Normalise(), solver=st.Solver(lr=1.0))).metrics
    broken = replace(PROBLEM, network=lambda width=4: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    with pytest.raises(st.StantuneError, match=r"final\.pt does not fit the network that problem 'squares' makes now"):
        st.load(searched, broken, accept_changes=True)


def test_a_network_that_an_earlier_version_noted_otherwise(tmp_path: Path) -> None:
    def of_one_layer(width: int = WIDTH) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * CHANNELS, 2))

    problem = replace(PROBLEM, network=of_one_layer)
    with noted_as_before():
        st.tune(problem, max_resource=2, min_resource=1, threads=1, out=tmp_path / "out")
    assert st.load(tmp_path / "out", problem).metrics
    with pytest.raises(st.UsageError, match=r"the network of problem 'squares' changed since the search in .* began"):
        st.load(tmp_path / "out", replace(PROBLEM, network=network))


def test_files_that_are_others(copy: Path) -> None:
    final = copy / "final.pt"
    content = final.read_bytes()
    final.write_bytes(content[:500] + b"x" + content[501:])
    with pytest.raises(st.StantuneError, match=r"final\.pt is cut short or altered; put it back, or give the search"):
        st.load(copy, PROBLEM)
    shutil.copy(next((copy / "checkpoints").glob("*.pt"), copy / "best.pt"), final)
    checkpoint.save(final, "", checkpoint.load_any(final) | {"iteration": 7})
    with pytest.raises(st.StantuneError, match=r"final\.pt is another file than the search has written; put it back"):
        st.load(copy, PROBLEM)
    final.unlink()
    with pytest.raises(st.StantuneError, match=r"final\.pt is not there any more; put it back, or give the search's"):
        st.load(copy, PROBLEM)
    with pytest.raises(st.UsageError, match="there is no search in"):
        st.load(copy / "checkpoints", PROBLEM)


@pytest.mark.filterwarnings("ignore::stantune.errors.StanWarning")
def test_searches_without_a_winner(tmp_path: Path) -> None:
    def train(run: st.Run) -> dict[str, float]:
        for _ in run.steps():
            pass
        return {"error": run.params["x"] if run.params["x"] < 2 else float("nan")}

    def search(low: float, name: str, **more: Any) -> Path:
        space = st.Space({"x": st.Float(low, low + 1)})
        st.tune(train, space, minimize="error", max_resource=3, out=tmp_path / name, **more)
        return tmp_path / name

    with pytest.raises(st.StantuneError, match="was interrupted and has no winner yet; give its command again"):
        st.load(search(0, "cut", budget=1e-6))
    with pytest.raises(st.StantuneError, match="has no winner: no trial had a result"):
        st.load(search(5, "lost"))
    with pytest.raises(st.StantuneError, match=r"has no final weights: its trainings keep nothing; .*run\.keep"):
        st.load(search(0, "nothing-kept"))


def test_what_is_no_problem_says_how_it_is_read(tmp_path: Path) -> None:
    def train(run: st.Run) -> dict[str, float]:
        model = nn.Linear(1, 1)
        run.keep(model=model)
        for _ in run.steps():
            pass
        return {"error": run.params["x"]}

    out = tmp_path / "out"
    st.tune(train, st.Space({"x": st.Float(0, 1)}), minimize="error", max_resource=2, out=out)
    with pytest.raises(st.UsageError) as refused:
        st.load(out)
    said = re.search(r"torch\.load\(.*\]", str(refused.value))
    assert said
    # The sentence's code is right.
    assert eval(said[0])["model"].keys() == {"weight", "bias"}


@pytest.mark.parametrize("weights", ["final", "best"])
@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (False, "kept nothing at {}; look where it kept what it trained"),
        (True, "{} is what your program kept there, and is read as it wrote it"),
    ],
)
def test_what_was_trained_by_ask_and_tell_is_the_programs(
    tmp_path: Path, weights: Any, kept: bool, sentence: str
) -> None:
    space = st.Space({"x": st.Float(0, 1)})
    with st.open_search(space, minimize="error", max_resource=2, out=tmp_path) as search:
        while (segment := search.ask()) is not None:
            if kept:
                segment.checkpoint.write_text("its own")
            search.tell(segment, segment.params["x"])
    with pytest.raises(st.StantuneError) as refused:
        st.load(tmp_path, weights=weights)
    # Without curves, the best evaluation is the last.
    assert sentence.format(tmp_path / "final.pt") in str(refused.value)
    assert not re.search(r"run\.keep|torch\.load|search anew", str(refused.value))


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (3, 8, 8), (2, 3, 9, 8)])
def test_inputs_of_another_shape(searched: Path, shape: tuple[int, ...]) -> None:
    net = st.load(searched, PROBLEM)
    with pytest.raises(st.UsageError, match=r"inputs are of shape \(.*\); give \(B, 3, 8, 8\)"):
        net(torch.zeros(shape))


@pytest.mark.parametrize("inputs", [np.zeros((2, 3, 8, 8), np.uint8), [[0]], None], ids=["array", "list", "none"])
def test_inputs_that_are_no_tensor(searched: Path, inputs: object) -> None:
    net = st.load(searched, PROBLEM)
    with pytest.raises(st.UsageError, match=r"inputs are no tensor but of type \w+; give a tensor, such as torch\.as"):
        net(inputs)


def test_inputs_that_are_no_real_numbers(searched: Path) -> None:
    net = st.load(searched, PROBLEM)
    with pytest.raises(st.UsageError, match="inputs are complex64; give real numbers"):
        net(torch.zeros(2, 3, 8, 8, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("inputs", "made", "shape"),
    [
        (torch.rand(60, 5), lambda: nn.Linear(5, 2), (5,)),
        (
            torch.randint(9, (60, 4)),
            lambda: nn.Sequential(nn.EmbeddingBag(9, 3), nn.Linear(3, 2)),
            (4,),
        ),
        (
            torch.randint(99, (60, 6, 6)).to(torch.int16),
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2)),
            (1, 6, 6),
        ),
    ],
    ids=["table", "tokens", "grey"],
)
def test_inputs_of_other_kinds(inputs: Tensor, made: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    problem = st.Problem(
        name="kinds",
        network=made,
        data=st.Dataset("kinds", (inputs, torch.arange(60) % 2)),
        space=st.Space({"lr": st.Float(1e-4, 1e-3)}),
        solver=st.Solver(lr=1e-3),
        iterations=4,
        batch_size=10,
        normalise=st.Normalise(mean="channel", std="channel"),
    )
    st.tune(problem, max_resource=4, min_resource=2, brackets=1, threads=1, out=tmp_path)
    net = st.load(tmp_path, problem)
    assert net.input_shape == shape
    splits = problem.load()
    samples = splits.train.inputs
    with torch.inference_mode():
        given = samples.permute(0, 3, 1, 2) if samples.dim() == 4 else samples
        assert torch.equal(net(given), net.network(splits.normaliser(samples)))
    if len(shape) == 1 and not inputs.is_floating_point():
        with pytest.raises(st.UsageError, match="inputs are float32; give token ids, whole numbers"):
            net(inputs.float())


def test_the_files_hold_what_the_page_says(searched: Path) -> None:
    whole, state = (
        set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
        for table in re.findall(r"^\| key .*?\n\n", PAGE.read_text() + "\n\n", re.MULTILINE | re.DOTALL)
    )
    for name in ("final.pt", "best.pt"):
        saved = torch.load(searched / name, weights_only=True)
        assert saved.keys() == whole
        assert saved["state"].keys() == state
