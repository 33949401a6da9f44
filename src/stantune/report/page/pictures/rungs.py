"""The picture of what became of the trials of each rung."""

from __future__ import annotations

from stantune.report.page.contract import RungFlow, SearchNumbers
from stantune.report.page.pictures.picture import OPEN, ROW, STYLES, Picture


def flow_of(search: SearchNumbers) -> Picture | None:
    """Return what became of the trials of each rung."""
    rungs = [rung for rung in search.flow if _members(rung)]
    if not rungs:
        return None
    names = list[str]()
    for rung in rungs:
        name = f"bracket {rung.bracket}, {rung.iterations}"
        # A measured plan may have several brackets with the same rungs.
        before = sum(name in (other, other.partition(" (")[0]) for other in names)
        names.append(f"{name} ({before + 1})" if before else name)
    data = []
    for kind in ("promoted", "finished", "dropped", "diverged", "failed", "open"):
        counts = [getattr(rung, kind) for rung in rungs]
        if any(counts):
            style = OPEN if kind == "open" else STYLES[kind]
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": kind,
                    "x": counts,
                    "y": names,
                    "text": [str(count) if count else "" for count in counts],
                    "textposition": "inside",
                    "insidetextanchor": "middle",
                    "marker": {
                        "color": style["color"],
                        "pattern": {"shape": style["pattern"], "fillmode": "overlay", "size": 6, "solidity": 0.2},
                    },
                    "hovertemplate": f"%{{x}} {kind}, %{{y}}<extra></extra>",
                }
            )
    layout = {
        "barmode": "stack",
        "height": 130 + ROW * len(rungs),
        "yaxis": {"autorange": "reversed"},
    }
    caption = (
        f"What became of the trials of each rung, told by its bracket and its {search.summary.unit}s: "
        "a rung's promoted ones are those of the bar below it, up to the next "
        "bracket. Open are those that are on the way, or wait for the others."
    )
    return Picture("flow", "Through brackets and rungs", caption, data, layout)


def _members(rung: RungFlow) -> int:
    return rung.promoted + rung.finished + rung.dropped + rung.diverged + rung.failed + rung.open
