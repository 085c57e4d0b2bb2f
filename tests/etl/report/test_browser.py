"""The page in a real browser: headless Chromium, without network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from etl import pipeline
from etl.config import load
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from etl.report.page import write_report
from tests.etl.report.test_page import report, text_of  # noqa: F401  a fixture

pytestmark = pytest.mark.browser
WATCH = """<script>window.addEventListener("load", function () { setTimeout(function () {
  var wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  var drawn = Array.from(document.querySelectorAll(".js-plotly-plot")).map(function (plot) {
    var place = plot.getBoundingClientRect(), figure = plot.closest("figure").getBoundingClientRect();
    return plot.querySelectorAll(".main-svg").length > 0 && place.width <= figure.width + 1 && place.height > 60;
  });
  document.body.dataset.wide = wide;
  document.body.dataset.plots = drawn.length;
  document.body.dataset.good = drawn.filter(Boolean).length;
  document.body.dataset.broken = Array.from(document.images).filter(function (i) { return !i.naturalWidth; }).length;
}, 1500); });</script>"""


def find_chromium() -> str:
    """Its path; without one, tests are skipped, or fail where a browser is required."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    if os.environ.get("XYCD_REQUIRE_BROWSER"):
        pytest.fail("no Chromium, though XYCD_REQUIRE_BROWSER is set: tests/install-chromium.sh")
    pytest.skip("no Chromium: tests/install-chromium.sh")


@pytest.fixture(scope="session")
def chromium() -> str:
    return find_chromium()


def browse(chromium: str, page: Path, *options: str) -> tuple[str, str]:
    """Output, and what the browser logs, of the page opened without network."""
    command = [
        chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000",
        f"--user-data-dir={page.parent / 'profile'}", *options, page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with a detector's errors, and with frames that fail in two ways."""
    folder = tmp_path_factory.mktemp("troubled")
    plan = Plan(subjects=("S1",), actions=("Walking",), cameras=("54138969", "55011271"), frames=30, scale=0.2)
    render(folder / "raw", plan, workers=1)
    values = {
        "workspace": str(folder / "work"),
        "datasets": {"h36m": {"root": str(folder / "raw"), "hz": 50}},
        "models": {
            "set": "tests.etl.noisy:build",
            "options": {"folder": str(folder / "raw"), "share": 0.03, "lost": 7, "broken": 11},
        },
        "cluster": {"workers": 1},
    }
    pipeline.run(load(None, values))
    page = write_report(folder / "work", None, folder / "report.html")
    text = text_of(page)
    assert "model_error: 4 in 2 sequences" in text
    assert "no_person: 8 in 2 sequences" in text
    assert "Rank correlation of confidence and error of the limb joints: -" in text
    return page


@pytest.mark.parametrize(("width", "height"), [(1400, 2400), (420, 1600)])
# Of the truth, all but the two of confidence, which is the same for all joints.
@pytest.mark.parametrize(("which", "plots"), [("report", 8), ("troubled", 10)])
def test_it_opens_without_a_fault(
    chromium: str, request: pytest.FixtureRequest, tmp_path: Path, which: str, plots: int, width: int, height: int
) -> None:
    page = tmp_path / "report.html"
    page.write_text(request.getfixturevalue(which).read_text().replace("</body>", WATCH + "</body>"))
    picture = tmp_path / "report.png"
    size = f"--window-size={width},{height}"
    dom, log = browse(chromium, page, size, "--dump-dom")
    assert "CONSOLE" not in log, log
    found = dict(re.findall(r'data-(wide|plots|good|broken)="(\w+)"', dom))
    assert found == {"wide": "false", "plots": str(plots), "good": str(plots), "broken": "0"}
    _, log = browse(chromium, page, size, f"--screenshot={picture}")
    assert "CONSOLE" not in log, log
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape == (height, width, 3)
    assert image.std() > 20


def test_a_browser_can_be_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("XYCD_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install-chromium"):
        find_chromium()
    monkeypatch.setenv("XYCD_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="XYCD_REQUIRE_BROWSER"):
        find_chromium()


def test_the_log_would_show_a_fault(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>undefinedFunction()</script>")
    _, log = browse(chromium, page, "--dump-dom")
    assert "undefinedFunction" in log
    assert "CONSOLE" in log
