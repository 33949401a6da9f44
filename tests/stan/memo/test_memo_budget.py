"""Layers chosen within a budget against the greedy rule in plain Python; free memory read from made-up systems."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.stan.memo import budget as memo_budget
from stantune.stan.memo.budget import LayerSpace, bytes_per_sample, choose_layers, free_memory


@pytest.mark.parametrize(
    ("space", "dtype", "positions", "wanted"),
    [
        (LayerSpace("conv", (3, 4, 5)), "bf16", "grid", 121),
        (LayerSpace("conv", (3, 4, 5)), "fp32", "grid", 241),
        (LayerSpace("conv", (3, 4, 5)), "bf16", "changed", 161),
        (LayerSpace("line", (3, 4)), "bf16", "changed", 33),
        (LayerSpace("linear", (7,)), "fp32", "changed", 43),
    ],
)
def test_bytes_of_one_sample(space, dtype, positions, wanted):
    assert bytes_per_sample(space, dtype, positions) == wanted


layers = st.lists(st.tuples(st.integers(1, 9), st.integers(-1, 6)), min_size=1, max_size=6).map(
    lambda drawn: [LayerSpace(f"fc{i}", (width,), float(saved)) for i, (width, saved) in enumerate(drawn)]
)


@given(spaces=layers, samples=st.integers(1, 5), budget=st.integers(0, 200), dtype=st.sampled_from(["bf16", "fp32"]))
def test_the_layer_that_saves_most_per_byte_is_taken_while_there_is_room(spaces, samples, budget, dtype):
    cost = {space.name: samples * bytes_per_sample(space, dtype, "grid") for space in spaces}
    rest, left, taken = [space for space in spaces if space.saved > 0], budget, set()
    worth = bool(rest)
    while rest:
        best = max(rest, key=lambda space: space.saved / cost[space.name])
        rest.remove(best)
        if cost[best.name] <= left:
            left -= cost[best.name]
            taken.add(best.name)
    if worth and not taken:
        with pytest.raises(UsageError, match=r"memo needs .* are missing"):
            choose_layers(spaces, samples, budget, dtype, "grid")
        return
    chosen, left_out = choose_layers(spaces, samples, budget, dtype, "grid")
    assert [space.name for space in chosen] == [space.name for space in spaces if space.name in taken]
    assert [space for space in spaces if space not in chosen] == list(left_out)


@given(width=st.integers(1, 9), samples=st.integers(1, 5), data=st.data())
def test_where_the_one_layer_does_not_fit_the_sentence_says_what_would(width, samples, data):
    space = LayerSpace("fc1", (width,), 1.0)
    need = samples * (4 * width + 1)
    budget = data.draw(st.integers(0, need + 3), "budget")
    if need <= budget:
        assert choose_layers([space], samples, budget, "fp32", "grid") == ((space,), ())
        return
    with pytest.raises(UsageError) as caught:
        choose_layers([space], samples, budget, "fp32", "grid")
    said, fitting = str(caught.value).split("; what would fit: ")
    assert said == (
        f"memo needs {need} bytes to remember fc1 for {samples} samples in fp32, and {need - budget} bytes are missing "
        f"in its budget of {budget} bytes"
    )
    halved = samples * (2 * width + 1)
    assert (f'dtype="bf16" ({halved} bytes)' in fitting) == (halved <= budget)
    fewer = max(count for count in range(samples) if count * need <= budget * samples)
    assert (f"{fewer} samples" in fitting) if fewer else ("samples" not in fitting)
    assert fitting.endswith("(memo=None)")


def test_the_refusal_reads_well():
    with pytest.raises(UsageError) as caught:
        choose_layers([LayerSpace("conv1", (32, 32, 32), 1.0)], 50_000, 5 * 10**9, "fp32", "changed")
    assert str(caught.value) == (
        "memo needs 6.66 GB to remember conv1 for 50000 samples in fp32, and 1.66 GB are missing in its budget of "
        '5.00 GB; what would fit: dtype="bf16" (3.38 GB), 37559 samples, the neighbour fill, which remembers nothing '
        "(memo=None)"
    )


def test_where_no_layer_that_pays_fits_the_smallest_of_them_is_named():
    spaces = [LayerSpace("a", (100,), 1.0), LayerSpace("b", (50,), 0.1), LayerSpace("c", (1,), 0.0)]
    with pytest.raises(UsageError, match=r"needs 202 bytes to remember b for 2 samples in bf16, and 22 bytes are miss"):
        choose_layers(spaces, 2, 180, "bf16", "grid")


def test_nothing_is_chosen_where_nothing_pays():
    spaces = (LayerSpace("a", (100,), 0.0), LayerSpace("b", (50,), -1.0))
    assert choose_layers(spaces, 2, 10, "bf16", "grid") == ((), spaces)


def system(root, files):
    """Make files under `root` and return it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"}
FREE = 4000 * 1024


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, FREE),
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"},
            FREE,
        ),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": "1000000\n",
                "sys/fs/cgroup/job/memory.current": "700000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 5\ninactive_file 50000\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "600000\n",
            },
            350_000,
        ),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": "1000000\n",
                "sys/fs/cgroup/job/memory.current": "700000\n",
                "sys/fs/cgroup/job/step/memory.max": "650000\n",
                "sys/fs/cgroup/job/step/memory.current": "600000\n",
            },
            50_000,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n2:memory:/job\n0::/\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "900000\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "500000\n",
                "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 7\ntotal_inactive_file 20000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "600000\n",
            },
            420_000,
        ),
        (
            {
                "proc/self/cgroup": "0::/kubepods/pod1/container\n",
                "sys/fs/cgroup/memory.max": "800000\n",
                "sys/fs/cgroup/memory.current": "100000\n",
            },
            700_000,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "800000\n",
                "sys/fs/cgroup/memory.current": "900000\n",
            },
            0,
        ),
    ],
    ids=["no groups", "no limit", "limit above", "tighter limit", "version 1", "in a container", "above its limit"],
)
def test_free_memory_is_the_least_that_the_system_and_its_control_groups_leave(tmp_path, files, free):
    assert free_memory(root=system(tmp_path, MEMINFO | files)) == free


def test_free_memory_of_this_system():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 10**6 < free_memory() < total


def test_a_system_without_proc_is_asked_otherwise_and_one_that_is_silent_is_named(tmp_path, monkeypatch):
    pages = {"SC_AVPHYS_PAGES": 5, "SC_PHYS_PAGES": 9, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memo_budget.os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(memo_budget.os, "sysconf_names", dict.fromkeys(pages, 0))
    assert free_memory(root=tmp_path) == 5 * 4096
    monkeypatch.setattr(memo_budget.os, "sysconf_names", {"SC_PHYS_PAGES": 0, "SC_PAGE_SIZE": 0})
    assert free_memory(root=tmp_path) == 9 * 4096
    monkeypatch.delattr(memo_budget.os, "sysconf_names")
    with pytest.raises(UsageError, match="does not say how much memory is free"):
        free_memory(root=tmp_path)
