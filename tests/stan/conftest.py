"""What the tests of STAN's layers share."""

from collections.abc import Iterator

import pytest

from stantune.stan.layers.conv2d import _is_for_native


@pytest.fixture(autouse=True)
def native_wherever_it_can(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have native kernels do the small layers of these tests, too, for which PyTorch is the faster one."""
    monkeypatch.setattr("stantune.stan.layers.conv2d.pays", lambda work, follow, threads: True)
    monkeypatch.setattr("stantune.stan.layers.fusion.may_pay", lambda rows, stride, follow: True)
    monkeypatch.setattr("stantune.stan.layers.norm.norm_pays", lambda rows, channels, relu, pooled: True)
    monkeypatch.setattr("stantune.stan.layers.pooling.pool_pays", lambda numbers, channels, average: True)
    _is_for_native.cache_clear()
    yield
    _is_for_native.cache_clear()
