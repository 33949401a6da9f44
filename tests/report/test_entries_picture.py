"""The picture of an entries report: what is drawn where, to one scale, and no words over others."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import pytest
import torch
from PIL import Image

from stantune.errors import StantuneError
from stantune.report.stan.entries import EntriesReport, layer_entries
from stantune.report.stan.entries_picture import KINDS, draw_entries, png
from stantune.stan.entries.entries import PATTERNS, Grid

pytest.importorskip("matplotlib", minversion="3.8")
TITLE = "tiny: entries of STAN in reduced iteration 201, after 200 iterations of training"


def report_of(layers: int, images: int, size: tuple[int, int] = (12, 12), scale: float = 1.0) -> EntriesReport:
    generator = torch.Generator().manual_seed(0)
    return EntriesReport(
        tuple(
            layer_entries(
                "features.a_block_of_some_length.another_one_inside_it.the_last_of_them_all.convolution" * (number % 2)
                + f"conv{number}",
                scale * (number + 1) * torch.randn(images, 3, *size, generator=generator),
                Grid(PATTERNS["blocks"], 0, 1),
            )
            for number in range(layers)
        )
    )


def pixels_of(images: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(256, (images, 10, 10, channels), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def panels(figure):
    """Return the drawn images under the word over their column, columns from left to right, each from the top down."""
    shown = [axes for axes in figure.axes if axes.images]
    columns = {}
    for axes in sorted(shown, key=lambda axes: (axes.get_position(original=True).x0, -axes.get_position().y0)):
        columns.setdefault(round(axes.get_position(original=True).x0, 3), []).append(axes)
    return [(column[0].get_title(), [axes.images[0] for axes in column]) for column in columns.values()]


def test_every_map_has_its_panel_and_scales_are_shared():
    report, pixels = report_of(2, 3), pixels_of(3)
    figure = draw_entries(report, pixels, TITLE)
    columns = panels(figure)
    assert [word for word, _ in columns] == ["image", *KINDS, *KINDS]
    assert all((shown.get_array() == image.numpy()).all() for shown, image in zip(columns[0][1], pixels, strict=True))
    worst = max(float(layer.errors.max()) for layer in report.layers)
    for number, layer in enumerate(report.layers):
        four = [shown for _, shown in columns[1 + 4 * number : 5 + 4 * number]]
        maps = (layer.entries, layer.exact, layer.filled, layer.errors)
        for shown, values in zip(four, maps, strict=True):
            assert [image.get_array().tolist() for image in shown] == [value.tolist() for value in values]
        brightest = pytest.approx(float(max(layer.exact.max(), layer.filled.max())))
        assert {image.get_clim() for image in four[0]} == {(0, 1)}
        for image in (*four[1], *four[2]):
            assert image.get_clim() == (0, brightest)
        assert {image.get_clim() for image in four[3]} == {(0, worst)}
    words = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    for layer in report.layers:
        assert sum(f"25.0 % computed; ‖Y − fill(Y)‖ / ‖Y‖ = {layer.error:.3f}" in word for word in words) == 1
        for error in layer.image_errors:
            assert f"{float(error):.3f}" in words


def test_grey_images_are_grey_and_nothing_drawn_is_not_an_error():
    figure = draw_entries(report_of(1, 1, scale=0.0), pixels_of(1, 1), TITLE)
    (_, (image,)), *others = panels(figure)
    assert image.get_cmap().name == "gray"
    assert image.get_clim() == (0, 255)
    assert others[2][1][0].get_clim() == others[3][1][0].get_clim() == (0, 1)


@pytest.mark.parametrize(
    ("layers", "images", "size", "scale"),
    [
        (1, 1, (3, 3), 0.0),
        (2, 2, (4, 12), 1e-7),
        (3, 4, (32, 32), 30.0),
        (7, 1, (12, 3), 1e6),
    ],
)
def test_no_words_overlap_and_all_are_inside(layers, images, size, scale):
    figure = draw_entries(report_of(layers, images, size, scale), pixels_of(images), TITLE)
    content = png(figure)  # drawn: places are known
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible_texts(figure)]
    assert len(boxes) > 20
    width, height = Image.open(io.BytesIO(content)).size
    for words, box in boxes:
        assert box.x0 >= 0, words
        assert box.y0 >= 0, words
        assert box.x1 <= width, words
        assert box.y1 <= height, words
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), f"{one!r} is over {other!r}"
    drawn = [axes.get_window_extent() for axes in figure.axes]
    for (words, box), axes in itertools.product(boxes, drawn):
        assert not box.overlaps(axes), f"{words!r} is over a panel"
    for first, second in itertools.combinations(drawn, 2):
        assert not first.overlaps(second)


def visible_texts(figure):
    """Return the texts that are drawn: an axis keeps labels beyond its ends, and empty titles."""
    labels = set()
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        for tick in axes.xaxis.get_major_ticks():
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                labels |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(lambda artist: hasattr(artist, "get_window_extent") and hasattr(artist, "get_text"))
        if text.get_text().strip() and text.get_visible() and text not in labels
    ]


def test_the_png_can_be_read():
    image = Image.open(io.BytesIO(png(draw_entries(report_of(1, 1), pixels_of(1), TITLE))))
    assert image.format == "PNG"
    assert 500 < image.width < 1000
    assert 200 < image.height < 600
    assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_missing_matplotlib_is_one_sentence_with_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(StantuneError, match=r"pip install 'stantune\[plots\]'"):
        draw_entries(report_of(1, 1), pixels_of(1), TITLE)


def test_a_drawing_needs_no_pyplot_whose_state_is_the_users(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    assert png(draw_entries(report_of(1, 1), pixels_of(1), TITLE))


def test_the_command_line_imports_nothing_to_draw_with():
    code = "import sys, stantune.cli; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"
