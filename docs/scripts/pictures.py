"""Makes the docs' pictures anew: STAN's entries and schedule, and the report of a real search as a browser shows it.

    python docs/scripts/pictures.py [entries | schedule | report] …

takes MNIST and CIFAR-10, Matplotlib, and for the report Chromium and a few minutes.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from stantune.cli import app
from stantune.stan.schedule import Phase, Schedule

PICTURES = Path(__file__).parents[1] / "pictures"
COLOURS = {Phase.EXACT: "#1f3b57", Phase.REFRESH: "#5b8db8", Phase.REDUCED: "#f0c987"}
SCHEDULES = {
    "Stan(): every second iteration exact (the default)": Schedule(),
    "Stan(period=4): four reduced ones after each refresh": Schedule(period=4),
    "Stan(pretrain=6, period=3, tail=6, iterations=40)": Schedule(pretrain=6, period=3, tail=6, total=40),
}
LENGTH = 40


def kept(image: Image.Image, name: str) -> None:
    """Write a picture with as many colours as it needs, 256 at most: a third of its size."""
    image.convert("RGB").quantize(256).save(PICTURES / name, optimize=True)


def entries() -> None:
    """Draw what two rates compute of `cq`'s second convolution, after 200 iterations."""
    for rate, name in ((0.5, "entries-half.png"), (0.25, "entries-quarter.png")):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            stantune("entries", "cq", "--images", "3", "--layers", "conv2", "--rate", str(rate), "--out", str(file))
            kept(Image.open(file), name)


def schedule() -> None:
    """Draw which iterations are exact, refreshing and reduced."""
    figure = Figure(figsize=(8, 2.6), dpi=100, facecolor="white")
    axes = figure.add_axes((0.02, 0.2, 0.96, 0.72))
    for row, (words, each) in enumerate(SCHEDULES.items()):
        colours = [COLOURS[each.phase(iteration)] for iteration in range(LENGTH)]
        axes.bar(range(LENGTH), 0.45, bottom=-row, width=0.9, align="edge", color=colours)
        axes.text(0, 0.52 - row, words, fontsize=9, va="bottom")
    for number, (phase, colour) in enumerate(COLOURS.items()):
        axes.bar(0, 0, color=colour, label=phase if number else "exact (evaluation is, always)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False, fontsize=9)
    axes.set_xlim(0, LENGTH)
    axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer)
    kept(Image.open(buffer), "schedule.png")


def report() -> None:
    """Search LeNet as the README does, and take a picture of the report's beginning."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "lenet"
        stantune("search", "lenet", "--quick", "--out", str(directory))
        stantune("report", str(directory))
        picture(directory / "report.html", Path(folder) / "report.png")
        kept(Image.open(Path(folder) / "report.png"), "report.png")


def picture(page: Path, file: Path, width: int = 1100, height: int = 1450) -> None:
    """Have a browser without a screen take a picture of a page's beginning."""
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("there is no chromium here; install Debian's package of that name")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"),
                *(f"--user-data-dir={profile}", f"--window-size={width},{height}", "--hide-scrollbars"),
                *("--virtual-time-budget=60000", f"--screenshot={file}", page.as_uri()),
            ],
            check=True,
            capture_output=True,
        )


def stantune(*arguments: str) -> None:
    """Run a command of ours."""
    app(arguments, standalone_mode=False)


PARTS: dict[str, Callable[[], None]] = {"entries": entries, "schedule": schedule, "report": report}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
