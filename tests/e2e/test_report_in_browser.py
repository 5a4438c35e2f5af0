"""The report in a real browser: no horizontal scrolling, no console messages, no network requests.

Samples can be reached by the keyboard and enlarged, and the enlarged image fits the window.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dit_eval.report.page import write_report
from tests.handmade import handmade

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=2000", "--enable-logging=stderr", "--dump-dom"),
)
WIDTHS = (1280, 800, 390)

# Frames of all widths around the page; what they look like from outside is written into the document.
FRAMES = """<!doctype html><body>{frames}<pre></pre><script>
// Tab stops of the samples, and the width of the first one before and after it is selected
function enlarged(page) {{
  const buttons = [...page.querySelectorAll(".sheet button")];
  if (!buttons.length) return null;
  const before = buttons[0].getBoundingClientRect();
  buttons[0].click();
  const after = page.querySelector(":popover-open").getBoundingClientRect();
  return [buttons.filter(button => button.tabIndex === 0).length, before.width, after.left, after.right];
}}
addEventListener("load", () => {{
  const facts = [...document.querySelectorAll("iframe")].map(frame => ({{
    width: frame.contentDocument.documentElement.clientWidth,
    scroll: frame.contentDocument.documentElement.scrollWidth,
    enlarged: enlarged(frame.contentDocument),
    tables: frame.contentDocument.querySelectorAll("table").length,
    asked: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
  }}));
  document.querySelector("pre").textContent = JSON.stringify(facts);
}});
</script>"""


def looked_at(page: str, folder: Path) -> tuple[list[dict], list[str]]:
    """What a browser sees of the page at all widths, and its console's lines."""
    assert BROWSER is not None
    frames = "".join(
        f'<iframe srcdoc="{html.escape(page)}" style="border: 0; width: {width}px; height: 800px"></iframe>'
        for width in WIDTHS
    )
    path = folder / "frames.html"
    path.write_text(FRAMES.format(frames=frames), "utf-8")
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout)
    assert found is not None, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium to open the report in")
def test_nothing_scrolls_sideways_complains_or_is_asked_for(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a_long_name_of_a_batch_without_a_blank_in_it.npz", "ref.npz"):
        images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / name, arr_0=images, arr_1=np.arange(40) % 4)
    drawn = {"samples": tmp_path / "a_long_name_of_a_batch_without_a_blank_in_it.npz"}
    few, many = ({"label": [*range(k)], "n": [9] * k, "inside": [5] * k} for k in (10, 1000))
    results = [
        *(
            replace(
                handmade(cfg=cfg, error=0.5, kid=0.01, density=0.9, coverage=0.8, mind=12.3),
                classes={"precision": few, "recall": many},
            )
            for cfg in (1.0, 1.25, 1.5)
        ),
        replace(
            handmade(
                model=None, n=40, size=8, reference=tmp_path / "ref.npz", reference_n=40, error=99, **drawn
            ),
            classes={"precision": few, "recall": many},
        ),
    ]
    write_report(tmp_path / "report.html", results)
    page = (tmp_path / "report.html").read_text("utf-8")
    facts, console = looked_at(page, tmp_path)
    assert [fact["width"] for fact in facts] == list(WIDTHS)
    for fact in facts:
        # two groups of results; the lowest classes of recall, of which there are many; provenance
        assert fact["tables"] == 2 + len(results) + 2 * len(results)
        assert fact["scroll"] == fact["width"]
        stops, width, left, right = fact["enlarged"]
        assert stops >= 40 + 40  # samples and reference images
        assert 0 <= left < right <= fact["width"]
        assert right - left > 4 * width
        assert [address for address in fact["asked"] if not address.startswith("data:")] == []
    assert console == []


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium to open the report in")
def test_the_look_itself_sees_scrolling_and_complaints(tmp_path) -> None:
    broken = '<!doctype html><p style="width: 500px">wide</p><script>console.error("loud")</script>'
    facts, console = looked_at(broken, tmp_path)
    assert facts[-1]["scroll"] > facts[-1]["width"]
    assert any("loud" in line for line in console)
