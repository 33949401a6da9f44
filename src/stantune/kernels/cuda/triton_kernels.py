"""The Triton programs: a convolution at listed entries with the fill behind it, and the adjoints of both.

Memory is channels last throughout: images (image, row, column, channel), the weight (filter, row, column, channel). The
entry lists are those of `rows.Rows`: `listed` entries in each run of `images` images, with `places` output places in an
image. `folded` is (rows, filters): the computed entries' gradients. No program adds to memory that another one writes,
so that sums have one order and need no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _product(a, b, sum, precision: tl.constexpr, widen: tl.constexpr):
    """Return sum + a · b in float32."""
    if widen:  # Triton's interpreter multiplies bfloat16 as whole numbers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sum, input_precision=precision)


@triton.jit
def _columns(step, channels: tl.constexpr, taps: tl.constexpr, flat: tl.constexpr, depth: tl.constexpr):
    """Return the numbers of the patches' columns that a step of a product is about, and which of them there are.

    The columns are the taps' channels. A step has `depth` ones: any in a row if `flat`, for few channels, or else one
    tap's.
    """
    if flat:
        number = step * depth + tl.arange(0, depth)
        there = number < taps * channels
    else:
        channel = step % ((channels + depth - 1) // depth) * depth + tl.arange(0, depth)
        there = channel < channels
        number = step // ((channels + depth - 1) // depth) * channels + channel
    return number, there


@triton.jit
def _patches(
    input,
    image,
    row,
    column,
    inside,
    step,
    number,
    there,
    height,
    width,
    down,
    across,
    channels: tl.constexpr,
    kernel_w: tl.constexpr,
    flat: tl.constexpr,
    depth: tl.constexpr,
):
    """Return a step's columns of the patches that begin at these rows and columns of the images, (entries, depth)."""
    if flat:
        tap = (number // channels)[None, :]
        channel = (number % channels)[None, :]
    else:
        tap = step // ((channels + depth - 1) // depth)
        channel = (number - tap * channels)[None, :]
    y = row[:, None] + tap // kernel_w * down
    x = column[:, None] + tap % kernel_w * across
    met = inside[:, None] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    address = ((image[:, None] * height + y) * width + x) * channels + channel
    return tl.load(input + address, mask=met & there[None, :], other=0.0)


@triton.jit
def _begin(positions, row, rows, listed, images, places, out_w, stride_h, stride_w, top, left):
    """Return where the patches of these entries begin: image, row, column; and which entries there are."""
    inside = row < rows
    position = tl.load(positions + row % listed, mask=inside, other=0)
    image = row // listed * images + position // places
    place = position % places
    return image, place // out_w * stride_h - top, place % out_w * stride_w - left, inside


@triton.jit
def forward(
    input,
    weight,
    bias,
    output,
    positions,
    begins,
    copies,
    rows,
    listed,
    images,
    places,
    out_w,
    height,
    width,
    stride_h,
    stride_w,
    top,
    left,
    down,
    across,
    channels: tl.constexpr,
    filters: tl.constexpr,
    kernel_w: tl.constexpr,
    taps: tl.constexpr,
    biased: tl.constexpr,
    flat: tl.constexpr,
    block_rows: tl.constexpr,
    block_filters: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
    widen: tl.constexpr,
):
    """Convolve at the entries, and write each to all the places that it fills."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    image, y, x, inside = _begin(positions, row, rows, listed, images, places, out_w, stride_h, stride_w, top, left)
    filter = tl.program_id(1) * block_filters + tl.arange(0, block_filters)
    wanted = filter < filters
    steps = (taps * channels + depth - 1) // depth if flat else taps * ((channels + depth - 1) // depth)
    sum = tl.zeros((block_rows, block_filters), tl.float32)
    for step in range(0, steps):
        number, there = _columns(step, channels, taps, flat, depth)
        patches = _patches(
            input,
            image,
            y,
            x,
            inside,
            step,
            number,
            there,
            height,
            width,
            down,
            across,
            channels,
            kernel_w,
            flat,
            depth,
        )
        factors = tl.load(
            weight + filter[None, :] * (taps * channels) + number[:, None],
            mask=there[:, None] & wanted[None, :],
            other=0.0,
        )
        sum = _product(patches, factors, sum, precision, widen)
    if biased:
        sum += tl.load(bias + filter, mask=wanted, other=0.0).to(tl.float32)[None, :]
    values = sum.to(output.dtype.element_ty)

    first = tl.load(begins + row % listed, mask=inside, other=0)
    copied_to = tl.load(begins + row % listed + 1, mask=inside, other=0) - first
    repeat = row // listed * (images * places)
    for copy in range(0, tl.max(copied_to, 0)):
        copied = copy < copied_to
        place = repeat + tl.load(copies + first + copy, mask=copied, other=0)
        tl.store(output + place[:, None] * filters + filter[None, :], values, mask=copied[:, None] & wanted[None, :])


@triton.jit
def fold(
    gradient,
    folded,
    begins,
    copies,
    rows,
    listed,
    repeated,
    filters: tl.constexpr,
    block_rows: tl.constexpr,
    block_filters: tl.constexpr,
):
    """Sum the output's gradient over the places that each entry fills: the fill's adjoint."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    inside = row < rows
    filter = tl.program_id(1) * block_filters + tl.arange(0, block_filters)
    wanted = filter < filters
    first = tl.load(begins + row % listed, mask=inside, other=0)
    number = tl.load(begins + row % listed + 1, mask=inside, other=0) - first
    repeat = row // listed * repeated
    sum = tl.zeros((block_rows, block_filters), tl.float32)
    for copy in range(0, tl.max(number, 0)):
        copied = copy < number
        place = repeat + tl.load(copies + first + copy, mask=copied, other=0)
        sum += tl.load(
            gradient + place[:, None] * filters + filter[None, :],
            mask=copied[:, None] & wanted[None, :],
            other=0.0,
        ).to(tl.float32)
    tl.store(
        folded + row[:, None] * filters + filter[None, :],
        sum.to(folded.dtype.element_ty),
        mask=inside[:, None] & wanted[None, :],
    )


@triton.jit
def weight_gradient(
    input,
    folded,
    parts,
    positions,
    rows,
    rows_each,
    listed,
    images,
    places,
    out_w,
    height,
    width,
    stride_h,
    stride_w,
    top,
    left,
    down,
    across,
    channels: tl.constexpr,
    filters: tl.constexpr,
    kernel_w: tl.constexpr,
    taps: tl.constexpr,
    flat: tl.constexpr,
    block_rows: tl.constexpr,
    block_filters: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
    widen: tl.constexpr,
):
    """Sum gradient · patch over a part of the entries; `parts`, (parts, filters, taps, channels), are summed later."""
    filter = tl.program_id(0) * block_filters + tl.arange(0, block_filters)
    wanted = filter < filters
    step = tl.program_id(1)
    begin = tl.program_id(2) * rows_each
    end = tl.minimum(begin + rows_each, rows)
    number, there = _columns(step, channels, taps, flat, depth)
    sum = tl.zeros((block_filters, depth), tl.float32)
    for start in range(begin, end, block_rows):
        row = start + tl.arange(0, block_rows)
        image, y, x, inside = _begin(positions, row, end, listed, images, places, out_w, stride_h, stride_w, top, left)
        patches = _patches(
            input,
            image,
            y,
            x,
            inside,
            step,
            number,
            there,
            height,
            width,
            down,
            across,
            channels,
            kernel_w,
            flat,
            depth,
        )
        gradient = tl.load(
            folded + row[:, None] * filters + filter[None, :],
            mask=inside[:, None] & wanted[None, :],
            other=0.0,
        )
        sum = _product(tl.trans(gradient), patches, sum, precision, widen)
    place = (tl.program_id(2) * filters + filter[:, None]) * (taps * channels) + number[None, :]
    tl.store(parts + place, sum, mask=wanted[:, None] & there[None, :])


@triton.jit
def input_gradient(
    folded,
    weight,
    result,
    pixels,
    numbers,
    total,
    repeats,
    listed,
    images,
    places,
    out_h,
    out_w,
    height,
    width,
    stride_h,
    stride_w,
    top,
    left,
    down,
    across,
    channels: tl.constexpr,
    filters: tl.constexpr,
    kernel_w: tl.constexpr,
    taps: tl.constexpr,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
    widen: tl.constexpr,
):
    """Sum, for each pixel of the input, what the entries bring whose patches it is in.

    A tap is skipped where it reaches none of a block's pixels from a computed entry. The pixels are sorted by the taps
    that reach them, each one in all repeats beside itself, so that nearly all is skipped that can be.
    """
    index = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    inside = index < total
    pixel = tl.load(pixels + index // repeats, mask=inside, other=0)
    repeat = index % repeats
    image = pixel // (height * width)
    y = pixel // width % height
    x = pixel % width
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    wanted = channel < channels
    sum = tl.zeros((block_rows, block_channels), tl.float32)
    for tap in range(0, taps):
        row = y + top - tap // kernel_w * down
        column = x + left - tap % kernel_w * across
        reached = inside & (row >= 0) & (column >= 0) & (row % stride_h == 0) & (column % stride_w == 0)
        row = row // stride_h
        column = column // stride_w
        reached &= (row < out_h) & (column < out_w)
        number = tl.load(numbers + image * places + row * out_w + column, mask=reached, other=-1)
        if tl.max(number, 0) >= 0:
            computed = number >= 0
            entry = (repeat * listed + number) * filters
            for start in range(0, filters, depth):
                filter = start + tl.arange(0, depth)
                there = filter < filters
                gradient = tl.load(
                    folded + entry[:, None] + filter[None, :], mask=computed[:, None] & there[None, :], other=0.0
                )
                factors = tl.load(
                    weight + (filter[:, None] * taps + tap) * channels + channel[None, :],
                    mask=there[:, None] & wanted[None, :],
                    other=0.0,
                )
                sum = _product(gradient, factors, sum, precision, widen)
    place = (repeat * images + image) * (height * width) + y * width + x
    tl.store(
        result + place[:, None] * channels + channel[None, :],
        sum.to(result.dtype.element_ty),
        mask=inside[:, None] & wanted[None, :],
    )
