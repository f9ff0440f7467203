"""The page in a real browser: quiet, narrow enough for a phone, and sorted by a click. Skipped without Chromium.

A frame of the wanted width holds the page; a script beside it asks and clicks, and leaves its answer in the document
that Chromium prints. So no driver is needed.
"""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.config import ReportConfig
from segcore.publish import report
from segcore.store import Workspace
from tests.synthetic import put_image, put_label

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
LONG = "a-scan-of-which-the-name-does-not-end-before-the-screen-does-0123abcd"
ASKING = """<!doctype html><iframe id="frame" src="{page}" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>
frame.addEventListener("load", () => {{
  const page = frame.contentDocument, view = frame.contentWindow;
  const answer = document.createElement("pre");
  answer.textContent = JSON.stringify(({question})(page, view));
  document.body.replaceChildren(answer);
}});
</script>"""
SORTED = """(page, view) => {
  const table = page.querySelector("table[data-sort]");
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const click = (name) => [...table.querySelectorAll("th button")].find((it) => it.textContent === name).click();
  const found = [order()];
  for (const name of ["IoU without background", "IoU without background", "foreground: area", "image"]) {
    click(name);
    found.push(order());
  }
  return [found, [...table.tHead.rows[0].cells].map((head) => head.getAttribute("aria-sort")).filter((it) => it)];
}"""
WIDTHS = "(page, view) => [page.documentElement.scrollWidth, view.innerWidth]"
PAPER = "(page, view) => view.getComputedStyle(page.body).backgroundColor"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


class Pages:
    """Files of a folder, served, and asked about in Chromium."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def ask(self, page: str, question: str, width: int = 390, *flags: str) -> tuple[Any, list[str]]:
        """What a function of (document, window) answers about a page, and what the page said on the console."""
        asking = ASKING.format(page=page, width=width, question=question)
        (self._folder / "ask.html").write_text(asking, encoding="utf-8")
        command = [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--no-first-run", f"--user-data-dir={self._folder / 'profile'}",
            "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=20000", *flags, "--dump-dom",
            f"http://127.0.0.1:{self._server.server_port}/ask.html",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
        answer = re.search("<pre>(.*)</pre>", done.stdout, re.DOTALL)
        assert answer is not None, done.stdout[-2000:]
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return json.loads(html.unescape(answer[1])), said


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """report.html and compare.html of three images with shares 0.9, 0.1 and 0.5, and one without a target."""
    ws = Workspace.open(str(tmp_path_factory.mktemp("work") / "ws"), create=True)
    for image_id, share in {"x": 0.9, LONG: 0.1, "b": 0.5, "none": 0.7}.items():
        put_image(ws, image_id, np.random.default_rng(0).integers(0, 255, (3, 100, 80), dtype=np.uint8))
        ids = np.zeros((100, 80), np.uint8)
        ids[10:60, 10:60] = 1
        if image_id != "none":
            put_label(ws, image_id, "target", ids)
        put_label(ws, image_id, "other", ids)
        ids[:, 10 + round(50 * share) :] = 0
        put_label(ws, image_id, "m", ids)
    for more in ({"model": "other"}, {"model": "m", "against": "other"}, {"compare": ("m", "other")}):
        report(ReportConfig(workspace=ws.uri, run="r", **more))
    served = Pages(Path(ws.uri) / "reports/r")
    yield served
    served.close()


def test_pages_are_quiet_and_fit_a_phone(pages: Pages) -> None:
    for page in ("report.html", "compare.html"):
        widths, said = pages.ask(page, WIDTHS)
        assert widths == [390, 390]
        assert said == []


def test_a_click_on_a_heading_sorts(pages: Pages) -> None:
    (found, sorted_by), said = pages.ask("report.html", SORTED)
    worst = [LONG, "b", "x", "none"]
    assert found == [worst, worst, ["x", "b", LONG, "none"], [LONG, "b", "none", "x"], [LONG, "b", "none", "x"]]
    assert sorted_by == ["ascending"]
    assert said == []


def test_the_dark_page_is_dark(pages: Pages) -> None:
    papers = []
    for scheme in (1, 0):
        color, _ = pages.ask("report.html", PAPER, 390, f"--blink-settings=preferredColorScheme={scheme}")
        papers.append(max(int(part) for part in re.findall(r"\d+", color)))
    assert papers[0] == 255
    assert papers[1] < 64


def test_what_the_console_says_is_heard(pages: Pages) -> None:
    """That the pages are quiet is worth something only if a noise would be heard."""
    _, said = pages.ask("report.html", "(page, view) => (console.error('a noise'), null)")
    assert len(said) == 1
