"""Draws an EntriesReport: images, and per layer E, the exact output, the filled one and the error between them."""

from __future__ import annotations

import io
import math
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from stantune.errors import StantuneError
from stantune.report.stan.entries import EntriesReport, LayerEntries

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Everything is placed in inches from the top left corner, so that nothing overlaps however many layers and images there
# are. A panel is 128 pixels wide: outputs of 8, 16 or 32 entries are drawn without a remainder.
DOTS_PER_INCH = 100
PANEL = 1.28
GAP = 0.07
MARGIN = 0.2
HEAD = 0.7  # of a layer: its name, its figures, and the words over the columns
FOOT = 0.75  # of a layer: colour bars and their words
BETWEEN_LAYERS = 0.55
BESIDE_IMAGES = 0.25
LINE = 0.22
LAYERS_ACROSS = 3
KINDS = ("computed", "exact output", "filled output", "error")
COMPUTED, FILLED = "#1f3b57", "#e8ecf0"
# A formula stays in one piece where the caption is broken into lines.
CAPTION = (
    "Outputs: norm over the channels of each entry. Error: norm of the difference between them, in units of the root "
    "mean square of the image's norms; the number beside it is the image's own ‖Y − fill(Y)‖ / ‖Y‖."
).replace("‖Y − fill(Y)‖ / ‖Y‖", "‖Y\u00a0−\u00a0fill(Y)‖\u00a0/\u00a0‖Y‖")


class _Place(NamedTuple):
    """Inches from the top left corner of the figure."""

    left: float
    top: float


def require_matplotlib() -> None:
    """Raise StantuneError, which says how to install it, where Matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise StantuneError(
            "drawing needs Matplotlib, which is not installed; pip install 'stantune[plots]'"
        ) from error


def draw_entries(report: EntriesReport, pixels: Tensor, title: str) -> Figure:
    """Draw a report.

    Args:
        report: of B images.
        pixels: the same images as people know them, uint8 (B, H, W, C): in colour where C is 3, else the first channel.
        title: of the whole picture.

    Raises:
        StantuneError: Matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    lines = math.ceil(len(report.layers) / LAYERS_ACROSS)
    across = math.ceil(len(report.layers) / lines)
    block = len(KINDS) * (PANEL + GAP)
    line = HEAD + len(pixels) * (PANEL + GAP) + FOOT
    width = 2 * MARGIN + PANEL + BESIDE_IMAGES + across * block + (across - 1) * BETWEEN_LAYERS + LINE
    # Letters of these sizes are 0.12 and 0.07 inches wide on average.
    titles, captions = textwrap.wrap(title, int(width / 0.12)), textwrap.wrap(CAPTION, int(width / 0.07))
    first = MARGIN + (len(titles) + len(captions) + 1) * LINE
    figure = Figure(figsize=(width, first + lines * line), dpi=DOTS_PER_INCH, facecolor="white")
    for number, words in enumerate(titles):
        _text(figure, _Place(MARGIN, MARGIN + number * LINE), words, size=13, weight="bold")
    for number, words in enumerate(captions, len(titles)):
        _text(figure, _Place(MARGIN, MARGIN + number * LINE), words, size=9)
    worst = max(float(layer.errors.max()) for layer in report.layers)
    for number, layer in enumerate(report.layers):
        row, column = divmod(number, across)
        top = first + row * line
        if column == 0:
            _draw_images(figure, pixels, _Place(MARGIN, top))
        left = MARGIN + PANEL + BESIDE_IMAGES + column * (block + BETWEEN_LAYERS)
        _draw_layer(figure, layer, _Place(left, top), worst)
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_images(figure: Figure, pixels: Tensor, at: _Place) -> None:
    for number, image in enumerate(pixels.cpu()):
        axes = _axes(figure, _Place(at.left, at.top + HEAD + number * (PANEL + GAP)))
        if image.shape[-1] == 3:
            axes.imshow(image.numpy())
        else:
            axes.imshow(image[..., 0].numpy(), cmap="gray", vmin=0, vmax=255)
        if number == 0:
            axes.set_title("image", fontsize=9, pad=4)


