"""Models that a function changes after run.accelerate: wrapped by tools, or given other parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stantune.errors import StanWarning
from stantune.stan.config import Stan

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 3))


def trains(change, seen):
    """Return a function that changes its accelerated model, then trains it; STAN's handle is in `seen`."""

    def train(run):
        images, labels = torch.randn(12, 1, 12, 12), torch.randint(0, 3, (12,))
        model = network()
        stan = run.accelerate(model)
        # They are still there: none of the new ones can be at their place in memory.
        before = list(model.parameters())
        change(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        run.keep(model=model, optimizer=optimizer)
        for _ in run.steps():
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(stan.handle)
        del before
        model.eval()
        return nn.functional.cross_entropy(model(images), labels)

    return train


def wrap(model):
    """Wrap each layer's forward, as accelerate's hooks do."""
    for module in model.modules():
        module._old_forward = module.forward
        module.forward = lambda *given, module=module: module._old_forward(*given)


def test_a_wrapped_model_goes_through_the_searchs_rates(trained):
    """Its layers train exactly from the second rate on, and their report says why."""
    seen = []
    with pytest.warns(StanWarning, match="STAN changes nothing in this model .*its forward method was replaced"):
        outcome = trained(trains(wrap, seen), 0, 4, stan=Stan(rate=0.5), rates=((0, 0.25), (2, 0.5)))
    assert outcome.iterations == 4
    assert [bool(handle.report[0].patterns) for handle in seen] == [True, True, False, False]
    assert "its forward method was replaced" in seen[-1].report[0].reason


def test_a_wrapped_model_is_exact_in_the_end(trained):
    """Where each iteration before was exact, too, it comes to what the plain one does."""
    stan = {"stan": Stan(rate=0.5, pretrain=2), "rates": ((0, 0.5), (2, 1.0))}
    wrapped = trained(trains(wrap, []), 0, 4, **stan).metrics["loss"]
    trained.checkpoint.unlink()
    assert wrapped == pytest.approx(trained(trains(lambda model: None, []), 0, 4, **stan).metrics["loss"], rel=1e-5)


def assign(model):
    model.load_state_dict({name: each.clone() for name, each in model.state_dict().items()}, assign=True)


def empty(model):
    model.to("meta").to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.1)


@pytest.mark.parametrize("change", [assign, empty])
def test_stan_moves_a_model_that_was_given_other_parameters(trained, change):
    seen = []
    trained(trains(change, seen), 0, 3, stan=Stan(rate=0.5))
    assert seen[-1].iteration == 3
