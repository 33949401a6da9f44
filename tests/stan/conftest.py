"""What the tests of STAN's layers share."""

import pytest


@pytest.fixture(autouse=True)
def native_wherever_it_can(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Have native kernels do the small layers of these tests, too, for which PyTorch is the faster one."""
    if "native_where_it_pays" not in request.keywords:
        monkeypatch.setattr("stantune.stan.layers.pays", lambda work, follow: True)
