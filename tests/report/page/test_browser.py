"""The report's page in a real browser: all of it is drawn, and printed, without a complaint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from read_page import Scripts, parsed

import stantune as st
from stantune.report.page.writing import write_report
from tests import tiny_problem


def quick(run: st.Run) -> dict[str, float]:
    for epoch in run.steps():
        run.loss(1 / (epoch + 1))
    return {"cost": run.params["lr"]}


CHROMIUM = shutil.which("chromium")


@pytest.fixture
def browsed(tmp_path: Path) -> Callable[[Path], tuple[Scripts, str, str]]:
    """A real browser, which gives the page as it is after its script has run, and what it said in the console."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium")

    def browse(file: Path) -> tuple[Scripts, str, str]:
        assert CHROMIUM is not None
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1000,800",
            # The script's time, which goes on only while there is something to do.
            "--virtual-time-budget=60000",
            "--enable-logging=stderr",
            "--dump-dom",
            file.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=540)
        said = "\n".join(
            line for line in done.stderr.splitlines() if "CONSOLE" in line and "GL Driver Message" not in line
        )
        return parsed(done.stdout), done.stdout, said

    return browse


def test_a_browser_draws_it_all_without_a_complaint(
    result: st.SearchResult, tmp_path: Path, browsed: Callable[[Path], tuple[Scripts, str, str]]
) -> None:
    seen, dom, said = browsed(result.report(tmp_path / "page.html"))
    assert said == ""
    pictures = json.loads(seen.texts["pictures"])
    assert f'data-drawn="{len(pictures)}"' in dom
    assert dom.count("js-plotly-plot") >= len(pictures)
    first, took = (int(re.findall(rf'data-{name}="(\d+)"', dom)[0]) for name in ("first", "took"))
    assert first < took
    assert "taken" not in dom.partition("</title>")[0]
    trials = result.trials()
    assert f"1 to {min(50, len(trials))} of {len(trials)} trials" in dom
    # The table begins with the best, and names of choices are text in it.
    rows = re.findall(r"<tr>(<td.*?)</tr>", dom.partition('id="trials-0"')[2])
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rows[0])
    best = min((trial for trial in trials if trial.value is not None), key=lambda trial: (trial.value, trial.number))
    assert cells[0] == str(best.number)
    assert float(cells[4]) == float(f"{best.value:.6g}")
    assert "&lt;b&gt;x&lt;/b&gt;" in "".join(rows)


def test_whole_numbers_of_settings_are_shown_and_found_whole(
    tmp_path: Path, browsed: Callable[[Path], tuple[Scripts, str, str]]
) -> None:
    space = st.Space({"lr": st.Float(1e-3, 1), "width": st.Integer(2**20, 2**20 + 3)})
    found = st.tune(quick, space, minimize="cost", max_resource=3, out=tmp_path / "0")
    width = found.trials()[0].params["width"]
    file = found.report()
    sought = (
        "<script>const field = document.querySelector('input[type=search]');"
        f"field.value = '={width}'; field.dispatchEvent(new Event('input'));</script>"
    )
    file.write_text(file.read_text(encoding="utf-8").replace("</body>", f"{sought}</body>"), encoding="utf-8")
    _, dom, said = browsed(file)
    assert said == ""
    rows = re.findall(r"<tr>(<td.*?)</tr>", dom.partition('id="trials-0"')[2].partition("</tbody>")[0])
    shown = [re.findall(r"<td[^>]*>(.*?)</td>", row)[-1] for row in rows]
    assert shown == [str(width)] * sum(trial.params["width"] == width for trial in found.trials())


# A page that is never idle, and is printed after a while; what was drawn by then, and which pictures are live then.
PRINTED = """<script>
requestIdleCallback = () => {};
setTimeout(() => {
  document.body.dataset.before = document.body.dataset.drawn ?? 0;
  dispatchEvent(new Event("beforeprint"));
  setTimeout(() => {
    const live = [...document.querySelectorAll("[data-name=parallel]")].map((host) =>
      [...host.querySelectorAll(".gl-container canvas")].map(
        (canvas) => canvas.getContext("webgl")?.isContextLost() ?? "image"));
    document.body.dataset.live = live.map((each) => [...new Set(each)].join()).join(" ");
  }, 2000);
}, 5000);
</script>"""


@pytest.mark.slow
def test_printing_draws_what_was_not_in_view_and_loses_no_picture_of_many(
    tmp_path: Path, browsed: Callable[[Path], tuple[Scripts, str, str]]
) -> None:
    """Six searches side by side have more pictures by WebGL than a browser keeps; of those some become images."""
    space = st.Space({"lr": st.Float(1e-3, 1), "width": st.Categorical((1, 2))})
    one = st.tune(quick, space, minimize="cost", max_resource=3, out=tmp_path / "0")
    others = [Path(shutil.copytree(one.path, tmp_path / str(number))) for number in range(1, 6)]
    file = write_report([one.path, *others], tmp_path / "page.html")
    file.write_text(file.read_text(encoding="utf-8").replace("<body>", f"<body>{PRINTED}"), encoding="utf-8")
    seen, dom, said = browsed(file)
    assert said == ""
    pictures = json.loads(seen.texts["pictures"])
    assert f'data-drawn="{len(pictures)}"' in dom
    assert int(re.findall(r'data-before="(\d+)"', dom)[0]) < len(pictures) / 2
    assert re.findall(r'data-live="(.*?)"', dom) == ["image image false false false false"]


def test_a_browser_draws_the_maps_of_layers(
    tmp_path: Path, browsed: Callable[[Path], tuple[Scripts, str, str]]
) -> None:
    found = st.tune(
        tiny_problem.problem,
        stan=st.Stan(rate=0.5),
        max_resource=6,
        min_resource=2,
        fixed={"lr": 1e-3, "momentum": 0.5},
        brackets=1,
        device="cpu",
        out=tmp_path / "tiny",
    )
    _, dom, said = browsed(found.report())
    assert said == ""
    # Of three images the image itself, what is computed, the exact and the filled output, and the errors.
    drawn = dom.partition('<div class="maps"')[2].partition("<figcaption>")[0]
    assert re.findall(r'<canvas width="(\d+)" height="(\d+)"', drawn) == [("8", "8")] * 15
    assert re.findall("<span>(.*?)</span>", drawn) == ["image", "computed", "exact", "filled", "errors"]
