"""The page: self-contained, escapes names, and works in a real browser."""

import json
import math
import re
import statistics
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest
from matplotlib.image import imread

from tests.train.compare.browser import BROWSER, browse, browser, probe
from tests.train.compare.conftest import HOSTILE
from tests.train.compare_runs import write_run
from train.compare.colours import COLOURS
from train.compare.curves import chain_stages
from train.compare.page import MAX_RECORDS_OF_RUN, render_page
from train.compare.read import read_folder
from train.compare.table import ComparisonRow, build_rows


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


@pytest.fixture(scope="module")
def written(mixed: list[ComparisonRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render_page(mixed, 2.2, 1))
    return path


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three seeds of one run and another run, which recorded pass@1."""
    root = tmp_path_factory.mktemp("seeds")
    runs = [write_run(root, f"a-seed_{n}", f"run.seed={n}", level=1 + n, records=10, stages="nl") for n in (1, 2, 3)]
    other = write_run(root, "other", "optimizer.weight_decay=0.3", records=20, stages="nl")
    rows = [json.loads(line) | {"humaneval/pass@1": 0.25} for line in (other / "metrics.jsonl").open()]
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if "loss" not in row))
    path = root / "page.html"
    path.write_text(
        render_page(build_rows(chain_stages([read_folder(run) for run in [*runs, other]]), 1, None), None, 1)
    )
    return path


def test_nothing_is_loaded_from_elsewhere(mixed: list[ComparisonRow]) -> None:
    text = render_page(mixed, 2.2, 1)
    tags = Elements(text).tags
    assert not [attributes[key] for _, attributes in tags for key in ("src", "href") if key in attributes]
    assert "url(" not in text
    assert "@import" not in text
    assert not [name for name, _ in tags if name in ("link", "iframe", "object")]
    assert "The MIT License (MIT)" in text and "Leon Sorokin" in text, "uPlot's licence goes where its code goes"


def test_a_name_is_text_and_nothing_else(mixed: list[ComparisonRow]) -> None:
    text = render_page(mixed, 2.2, 1)
    elements = Elements(text)
    assert [name for name, _ in elements.tags].count("script") == 3
    assert HOSTILE in elements.words
    assert data_of(text)["curves"][1]["label"] == HOSTILE


def test_a_name_cannot_end_the_script_it_stands_in(mixed: list[ComparisonRow]) -> None:
    name = "</script><script>alert(1)</script>"
    text = render_page([replace(mixed[0], curve=replace(mixed[0].curve, label=name))], None, 1)
    assert [tag for tag, _ in Elements(text).tags].count("script") == 3
    assert data_of(text)["curves"][0]["label"] == name


def test_the_data_are_the_records(mixed: list[ComparisonRow]) -> None:
    curves = data_of(render_page(mixed, 2.2, 7))["curves"]
    points = mixed[0].curve.points("loss")
    training = curves[0]["tracks"][0]
    assert training["values"]["loss"] == pytest.approx([point.value for point in points], rel=1e-5)
    assert training["seconds"] == [point.seconds for point in points]
    assert training["tokens"] == [point.tokens for point in points]
    assert training["total"][19:22] == [200, 210, 220] and training["step"][19:22] == [200, 10, 20]
    assert curves[2]["tracks"][0]["seconds"] == [None] * 40
    assert len(curves[3]["tracks"][0]["step"]) == 21, "the ancestor's stages are on its own curve"


def test_settings_that_differ_come_first(mixed: list[ComparisonRow]) -> None:
    words = [word for word in Elements(render_page(mixed, 2.2, 1)).words if word.strip()]
    assert words.index("Settings that differ") < words.index("optimizer.weight_decay") < words.index("loss")


def test_long_runs_are_thinned_and_keep_their_spikes_and_their_last_point(mixed: list[ComparisonRow]) -> None:
    row = mixed[0]
    records = [dict(record) for record in row.curve.stages[0].records * 900]
    records[12345] |= {"loss": 99.0}
    curve = type(row.curve)("long", [replace(row.curve.stages[0], records=records)])
    (track, _) = data_of(render_page([ComparisonRow(curve, row.metrics, row.settings)], None, 1))["curves"][0]["tracks"]
    assert len(track["step"]) <= MAX_RECORDS_OF_RUN + 2
    assert 99.0 in track["values"]["loss"]
    assert track["values"]["loss"][-1] == pytest.approx(curve.points("loss")[-1].value, rel=1e-5)


@browser
def test_each_metric_has_a_panel_with_the_runs_that_recorded_it(seeds: Path) -> None:
    panels = probe(seeds)["panels"]
    assert {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu", "memory_bytes"} < set(panels)
    assert {"bits_per_byte/nl", "bits_per_byte/multi", "humaneval/pass@1"} < set(panels)
    assert [line["label"] for line in panels["humaneval/pass@1"]["lines"]] == ["other"]
    assert panels["humaneval/pass@1"]["note"] == "3 of 4 runs did not record it"
    assert panels["mfu"]["lines"][0]["y"][0] == pytest.approx(40)
    assert panels["memory_bytes"]["lines"][0]["y"][0] == pytest.approx(1, rel=1e-5), "GiB"


@browser
def test_seeds_are_one_line_with_mean_and_band(seeds: Path) -> None:
    view = probe(seeds, later=("#group=0",))
    grouped, single = (each["panels"]["loss"]["lines"] for each in (view, *view["later"]))
    (line,) = grouped
    assert line["label"] == "a (mean of 3)" and len(single) == 3
    for i in range(10):
        values = [each["y"][i] for each in single]
        assert line["y"][i] == pytest.approx(statistics.mean(values))
        assert line["high"][i] - line["y"][i] == pytest.approx(statistics.stdev(values))
    assert "low" not in single[0]


@browser
def test_a_run_has_one_colour_in_every_panel_and_no_other_run_has_it(written: Path) -> None:
    colours: dict[str, set[str]] = {}
    for panel in probe(written)["panels"].values():
        for line in panel["lines"]:
            colours.setdefault(line["label"], set()).add(line["colour"])
    assert len(colours) == 4 and all(len(each) == 1 for each in colours.values())
    assert len(set.union(*colours.values())) == 4


@browser
def test_the_axis_the_smoothing_logs_hiding_and_search_change_what_is_drawn(written: Path) -> None:
    later = ("#x=seconds", "#x=step", "#logx=1&logy=1", "#smooth=0.9", "#hide=base", "#search=weight_decay%3D0.3")
    first = probe(written, later=later)
    plain, time, steps, logs, smooth, hidden, found = (
        view["panels"]["loss"] | {"count": view["count"]} for view in (first, *first["later"])
    )
    assert [line["label"] for line in plain["lines"]] == ["base", HOSTILE, "old", "tuned"]
    assert plain["x"][0] == 0 and plain["x"][1] == max(line["x"][-1] for line in plain["lines"])
    assert [line["label"] for line in time["lines"]] == ["base", HOSTILE, "tuned"], "one run has no time"
    assert time["note"] == "1 of 4 runs did not record it"
    assert time["lines"][0]["x"][:2] == [30, 60]
    assert steps["lines"][0]["x"][19:22] == [200, 210, 220], "steps go on over the stages"
    assert logs["x"][0] == min(line["x"][0] for line in logs["lines"]) and logs["y"][0] > 0
    want, mean, total = [], 0.0, 0.0
    for value, stage in zip(plain["lines"][0]["y"], plain["lines"][0]["stage"], strict=True):
        if len(want) == 20:
            assert stage == 1
            mean = total = 0.0
        mean, total = 0.9 * mean + 0.1 * value, 0.9 * total + 0.1
        want.append(mean / total)
    assert smooth["lines"][0]["y"] == pytest.approx(want)
    for metric in ("learning_rate", "bits_per_byte/nl"):  # have no noise of single steps
        assert first["later"][3]["panels"][metric]["lines"] == first["panels"][metric]["lines"]
    assert [line["label"] for line in hidden["lines"]] == [HOSTILE, "old", "tuned"]
    assert [line["label"] for line in found["lines"]] == [HOSTILE]
    assert found["count"] == "1 of 4 shown, 1 found"


@browser
def test_a_drag_and_the_wheel_zoom_every_panel_and_a_reload_keeps_it(written: Path) -> None:
    drag = """const { over } = panels[0].plot, { left, top } = over.getBoundingClientRect(), w = over.clientWidth;
      const mouse = (kind, x) => over.dispatchEvent(
        new MouseEvent(kind, { clientX: left + x, clientY: top + 50, movementX: 9, bubbles: true }));
      mouse("mousemove", w / 4); mouse("mousedown", w / 4); mouse("mousemove", w / 2); mouse("mouseup", w / 2);"""
    whole, zoomed = probe(written), probe(written, "", drag)
    end = whole["panels"]["loss"]["x"][1]
    for panel in zoomed["panels"].values():
        assert panel["x"] == pytest.approx([end / 4, end / 2], rel=0.05)
    assert zoomed["panels"]["loss"]["y"] != whole["panels"]["loss"]["y"], "the vertical axis fits what is seen"
    again = probe(written, zoomed["hash"])
    assert again["panels"]["gradient_norm"]["x"] == pytest.approx(zoomed["panels"]["loss"]["x"], rel=1e-4)
    wheel = """const { over } = panels[0].plot, box = over.getBoundingClientRect();
      const at = { deltaY: -200, clientX: box.left + box.width / 2, clientY: box.top + 9, cancelable: true };
      const turn = ctrlKey => over.dispatchEvent(new WheelEvent("wheel", { ...at, ctrlKey }));
      return [turn(false), turn(true)];"""
    turned = probe(written, "", wheel)
    assert turned["acted"] == [True, False], "without Ctrl the wheel scrolls the page"
    low, high = turned["panels"]["mfu"]["x"]
    assert (low + high) / 2 == pytest.approx(end / 2, rel=0.02) and high - low == pytest.approx(end / math.e, rel=0.02)


@browser
def test_a_cursor_is_shared_and_tells_the_values_of_the_nearest_records(written: Path) -> None:
    act = """const p = panels[0], u = p.plot, box = u.over.getBoundingClientRect(), line = p.lines[0];
      const at = { clientX: box.left + u.valToPos(line.x[3], "x"), clientY: box.top + u.valToPos(line.y[3], "y") };
      u.over.dispatchEvent(new MouseEvent("mouseenter"));
      u.over.dispatchEvent(new MouseEvent("mousemove", { bubbles: true, ...at }));"""
    found = probe(written, "", act)
    tip = re.search(r'id="tip"[^>]*>(.*?)</div></div>', found["dom"], re.S)[1]
    assert "nl, step 40 · tokens 163.84k" in tip
    first = found["panels"]["loss"]["lines"][0]
    assert re.search(rf'class="near"><i[^>]*></i><span>base</span><b>{first["y"][3]:.5g}', tip)
    assert {round(panel["cursor"]) for panel in found["panels"].values()} == {round(found["panels"]["loss"]["cursor"])}
    (marked,) = re.findall(r'<li[^>]*class="near"[^>]*>', found["dom"])
    assert 'data-ids="r0"' in marked, "the list of runs shows which one it is"


@browser
def test_a_click_hides_a_run_and_only_shows_it_alone(written: Path) -> None:
    found = probe(written, "", 'document.querySelectorAll("#runs .toggle")[1].click();')
    assert [line["label"] for line in found["panels"]["loss"]["lines"]] == ["base", "old", "tuned"]
    assert re.findall(r'aria-pressed="(\w+)"', found["dom"]) == ["true", "false", "true", "true"]
    alone = probe(written, "", 'document.querySelectorAll("#runs .only")[3].click();', later=("#only=none",))
    assert [line["label"] for line in alone["panels"]["loss"]["lines"]] == ["tuned"]
    assert alone["hash"].endswith("only=tuned")
    assert alone["later"][0]["panels"]["loss"]["empty"] == "no run is shown"


@browser
def test_a_click_on_a_heading_sorts_the_table(written: Path, mixed: list[ComparisonRow]) -> None:
    act = """const heads = [...document.querySelectorAll("thead tr:last-child th")];
      const head = heads.find(each => each.textContent === "best loss");
      const names = () => [...document.querySelectorAll("tbody th")].map(each => each.textContent);
      head.click(); const up = names(); head.click(); return [up, names()];"""
    up, down = probe(written, "", act)["acted"]
    assert up == [row.label for row in sorted(mixed, key=lambda row: row.metrics["best_loss"] or 0.0)]
    assert down == up[::-1] != up


@browser
def test_a_malformed_fragment_still_shows_the_page_all_the_same(written: Path) -> None:
    view = probe(written, "#x=<img>&group=x&smooth=-3&hide=a,99&zoom=9,1", later=("#smooth=9&logx=1", "#%%%"))
    assert [len(each["panels"]["loss"]["lines"]) for each in (view, *view["later"])] == [4, 4, 4]


@browser
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_telephone_and_the_curves_are_drawn(written: Path, tmp_path: Path, dark: bool) -> None:
    theme = "--blink-settings=preferredColorScheme=0" if dark else "--blink-settings=preferredColorScheme=1"
    assert probe(written, options=("--window-size=390,844", theme))["wide"] <= 0
    shot = tmp_path / "shot.png"
    words = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'browser'}",
        theme,
    ]
    words += [f"--screenshot={shot}", "--window-size=1400,1000", "--virtual-time-budget=3000", written.as_uri()]
    subprocess.run(words, capture_output=True, timeout=120, check=True)
    pixels = imread(shot)[..., :3].reshape(-1, 3)
    assert pixels.mean() < 0.3 if dark else pixels.mean() > 0.8
    for colour in COLOURS[:4]:
        parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        want = [(round(part * 0.68 + 255 * 0.32) if dark else part) / 255 for part in parts]
        assert (abs(pixels - want).max(axis=1) < 0.02).sum() > 100, f"{colour} is not on the page"


@browser
@pytest.mark.parametrize("count", [1, 50, 300])
def test_hundreds_of_runs_are_drawn_and_searched(mixed: list[ComparisonRow], tmp_path: Path, count: int) -> None:
    base = mixed[0]
    rows = [replace(base, curve=replace(base.curve, label=f"run-{i:03}", order=i)) for i in range(count)]
    path = tmp_path / "page.html"
    path.write_text(render_page(rows, None, 1))
    found = probe(path, later=("#search=run-00",))
    assert len(found["panels"]["loss"]["lines"]) == count
    assert len({line["colour"] for line in found["panels"]["loss"]["lines"]}) == count
    assert re.search(r'data-ready-ms="\d+"', found["dom"])
    assert len(found["later"][0]["panels"]["loss"]["lines"]) == min(count, 10)


@browser
def test_three_hundred_runs_open_in_two_seconds(tmp_path: Path) -> None:
    """In processor time, beyond that of a page with one run: a busy machine does not stretch it."""
    (curve,) = chain_stages([read_folder(write_run(tmp_path / "runs", "base", records=400, stages="mono"))])
    spent = {}
    for count in (1, 300):
        curves = [replace(curve, label=f"run-{i:03}", order=i) for i in range(count)]
        (path := tmp_path / "page.html").write_text(render_page(build_rows(curves, 1, None), None, 1))
        before = sum(getrusage(RUSAGE_CHILDREN)[:2])  # user and system
        assert browse(path, "")[0].count('class="toggle"') == count
        spent[count] = sum(getrusage(RUSAGE_CHILDREN)[:2]) - before
    assert spent[300] - spent[1] < 2.0, spent
