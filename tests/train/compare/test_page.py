"""The page: self-contained, escapes names, and works in a real browser."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.train.compare.conftest import HOSTILE
from train.compare.page import render_page
from train.compare.picture import MAX_POINTS
from train.compare.table import ComparisonRow

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the path")
METRICS = ["loss", "bits_per_byte/nl"]


class Elements(HTMLParser):
    """Start tags with their attributes, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_nothing_is_loaded_from_elsewhere(mixed: list[ComparisonRow]) -> None:
    text = render_page(mixed, METRICS, 2.2, 1)
    tags = Elements(text).tags
    sources = [attributes[key] for _, attributes in tags for key in ("src", "href") if key in attributes]
    assert [source.partition(",")[0] for source in sources] == ["data:image/svg+xml;base64"]
    assert "url(" not in text
    assert "@import" not in text
    assert not [name for name, _ in tags if name in ("link", "iframe", "object")]


def test_a_name_is_text_and_nothing_else(mixed: list[ComparisonRow]) -> None:
    text = render_page(mixed, METRICS, 2.2, 1)
    elements = Elements(text)
    assert [name for name, _ in elements.tags].count("script") == 2
    assert HOSTILE in elements.words
    assert data_of(text)["curves"][1]["label"] == HOSTILE


def test_a_name_cannot_end_the_script_it_stands_in(mixed: list[ComparisonRow]) -> None:
    name = "</script><script>alert(1)</script>"
    text = render_page([replace(mixed[0], curve=replace(mixed[0].curve, label=name))], METRICS, None, 1)
    assert [tag for tag, _ in Elements(text).tags].count("script") == 2
    assert data_of(text)["curves"][0]["label"] == name


def test_the_data_are_the_records(mixed: list[ComparisonRow]) -> None:
    curves = data_of(render_page(mixed, METRICS, 2.2, 7))["curves"]
    points = mixed[0].curve.points("loss")
    assert curves[0]["series"]["loss"]["value"] == [point.value for point in points]
    assert curves[0]["series"]["loss"]["seconds"] == [point.seconds for point in points]
    assert curves[2]["series"]["loss"]["seconds"] == [None] * 40
    assert len(curves[3]["series"]["loss"]["value"]) == 21, "the ancestor's stages are on its own curve"


def test_long_runs_are_thinned_and_keep_their_last_point(mixed: list[ComparisonRow]) -> None:
    row = mixed[0]
    stage = row.curve.stages[0]
    long = type(stage)(**{**vars(stage), "records": stage.records * 900})
    curve = type(row.curve)("long", [long])
    series = data_of(render_page([ComparisonRow(curve, row.metrics, row.settings)], ["loss"], None, 1))["curves"][0][
        "series"
    ]["loss"]
    assert series["every"] > 1
    assert len(series["value"]) <= MAX_POINTS + 1
    assert series["value"][-1] == curve.points("loss")[-1].value


def browse(path: Path, fragment: str, *options: str) -> tuple[str, str]:
    """The page's elements after its script ran, and what the browser said."""
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    words += [f"--user-data-dir={path.parent / 'browser'}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*words, f"{path.as_uri()}{fragment}"], capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def written(mixed: list[ComparisonRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render_page(mixed, METRICS, 2.2, 1))
    return path


def curves_in(text: str) -> list[str]:
    return re.findall(r'class="curve" d="([^"]*)"', text)


@browser
def test_the_axis_the_metric_smoothing_logs_and_hiding_change_the_picture(written: Path) -> None:
    fragments = ["", "#x=time", "#x=flops", "#y=bits_per_byte/nl", "#smooth=5", "#logx=1", "#logy=1", "#hide=0"]
    pictures = {}
    for fragment in fragments:
        text, said = browse(written, fragment)
        assert "CONSOLE" not in said, said
        pictures[fragment] = curves_in(text)
        label = re.search(r'id="xlabel"[^>]*>([^<]*)<', text)[1]
        assert label == {"#x=time": "training time (minutes)", "#x=flops": "model FLOPs"}.get(fragment, "tokens")
        assert "NaN" not in "".join(pictures[fragment])
    assert len(pictures[""]) == 4
    assert len(pictures["#x=time"]) == 3, "one run has no time"
    assert len(pictures["#hide=0"]) == 3
    drawn = {fragment: tuple(found) for fragment, found in pictures.items()}
    different = set(drawn.values())
    assert len(different) == len(fragments) - 1, "model FLOPs are tokens times a constant for equal models"
    assert drawn["#x=flops"] == drawn[""]


@browser
def test_a_click_on_the_legend_hides_and_a_hover_tells_the_values(written: Path, tmp_path: Path) -> None:
    acts = """<script>
    document.querySelectorAll("#legend button")[1].click();
    const box = document.getElementById("plot").getBoundingClientRect(), line = shown[0];
    document.getElementById("plot").dispatchEvent(new MouseEvent("mousemove", {
      clientX: box.left + line.px[3] / 960 * box.width, clientY: box.top + line.py[3] / 560 * box.height }));
    </script></body>"""
    path = tmp_path / "acts.html"
    path.write_text(written.read_text().replace("</body>", acts))
    text, said = browse(path, "")
    assert "CONSOLE" not in said, said
    assert len(curves_in(text)) == 3
    assert re.findall(r'aria-pressed="(\w+)"', text) == ["true", "false", "true", "true"]
    tip = re.search(r'id="tip"[^>]*>([^<]*)<', text)[1]
    assert tip.startswith("base\nnl, step 40\ntraining loss (nats per token): ")
    assert "tokens, 2 minutes, " in tip


@browser
def test_without_javascript_there_is_a_static_picture(written: Path, tmp_path: Path) -> None:
    path, shot = tmp_path / "still.html", tmp_path / "shot.png"
    forbid = """<head><meta http-equiv="Content-Security-Policy" content="script-src 'none'">"""
    path.write_text(written.read_text().replace("<head>", forbid))
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    words += [f"--screenshot={shot}", "--window-size=1400,1100", path.as_uri()]
    subprocess.run(words, capture_output=True, timeout=120, check=True)
    pixels = imread(shot)[..., :3].reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73), (0xCC, 0x79, 0xA7)):
        near = abs(pixels - [part / 255 for part in colour]).max(axis=1) < 0.02
        assert near.sum() > 100


@browser
@pytest.mark.parametrize("fragment", ["#x=<img>&y=no&smooth=-3&hide=a,99", "#smooth=100000&logx=1&logy=1", "#%%%"])
def test_a_malformed_fragment_still_shows_the_page_all_the_same(written: Path, fragment: str) -> None:
    text, said = browse(written, fragment)
    assert "CONSOLE" not in said, said
    assert len(curves_in(text)) == 4
