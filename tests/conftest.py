"""What all tests share: the real data sets, fetched once, patience on busy machines, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from stantune.images.data import Dataset, data_root, fetch, load
from stantune.kernels import library

# Their assertions say what differs, as those of tests do.
pytest.register_assert_rewrite(*(file.stem for file in (Path(__file__).parent / "helpers").rglob("*.py")))

# Triton reads this when it is first imported: its programs run in its interpreter, on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Test processes side by side share the cores: what they start, too, has one thread unless it asks for more.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Nor does anything say that others keep the cores busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    torch.set_num_threads(1)

# What shells start in the background ignores Ctrl-C, and so would the commands that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And what nohup starts ignores a lost terminal.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A time limit per example would only tell how busy the machine is.
hypothesis.settings.register_profile("stantune", deadline=None)
hypothesis.settings.load_profile("stantune")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what a test that is `sampled` leaves out; before tests are chosen by their marks."""
    seen = Counter[str]()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is not None:
            test = item.nodeid.partition("[")[0]
            if seen[test] % mark.args[0]:
                item.add_marker("slow")
            seen[test] += 1


@pytest.fixture(autouse=True)
def _process_as_it_was(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take back what a test sets for its whole process, for the tests after it.

    These are threads, denormals as zeros, folders that modules are found in, and modules of files that it wrote.
    """
    threads, folders, modules = torch.get_num_threads(), sys.path.copy(), set(sys.modules)
    yield
    torch.set_num_threads(threads)
    sys.path[:] = folders
    written = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        # Packages without an __init__.py are folders alone.
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        if place.startswith(written):
            del sys.modules[name]
    torch.set_flush_denormal(False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small batches are quickest on one thread, on a busy machine above all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done natively, as where there was no compiler."""
    monkeypatch.setattr(library, "kernels", lambda: library.Kernels(None, "", "a test has none"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The data root (STANTUNE_DATA, else the platform's cache) with MNIST and CIFAR-10 in it."""
    for name in ("mnist", "cifar10"):
        fetch(name)
    return data_root()


@pytest.fixture(scope="session")
def mnist(data_dir: Path) -> Dataset:
    """The real MNIST."""
    return load("mnist", data_dir)


@pytest.fixture(scope="session")
def cifar10(data_dir: Path) -> Dataset:
    """The real CIFAR-10."""
    return load("cifar10", data_dir)