def _draw_layer(figure: Figure, layer: LayerEntries, at: _Place, worst: float) -> None:
    """Draw a layer's panels, a row for each image, with a head and a foot; `worst` is the top of the errors' scale."""
    from matplotlib.colors import ListedColormap

    name = f"layer {layer.name}" if layer.name else "the model"
    _text(figure, at, name if len(name) <= 50 else f"{name[:20]} … {name[-27:]}", size=10, weight="bold")
    figures = f"{layer.pattern}, {100 * layer.kept:.1f} % computed; ‖Y − fill(Y)‖ / ‖Y‖ = {layer.error:.3f}"
    _text(figure, _Place(at.left, at.top + LINE), figures, size=10)
    brightest = float(max(layer.exact.max(), layer.filled.max()))
    kinds: tuple[tuple[Tensor, str | Colormap, float], ...] = (
        (layer.entries, ListedColormap([FILLED, COMPUTED]), 1.0),
        (layer.exact, "viridis", brightest),
        (layer.filled, "viridis", brightest),
        (layer.errors, "inferno", worst),
    )
    below = at.top + HEAD + len(layer.entries) * (PANEL + GAP)
    for column, (word, (maps, colours, top)) in enumerate(zip(KINDS, kinds, strict=True)):
        left = at.left + column * (PANEL + GAP)
        for row, values in enumerate(maps.cpu()):
            axes = _axes(figure, _Place(left, at.top + HEAD + row * (PANEL + GAP)))
            # A scale needs a length, also where all is 0.
            drawn = axes.imshow(values.numpy(), cmap=colours, vmin=0, vmax=top or 1.0)
            if row == 0:
                axes.set_title(word, fontsize=9, pad=4)
            if word == "error":
                axes.yaxis.set_label_position("right")
                axes.set_ylabel(f"{float(layer.image_errors[row]):.3f}", fontsize=8, labelpad=3)
        if word == "computed":
            _legend(figure, _Place(left, below + 0.05))
        elif word == "filled output":
            _bar(figure, drawn, _Place(left - PANEL - GAP, below + 0.05), 2 * PANEL + GAP, "norm")
        elif word == "error":
            _bar(figure, drawn, _Place(left, below + 0.05), PANEL, "error")


def _legend(figure: Figure, at: _Place) -> None:
    for number, (colour, word) in enumerate(((COMPUTED, "computed"), (FILLED, "filled"))):
        top = at.top + number * 0.2
        _axes(figure, _Place(at.left, top), 0.12, 0.12).set_facecolor(colour)
        _text(figure, _Place(at.left + 0.2, top - 0.05), word, size=8)


def _bar(figure: Figure, image: AxesImage, at: _Place, width: float, label: str) -> None:
    # Shorter than the panels above it, so that the numbers at its ends meet no neighbour's.
    axes = _axes(figure, _Place(at.left + 0.12, at.top), width - 0.24, 0.1)
    bar = figure.colorbar(image, cax=axes, orientation="horizontal")
    bar.set_label(label, fontsize=8, labelpad=2)
    bar.ax.tick_params(labelsize=7, length=2, pad=2)
    bar.ax.locator_params(nbins=4 if width > PANEL else 2)


def _axes(figure: Figure, at: _Place, width: float = PANEL, height: float = PANEL) -> Axes:
    """Return new axes without ticks."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((at.left / wide, 1 - (at.top + height) / high, width / wide, height / high))
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def _text(figure: Figure, at: _Place, words: str, size: float, weight: str = "normal") -> None:
    """Write one line, its middle half a LINE below `at`."""
    wide, high = figure.get_size_inches()
    figure.text(at.left / wide, 1 - (at.top + LINE / 2) / high, words, fontsize=size, va="center", weight=weight)
