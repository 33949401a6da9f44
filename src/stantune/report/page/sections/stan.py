"""The page's part on STAN: its settings, what its layers compute, and predicted against measured times."""

from __future__ import annotations

from html import escape

from stantune.report.page.contract import Entries, LayerMaps, Profiled, Reduced, SearchNumbers
from stantune.report.page.tags import paragraphs, plain, table
from stantune.report.page.times import off_by, time_text

_CAPTION = (
    "In each row an image; from the left: what is computed (dark) and what is filled from its neighbours (light), the "
    "norm over the channels of the exact output and of the filled one, and of the difference between them. Light is "
    "much: {brightest:.3g} at most, and of the errors, in units of the root mean square of the image's norms, "
    "{worst:.3g}. Relative errors of the images: {errors}."
)


def stan_section(search: SearchNumbers, place: int) -> str:
    """Return the part on STAN, "" where trials train exactly."""
    stan, profiled = search.stan, search.profiled
    if stan is None:
        return ""
    text = table(["setting", "value"], [[name, plain(value)] for name, value in stan.settings.items()])
    if stan.layers and search.entries is None and profiled is None:
        text += table(["layer", "what reduced iterations compute"], [list(each) for each in stan.layers.items()])
    text += _times(stan, profiled, search.summary.unit)
    if profiled is not None:
        text += _layers(profiled)
    if search.entries is not None:
        text += _entries(search.entries, place)
    elif search.without_entries is not None:
        text += paragraphs([f"What each layer computes is not drawn: {search.without_entries}."])
    return text


def _times(stan: Reduced, profiled: Profiled | None, unit: str) -> str:
    heads, rows = [f"{unit}s", "how many", "of one, as measured"], []
    for kind in ("exact", "reduced"):
        measured = stan.exact_seconds if kind == "exact" else stan.reduced_seconds
        # What a function or Lightning counts has many iterations.
        name = kind if kind == "exact" or unit == "iteration" else "with reduced iterations"
        row = [name, str(stan.exact if kind == "exact" else stan.reduced), time_text(measured)]
        if profiled is not None:
            predicted = profiled.seconds_exact if kind == "exact" else profiled.seconds_reduced
            row += [time_text(predicted), off_by(measured, predicted)]
        rows.append(row)
    return table([*heads, "as profiled", "measured against profiled"] if profiled is not None else heads, rows)


def _layers(profiled: Profiled) -> str:
    rows = [
        [
            layer.name or "(the model)",
            " or ".join(layer.patterns) or "every entry",
            time_text(layer.exact),
            time_text(layer.saved),
            layer.left_alone or "",
        ]
        for layer in profiled.layers
    ]
    return paragraphs(["Layer by layer, as profiled; trials are timed as a whole, and not by layer."]) + table(
        ["layer", "what reduced iterations compute", "exact", "a reduced one saves", "left alone because"], rows
    )


def _entries(entries: Entries, place: int) -> str:
    """Return the numbers of the layers, and the places for their maps, which the script draws."""
    rows = [
        [
            layer.name or "(the model)",
            f"{layer.height} x {layer.width}",
            layer.pattern,
            f"{100 * layer.kept:.1f} %",
            f"{layer.error:.3f}",
        ]
        for layer in entries.layers
    ]
    said = (
        f"What each layer computes in reduced iteration {entries.iteration}, with the weights of the final training "
        f"after {entries.trained} iterations; error: norm of exact less filled output over that of the exact one."
    )
    if entries.more:
        said += f" There are {entries.more} more layers."
    drawn = "".join(_layer(layer, place, number) for number, layer in enumerate(entries.layers))
    head = ["layer", "output", "pattern", "computed", "error"]
    return f'{paragraphs([said])}{table(head, rows)}<div class="pictures">{drawn}</div>'


def _layer(layer: LayerMaps, place: int, number: int) -> str:
    name = layer.name or "the model"
    errors = ", ".join(f"{error:.3f}" for error in layer.image_errors)
    caption = _CAPTION.format(brightest=layer.brightest, worst=layer.worst, errors=errors)
    if (layer.rows, layer.columns) != (layer.height, layer.width):
        caption += f" The middle {layer.rows} x {layer.columns} of {layer.height} x {layer.width} is drawn."
    return (
        f'<figure><h3>layer {escape(name)}</h3><div class="maps" role="img" data-search="{place}" '
        f'data-layer="{number}" aria-label="{escape(f"maps of layer {name}")}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
