"""The page in a real browser: nothing is fetched, nothing sticks out on a telephone."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report_runs import make_pictures

from medseg3d.reports.run_report import write_report
from medseg3d.reports.runs import read_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 768, 1280)

# The page, as it is and under its own policy, in frames of given widths; a window of its own cannot be that narrow.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body><script>
const page = PAGE, widths = WIDTHS, found = {};
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = "0";
  frame.onload = () => {
    const inner = frame.contentDocument;
    const fetched = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name);
    found[width] = {
      width: inner.documentElement.clientWidth,
      scrolls: inner.documentElement.scrollWidth,
      fetched: fetched.filter(name => !name.startsWith("data:")),
      broken: [...inner.images].filter(image => !image.complete || !image.naturalWidth).length,
      images: inner.images.length,
    };
    if (Object.keys(found).length === widths.length) document.title = JSON.stringify(found);
  };
  frame.srcdoc = page;
  document.body.append(frame);
}
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_page_fetches_nothing_shows_every_picture_and_does_not_scroll_sideways(tmp_path):
    name = "a case with a very long name that nobody should have given it " * 2
    runs = [make_pictures(tmp_path / name_of_run, {name: 1, "b": 2, "c" * 90: 0}) for name_of_run in ("x" * 60, "y")]
    page = write_report([read_run(run) for run in runs], tmp_path / "report", title="T" * 80, with_networks=False)
    probe = tmp_path / "probe.html"
    # "</" would end the script
    text = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    probe.write_text(PROBE.replace("PAGE", text).replace("WIDTHS", json.dumps(WIDTHS)), encoding="utf-8")

    quiet = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")
    dumped = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", *quiet, "--disable-sync", "--virtual-time-budget=20000"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--window-size=1400,1000", "--dump-dom", probe.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dumped).group(1)))
    measured = [found[str(width)] for width in WIDTHS]
    images = page.read_text().count("<img ")
    assert images > 0
    assert [(each["fetched"], each["broken"], each["images"]) for each in measured] == [([], 0, images)] * len(WIDTHS)
    widths = [(each["scrolls"], each["width"], width) for each, width in zip(measured, WIDTHS, strict=True)]
    assert widths == [tuple(sorted(each)) for each in widths]
