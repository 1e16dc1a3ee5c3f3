"""The page as Chromium shows it; CLIPJAX_ARTEFACTS names a folder for the screenshots."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipjax.interpret.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"
)
# Runs after the page's own script and tells what it found.
_PROBE = """
const all = chosen => [...document.querySelectorAll(chosen)], found = {};
found.width = innerWidth;
found.page = document.documentElement.scrollWidth;
const scrolls = one => one.closest(".wide, svg, details:not([open])");
found.beyond = all("body *").filter(
  one => one.getBoundingClientRect().right > innerWidth + 1 && !scrolls(one)
).map(one => one.tagName + "." + one.className).slice(0, 5);
const units = all(".unit"), field = all("#search input")[0], said = all("#search p")[0];
const ask = words => {
  field.value = words;
  field.dispatchEvent(new Event("input"));
  return [words, units.flatMap((unit, at) => unit.hidden ? [] : [at]), said.textContent];
};
found.search = SEARCHES.map(ask);
ask("");
const places = all("details[open] .strip .shared");
found.pictures = places.map(one => getComputedStyle(one).backgroundImage.slice(0, 27));
found.wide = places.map(one => one.getBoundingClientRect().width);
parent.postMessage(JSON.stringify(found), "*");
"""
# A window is never narrower than 500 pixels, a frame may be.
_FRAME = """<!doctype html><body><script>
onmessage = event => { document.body.dataset.found = event.data; };
</script><iframe src="probed.html" style="border:0" width="WIDTH" height="1600"></iframe></body>"""


def browse(path, width, *flags):
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-background-networking",
            f"--user-data-dir={path.parent / 'profile'}",
            f"--window-size={width},1600",
            *flags,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def probed(path, width, searches):
    """What the probe finds; it may run since the page's own policy is taken out."""
    page = path.read_text(encoding="utf-8")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    probe = _PROBE.replace("SEARCHES", json.dumps(searches))
    copy = path.with_name("probed.html")
    copy.write_text(page.replace("</body>", f"<script>{probe}</script></body>"), encoding="utf-8")
    frame = path.with_name("frame.html")
    frame.write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    dom = browse(frame, width + 100, "--dump-dom", "--virtual-time-budget=5000")
    return json.loads(html.unescape(re.search(r'data-found="(.*?)"', dom).group(1)))


@pytest.fixture(scope="module")
def found(make):
    findings = make(units=12, exemplars=10)
    long = "image/trunk/stages/3/blocks/11/mlp_act_of_a_very_long_name_without_any_blank"
    for unit in findings["units"][1:3]:
        unit["unit"] = f"{long}:{unit['index']}"
    findings["units"][4]["top"]["photo"][0]["text"] = "a zebracorn"
    findings["units"][5]["words"].append("zebracorn")
    findings["units"][6]["bottom"]["photo"][0]["text"] = "a zebracorn"
    return findings


@pytest.fixture(scope="module")
def path(found, show, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "neurons.html"
    write_report(found, show, path)
    return path


@pytest.mark.parametrize("width", [420, 1280])
def test_it_fits_a_phone_and_a_desk(found, path, width):
    name = found["units"][0]["concepts"][0]["name"]
    seen = probed(path, width, ["zebracorn", f"{name.upper()} {name}", "no such thing", ""])
    assert seen["width"] == width
    assert seen["page"] <= width
    assert seen["beyond"] == []
    assert len(seen["pictures"]) >= 3 * 3 * 8
    assert set(seen["pictures"]) == {'url("data:image/webp;base64'}
    assert 30 <= min(seen["wide"]) <= max(seen["wide"]) <= 64
    searches = {words: (units, said) for words, units, said in seen["search"]}
    assert searches["zebracorn"] == ([4, 5], "2 of 12 units on this page")
    assert 0 in searches[f"{name.upper()} {name}"][0]
    assert searches["no such thing"] == ([], "0 of 12 units on this page")
    assert searches[""] == (list(range(12)), "")


@pytest.mark.parametrize("width", [420, 1280])
def test_pictures_are_seen_and_scripts_of_others_are_not_run(path, width):
    evil = "<script>onload = () => document.body.remove()</script>"
    page = path.read_text(encoding="utf-8").replace("</h1>", f"</h1>{evil}", 1)
    copy = path.with_name(f"whole{width}.html")
    copy.write_text(page, encoding="utf-8")
    shot = path.with_name(f"neurons_{width}.png")
    browse(copy, width, f"--screenshot={shot}")
    if artefacts := os.environ.get("CLIPJAX_ARTEFACTS"):
        Path(artefacts).mkdir(parents=True, exist_ok=True)
        shutil.copy(shot, artefacts)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape == (1600, width, 3)
    # Emoji are colourful, text and frames are hardly so; a blank page has one colour.
    spread = pixels.max(axis=2).astype(int) - pixels.min(axis=2)
    yellow = (spread > 120) & (pixels[..., 0] > 200) & (pixels[..., 2] < 120)
    assert yellow.sum() > 100
