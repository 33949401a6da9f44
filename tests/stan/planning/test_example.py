"""What models are called with when rate="auto" measures them, in what loss, and the sentences where that fails."""

from __future__ import annotations

import collections
import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import stantune.stan.planning.plan as planning
from stantune import NoEffectWarning, Stan, accelerate_
from stantune.errors import UsageError
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.memo.batch_memory import output_shapes
from stantune.stan.planning.example import to_device
from stantune.stan.planning.plan import plan_for
from stantune.stan.planning.timing import measure

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::FutureWarning")]

AUTO = Stan(rate="auto")
PARTS = collections.namedtuple("PARTS", "first second")


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    monkeypatch.setattr(planning, "measure", lambda *given, **named: measure(*given, **{**named, "budget": 0.0}))


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8)


class Pair(nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.left(rgb) + self.right(depth)


class Detector(nn.Module):
    """As torchvision's: takes a list of images and targets while it trains, and returns losses."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = body()

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> object:
        maps = self.backbone(torch.stack(images))
        if not self.training:
            return list(maps)
        assert targets is not None, "targets should not be none when in training mode"
        boxes = torch.stack([target["boxes"].sum() for target in targets])
        return {"boxes": (maps.mean((1, 2, 3)) - boxes).abs().mean(), "scores": maps.square().mean()}


class Checkpointed(nn.Module):
    """Computes what comes after its first layer within a checkpoint."""

    def __init__(self, reentrant: bool, first: bool = True) -> None:
        super().__init__()
        self.stem: nn.Module = nn.Conv2d(3, 3, 1) if first else nn.Identity()
        self.body = body()
        self.reentrant = reentrant

    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(self.body, self.stem(images), use_reentrant=self.reentrant)


def detections() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    return [*images()], [{"boxes": torch.rand(3, 4)}, {"boxes": torch.zeros(0, 4)}]


def timed(model: nn.Module, example: object, **named: object) -> dict[str, float]:
    """Return each timed layer's backward pass, and check that the model is left as it was."""
    before = copy.deepcopy(model.state_dict())
    plan = plan_for(model, AUTO, example, **named)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return {layer.name: layer.t_b for layer in plan.times.layers if not layer.reason}


@pytest.mark.parametrize(
    "example",
    [(images(), torch.randn(2, 1, 8, 8)), {"depth": torch.randn(2, 1, 8, 8), "rgb": images()}],
    ids=["tuple", "dictionary"],
)
def test_a_model_of_two_inputs_is_timed(example):
    found = timed(Pair(), example)
    assert list(found) == ["left", "right"]
    assert min(found.values()) > 0
    accelerate_(Pair(), AUTO, example=example)


def test_a_detector_is_timed_with_its_targets_under_its_own_losses():
    assert min(timed(Detector(), detections()).values()) > 0
    seen = []
    found = timed(Detector(), detections(), loss=lambda losses: seen.append(set(losses)) or sum(losses.values()))
    assert list(found) == ["backbone.0", "backbone.2"]
    assert min(found.values()) > 0
    assert {"boxes", "scores"} in seen
    accelerate_(Detector(), AUTO, example=detections(), loss=lambda losses: losses["boxes"])


def test_the_loss_decides_what_has_a_backward_pass():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return self.used(images), self.unused(images)

    found = timed(Heads(), torch.randn(4, 3, 64, 64), loss=lambda output: output[0].mean())
    assert found["used"] > 10 * found["unused"]  # what is left is the clock's own


NORMS = {
    "weight norm": nn.utils.weight_norm,
    "spectral norm": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("change", list(NORMS))
def test_layers_whose_weights_are_made_before_each_pass_are_timed_and_left_as_they_were(change):
    model = body()
    for layer in (model[0], model[2]):
        NORMS[change](layer)
    made = [layer.weight for layer in (model[0], model[2])]
    found = timed(model, images())
    assert list(found) == ["0", "2"]
    assert min(found.values()) > 0
    assert [layer.weight for layer in (model[0], model[2])] == [*map(Same, made)]


class Same:
    """Equal to one object alone."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return self.value is other

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrized_layers_are_left_alone_and_the_others_timed(norm):
    model = body()
    norm(model[0])
    assert list(timed(model, images())) == ["2"]


def test_what_is_checkpointed_is_timed_or_told():
    assert list(timed(Checkpointed(reentrant=False), images())) == ["stem", "body.0", "body.2"]
    with pytest.raises(UsageError, match=r"reentrant checkpoints.*give checkpoint use_reentrant=False, or a number"):
        accelerate_(Checkpointed(reentrant=True), AUTO, example=images())


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_layers_without_gradients_train_exactly_and_are_left_alone():
    plan = plan_for(Checkpointed(reentrant=True, first=False), AUTO, images())
    assert [reason.split(",")[0] for reason in plan.reasons.values()] == [
        "it is computed without gradients (torch.no_grad"
    ] * 2


def test_a_lazy_layer_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(UsageError, match=r"layer '2', a LazyLinear, has no weights .* call the model once on a batch"):
        accelerate_(model, AUTO, example=images())
    accelerate_(model, Stan())  # nobody has to look at that layer
    assert isinstance(model[0], StanConv2d)
    with pytest.warns(NoEffectWarning):
        [line] = accelerate_(nn.Sequential(nn.LazyConv2d(4, 3)), Stan()).report
    assert line.reason.startswith("it has no weights before its first input; call the model once")


@pytest.mark.parametrize(
    ("model", "example", "sentence"),
    [
        (Pair(), images(), r"\(2, 3, 8, 8\)\): TypeError \(.*'depth'\) in the model's forward; give as example= a t"),
        (Pair(), (images(), images()), r"1 channels, but got 3 .* in layer 'right'; give"),
        (Detector(), ([*images()],), "targets should not be none .* give as example="),
        (body(), {"input": torch.randn(0, 3, 8, 8)}, "the example holds no sample"),
        (body(), (), "the example holds no sample"),
    ],
    ids=["one of two", "other channels", "no targets", "empty", "nothing"],
)
def test_an_example_that_does_not_fit_is_told_with_the_layer(model, example, sentence):
    with pytest.raises(UsageError, match=sentence):
        accelerate_(model, AUTO, example=example)
    assert type(next(model.modules())) is type(model)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda output: {}["boxes"], r"loss= failed on the model's output, a Tensor: KeyError .*; give a function"),
        (lambda output: output, r"loss= returned a tensor \(2, 4, 8, 8\); give a function"),
        (lambda output: 3.0, r"loss= returned a float; give a function"),
    ],
    ids=["fails", "no number", "no tensor"],
)
def test_a_loss_that_is_none_is_told(loss, sentence):
    with pytest.raises(UsageError, match=sentence):
        accelerate_(body(), AUTO, example=images(), loss=loss)


def test_a_backward_pass_that_fails_is_told():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input):
            return input.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("not today")

    class Model(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 4, 3)

        def forward(self, input: Tensor) -> Tensor:
            return Once.apply(super().forward(input))

    with pytest.raises(
        UsageError, match=r"the backward pass from the model's output failed: RuntimeError .not today.; give"
    ):
        accelerate_(nn.Sequential(Model()), AUTO, example=images())


def test_the_memory_takes_several_inputs_too():
    shapes = output_shapes(Pair(), {"left": (pair := Pair()).left}, {"rgb": images(), "depth": images()[:, :1]})
    assert shapes == {}
    assert output_shapes(pair, {"left": pair.left}, (images(), images()[:, :1])) == {"left": [(4, 6, 6)]}
    with pytest.raises(UsageError, match="cannot be called on the example"):
        output_shapes(pair, {"left": pair.left}, images())


def test_all_tensors_of_an_example_change_places():
    device = torch.device("meta")
    moved = to_device(({"a": [images(), "name"]}, PARTS(images(), 3)), device)
    assert moved[0]["a"][0].device == moved[1].first.device == device
    assert (moved[0]["a"][1], moved[1].second, type(moved[1])) == ("name", 3, PARTS)


@pytest.mark.parametrize("made", ["dataclass", "detached loss"])
def test_a_model_without_a_backward_pass_is_refused_or_found_to_have_one(made):
    @dataclass
    class Output:
        scores: Tensor

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Output:
            return Output(self.conv(images))

    if made == "dataclass":
        assert timed(Wrapped(), images())["conv"] > 0
    else:
        with pytest.raises(UsageError, match=r"nothing in what loss= returned depends on the model's parameters"):
            timed(Wrapped(), images(), loss=lambda output: output.scores.detach().sum())


@pytest.mark.parametrize("rate", ["auto", 0.5])
@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 5), nn.Conv1d(8, 8, 5)])
def test_a_single_sample_is_an_example_too(layer, rate):
    model = nn.Sequential(copy.deepcopy(layer), nn.ReLU())
    sample = torch.randn(8, 12, 12) if isinstance(layer, nn.Conv2d) else torch.randn(8, 40)
    accelerate_(model, Stan(rate=rate), example=sample)
    assert model(sample).shape == nn.Sequential(layer)(sample).shape
