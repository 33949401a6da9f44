"""A native block against plain PyTorch in double: forward and gradients, every form that this processor runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stantune.kernels import library
from stantune.kernels.block import native
from stantune.kernels.block.convolve import convolve, convolve_into
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import FORMS, WINOGRAD, kernels
from stantune.stan.entries.entries import PLANE, EntryMatrix, Grid
from stantune.stan.entries.fill import memo_of_exact, neighbour_of_exact
from stantune.stan.entries.lists import lists_among, lists_of

NATIVE = kernels().library
pytestmark = pytest.mark.skipif(NATIVE is None, reason=f"no native library: {kernels().reason}")
HERE = range(1 + (0 if NATIVE is None else NATIVE.stan_best_form()))


@pytest.fixture(scope="module", params=HERE, ids=[FORMS[form] for form in HERE], autouse=True)
def _form(request: pytest.FixtureRequest) -> Iterator[None]:
    assert NATIVE is not None
    assert NATIVE.stan_use_form(request.param) == request.param
    yield
    NATIVE.stan_use_form(FORMS.index(kernels().form))


@contextmanager
def winograd(when: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "kernels", lambda: kernels()._replace(winograd=WINOGRAD.index(when)))
        yield


def followed(output: Tensor, follow: Follow) -> Tensor:
    if follow.relu:
        output = output.relu()
    if follow.pool == "max":
        return F.max_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)
    if follow.pool == "average":
        return F.avg_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)
    return output


@st.composite
def blocks(draw: st.DrawFn) -> dict:
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    padding = tuple(draw(st.integers(0, 4)) for _ in range(4))
    height = draw(st.integers(max(1, kernel[0] - padding[2] - padding[3]), 14))
    width = draw(st.integers(max(1, kernel[1] - padding[0] - padding[1]), 14))
    out = [
        (height + padding[2] + padding[3] - kernel[0]) // stride[0] + 1,
        (width + padding[0] + padding[1] - kernel[1]) // stride[1] + 1,
    ]
    size = draw(st.integers(1, out[0])), draw(st.integers(1, out[1]))
    pool_stride = draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))
    pool = draw(st.sampled_from(["none", "max", "average"]))
    follow = Follow(pool, size, pool_stride, draw(st.booleans()), draw(st.booleans()))
    return {
        "batch": draw(st.integers(1, 4)),
        "channels": draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 32])),
        "filters": draw(st.sampled_from([1, 2, 7, 8, 16, 20, 33, 50])),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "size": (height, width),
        "out": out,
        "follow": follow,
        "entries": draw(st.sampled_from(["all", "matrix", *PLANE])),
        "bias": draw(st.booleans()),
        "of_input": draw(st.booleans()),
        "threads": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**31)),
        "last": draw(st.booleans()),
    }


@given(blocks())
@settings(max_examples=150)
def test_forward_and_gradients_are_plain_pytorchs(block: dict) -> None:
    generator = torch.Generator().manual_seed(block["seed"])

    def whole(*shape: int) -> Tensor:
        # Small whole numbers: their sums are exact in float32, so that no maximum and no ReLU is decided by rounding.
        return torch.randint(-3, 4, shape, generator=generator).double()

    batch, channels, filters = block["batch"], block["channels"], block["filters"]
    follow, out = block["follow"], block["out"]
    input = whole(batch, channels, *block["size"])
    weight = whole(filters, channels, *block["kernel"])
    bias = whole(filters) if block["bias"] else None
    entries: Grid | EntryMatrix | None = None
    if block["entries"] == "matrix":
        matrix = torch.rand(batch, *out, generator=generator) < 0.4
        matrix[:, -1, -1] |= ~matrix.flatten(1).any(1)
        entries = EntryMatrix(matrix)
    elif block["entries"] != "all":
        pattern = PLANE[block["entries"]]
        entries = Grid(pattern, block["seed"] % pattern.rows, block["seed"] // 2 % pattern.columns)

    exact = [tensor.clone().requires_grad_() for tensor in (input, weight, bias) if tensor is not None]
    expected = F.conv2d(F.pad(exact[0], block["padding"]), exact[1], *exact[2:], stride=block["stride"])
    if entries is not None:
        expected = neighbour_of_exact(expected, entries)
    expected = followed(expected, follow)
    gradient = whole(*expected.shape)
    expected.backward(gradient)

    order = torch.channels_last if block["last"] else torch.contiguous_format
    ours = [t.float().contiguous(memory_format=order) if t.dim() == 4 else t.float() for t in (input, weight)]
    ours += [] if bias is None else [bias.float()]
    for tensor in ours[0 if block["of_input"] else 1 :]:
        tensor.requires_grad_()
    lists = None if entries is None else lists_of(entries, *out)
    threads = torch.get_num_threads()
    torch.set_num_threads(block["threads"])
    try:
        with winograd("off"):  # its transforms round
            found = convolve(
                *ours[:2], ours[2] if bias is not None else None, block["stride"], block["padding"], lists, follow
            )
            found.backward(gradient.float())
    finally:
        torch.set_num_threads(threads)

    def agree(ours: Tensor | None, theirs: Tensor | None) -> None:
        assert ours is not None
        assert theirs is not None
        if follow.pool == "average":  # divides
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-3)
        else:
            assert torch.equal(ours.double(), theirs)

    assert found.shape == expected.shape
    agree(found, expected)
    for mine, its in zip(ours, exact, strict=True):
        if mine.requires_grad:
            agree(mine.grad, its.grad)
        else:
            assert mine.grad is None


@given(blocks())
@settings(max_examples=80)
def test_computed_entries_among_remembered_ones_are_plain_pytorchs(block: dict) -> None:
    generator = torch.Generator().manual_seed(block["seed"])

    def whole(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).double()

    batch, out = block["batch"], block["out"]
    shapes = [(batch, block["channels"], *block["size"]), (block["filters"], block["channels"], *block["kernel"])]
    exact = [whole(*shape) for shape in [*shapes, *([(block["filters"],)] * block["bias"])]]
    ours = [tensor.float().requires_grad_() for tensor in exact]
    entries: Grid | EntryMatrix = EntryMatrix(torch.rand(batch, *out, generator=generator) < 0.4)  # of some images none
    if block["entries"] in PLANE and Grid(PLANE[block["entries"]], 0, 0).covers(*out):
        entries = Grid(PLANE[block["entries"]], 0, 0)
    remembered = whole(batch, block["filters"], *out)
    values = remembered.float().contiguous(memory_format=torch.channels_last)
    for tensor in exact:
        tensor.requires_grad_()
    output = F.conv2d(F.pad(exact[0], block["padding"]), exact[1], *exact[2:], stride=block["stride"])
    expected = memo_of_exact(output, entries, remembered)
    gradient = whole(*expected.shape)
    expected.backward(gradient)

    threads = torch.get_num_threads()
    torch.set_num_threads(block["threads"])
    try:
        with winograd("off"):  # its transforms round
            bias = ours[2] if block["bias"] else None
            found = convolve_into(
                values, *ours[:2], bias, block["stride"], block["padding"], lists_among(entries, *out)
            )
            found.backward(gradient.float())
    finally:
        torch.set_num_threads(threads)
    assert found.data_ptr() == values.data_ptr()
    assert torch.equal(found.double(), expected)
    for mine, its in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.equal(mine.grad.double(), its.grad)


@st.composite
def filtered(draw: st.DrawFn) -> dict:
    """Blocks that minimal filtering fits, and what follows without decisions that rounding could turn."""
    kernel = draw(st.sampled_from([3, 5])), draw(st.integers(1, 5))
    most = draw(st.sampled_from([0, 4]))  # without padding a stride may leave columns over that no entry sees
    padding = tuple(draw(st.integers(0, most)) for _ in range(4))
    height = draw(st.integers(max(1, kernel[0] - padding[2] - padding[3]), 19))
    width = draw(st.integers(max(1, kernel[1] - padding[0] - padding[1]), 14))
    # Rows of the input from one computed row of the output to the next: one, or two under five rows.
    stride_h, pattern = draw(
        st.sampled_from(
            [(1, None), (1, "columns"), *([(2, None), (2, "columns"), (1, "rows"), (1, "blocks")] * (kernel[0] == 5))]
        )
    )
    stride = stride_h, draw(st.integers(1, 3))
    out = [
        (height + padding[2] + padding[3] - kernel[0]) // stride[0] + 1,
        (width + padding[0] + padding[1] - kernel[1]) // stride[1] + 1,
    ]
    size = draw(st.integers(1, out[0])), draw(st.integers(1, out[1]))
    return {
        "input": (draw(st.integers(1, 9)), draw(st.sampled_from([1, 3, 8, 16, 17, 32])), height, width),
        "filters": draw(st.sampled_from([1, 7, 16, 20, 33])),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "out": out,
        "follow": Follow("average", size, size) if draw(st.booleans()) else Follow(),
        "pattern": pattern,
        "threads": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**31)),
    }


# As many tiles as are done together, of rows whose last column no entry sees.
FULL = {
    "input": (9, 32, 18, 18),
    "filters": 16,
    "kernel": (5, 5),
    "stride": (2, 2),
    "padding": (0, 0, 0, 0),
    "out": [7, 7],
    "follow": Follow(),
    "pattern": None,
    "threads": 1,
    "seed": 0,
}


@given(filtered())
@example(FULL)
@settings(max_examples=60)
def test_minimal_filtering_is_a_convolution_but_for_rounding(block: dict) -> None:
    generator = torch.Generator().manual_seed(block["seed"])
    shapes = block["input"], (block["filters"], block["input"][1], *block["kernel"]), (block["filters"],)
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    expected = F.conv2d(F.pad(exact[0], block["padding"]), exact[1], exact[2], stride=block["stride"])
    entries = None
    if block["pattern"] is not None:
        pattern = PLANE[block["pattern"]]
        entries = Grid(pattern, block["seed"] % pattern.rows, block["seed"] // 2 % pattern.columns)
    if entries is not None:
        expected = neighbour_of_exact(expected, entries)
    expected = followed(expected, block["follow"])
    gradient = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    expected.backward(gradient)

    ours = [tensor.detach().float().requires_grad_() for tensor in exact]
    lists = None if entries is None else lists_of(entries, *block["out"])
    threads = torch.get_num_threads()
    torch.set_num_threads(block["threads"])
    try:
        with winograd("always"):
            found = convolve(*ours, block["stride"], block["padding"], lists, block["follow"])
            found.backward(gradient.float())
    finally:
        torch.set_num_threads(threads)

    for mine, its in zip([found, *(t.grad for t in ours)], [expected, *(t.grad for t in exact)], strict=True):
        assert mine is not None
        assert its is not None
        # Measured: some 1e-6 of the largest, as the sums that are written out have it.
        assert (mine.detach().double() - its).abs().max() <= 3e-5 * max(1.0, float(its.detach().abs().max()))


def test_minimal_filtering_is_used_where_it_pays() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 32, 5, 5, generator=generator)
    input = torch.randn(4, 32, 16, 16, generator=generator)

    def output(when: str, input: Tensor = input, weight: Tensor = weight, stride: int = 1) -> Tensor:
        with winograd(when):
            return convolve(input, weight, None, (stride, 1), (2, 2, 2, 2))

    assert torch.equal(output("auto"), output("always"))
    assert not torch.equal(output("auto"), output("off"))
    # Rows too far apart, and sums too short to save anything.
    assert torch.equal(output("always", stride=3), output("off", stride=3))
    short = input[:, :1], weight[:, :1, :3, :3]
    assert torch.equal(output("auto", *short), output("off", *short))


def test_an_empty_batch_has_an_empty_output_and_no_gradient() -> None:
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    output = convolve(torch.empty(0, 3, 8, 8), weight, None, (1, 1), (1, 1, 1, 1))
    assert output.shape == (0, 4, 8, 8)
    output.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_nan_is_not_hidden_by_a_maximum_or_relu() -> None:
    input = torch.zeros(1, 1, 4, 4)
    input[0, 0, 1, 1] = float("nan")
    weight = torch.ones(8, 1, 1, 1)
    output = convolve(input, weight, None, (1, 1), (0, 0, 0, 0), follow=Follow("max", (2, 2), (2, 2), relu=True))
    assert output[:, :, 0, 0].isnan().all()
    assert not output[:, :, 1:].isnan().any()


def test_one_number_of_threads_gives_one_result() -> None:
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(7, 5, 9, 9, generator=generator)
    weight = torch.randn(6, 5, 3, 3, generator=generator, requires_grad=True)

    def gradient() -> Tensor:
        output = convolve(input, weight, None, (1, 1), (1, 1, 1, 1), follow=Follow(relu=True))
        return torch.autograd.grad(output.square().sum(), weight)[0]

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(5))


def test_threads_of_our_own_do_the_same_as_pytorchs(request: pytest.FixtureRequest) -> None:
    assert NATIVE is not None
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(9, 5, 9, 9, generator=generator)
    weight = torch.randn(6, 5, 3, 3, generator=generator, requires_grad=True)

    def gradient() -> Tensor:
        return torch.autograd.grad(convolve(input, weight, None, (1, 1), (1, 1, 1, 1)).square().sum(), weight)[0]

    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    request.addfinalizer(lambda: library._share_threads(NATIVE))
    torch.set_num_threads(3)
    expected = gradient()
    NATIVE.stan_use_openmp(None)
    assert all(torch.equal(gradient(), expected) for _ in range(20))


def test_inputs_that_native_code_cannot_read_are_left_to_pytorch() -> None:
    assert library.suits(torch.zeros(1))
    assert not library.suits(torch.zeros(1, dtype=torch.float64))
    assert not library.suits(torch.zeros(1), torch.zeros(1, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not library.suits(torch.zeros(1))


@pytest.mark.parametrize(
    ("asked", "form", "reason"),
    [
        ("off", "", "STANTUNE_KERNELS=off"),
        ("portable", "portable", "STANTUNE_KERNELS=portable"),
        ("fast", FORMS[HERE[-1]], "STANTUNE_KERNELS=fast is unknown"),
    ],
)
def test_the_environment_chooses_the_form(asked: str, form: str, reason: str) -> None:
    code = "from stantune.kernels.library import kernels; k = kernels(); print(k.form); print(k.reason)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"STANTUNE_KERNELS": asked, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = ran.stdout.splitlines()
    assert found[0] == form
    assert reason in found[1]


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    found = kernels.__wrapped__()
    assert found.library is None
    assert "is of another version of stantune; install stantune again" in found.reason
