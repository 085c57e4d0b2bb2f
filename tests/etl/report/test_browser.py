"""The page in a real browser: headless Chromium, without network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.etl.report.test_page import report  # noqa: F401  a fixture

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


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("no Chromium: apt-get install chromium")


def browse(chromium: str, page: Path, *options: str) -> tuple[str, str]:
    """Output, and what the browser logs, of the page opened without network."""
    command = [
        chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000",
        f"--user-data-dir={page.parent / 'profile'}", *options, page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize(("width", "height"), [(1400, 2400), (420, 1600)])
def test_it_opens_without_a_fault(chromium: str, report: Path, tmp_path: Path, width: int, height: int) -> None:  # noqa: F811
    page = tmp_path / "report.html"
    page.write_text(report.read_text().replace("</body>", WATCH + "</body>"))
    picture = tmp_path / "report.png"
    size = f"--window-size={width},{height}"
    dom, log = browse(chromium, page, size, "--dump-dom")
    assert "CONSOLE" not in log, log
    found = dict(re.findall(r'data-(wide|plots|good|broken)="(\w+)"', dom))
    # All but the two of confidence, which is the same for all joints of the truth.
    assert found == {"wide": "false", "plots": "8", "good": "8", "broken": "0"}
    _, log = browse(chromium, page, size, f"--screenshot={picture}")
    assert "CONSOLE" not in log, log
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape == (height, width, 3)
    assert image.std() > 20


def test_the_log_would_show_a_fault(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>undefinedFunction()</script>")
    _, log = browse(chromium, page, "--dump-dom")
    assert "undefinedFunction" in log
    assert "CONSOLE" in log
