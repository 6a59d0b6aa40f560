"""The report in a real browser: opened from disk, without a network. Skipped where there is no Chromium."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import Browser, Error, Locator, Page, Playwright, expect, sync_playwright

from sadm_ray.config import DataSettings
from sadm_ray.evaluate.example_frames import Picture
from sadm_ray.evaluate.prediction_plots import to_png
from sadm_ray.report.cards import data_card
from sadm_ray.report.html_page import Report, write_report
from sadm_ray.report.viewer import build_viewer
from tests.report.made import make_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser here: none of {', '.join(NAMES)} is installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    still = Picture("anna", "missing", 1, "anna, missing, frame 1", to_png(Figure(figsize=(6, 3))))
    run = make_run(folder, pictures=[still])
    viewer = build_viewer(run.study, run.predictions, run.evaluation.metrics)
    cards = [data_card(run.study, "a study", DataSettings())]
    write_report(folder / "report.html", Report("A run", "now", run.evaluation, viewer=viewer, cards=cards))
    return folder / "report.html"


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
    yield launched
    launched.close()


class Opened:
    """A page of the report, with its console messages and the addresses it requested."""

    def __init__(self, browser: Browser, report: Path, address: str = "", **options: object) -> None:
        self.page: Page = browser.new_page(**options)  # type: ignore[arg-type]
        self.messages: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(report.as_uri() + address)
        self.page.locator("#no-viewer").wait_for(state="hidden")

    def pane(self, name: str) -> np.ndarray:
        return pixels(self.page.locator(f"#pane-{name} canvas"))


def pixels(part: Locator) -> np.ndarray:
    """The part of the page as it is drawn: h w 3."""
    return np.asarray(Image.open(io.BytesIO(part.screenshot())).convert("RGB")).astype(int)


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    found = Opened(browser, report, viewport={"width": 1280, "height": 900})
    yield found
    found.page.close()


def test_all_panes_are_drawn_without_a_network(opened: Opened, report: Path) -> None:
    for name in ("truth", "generated", "difference", "spread", "probability"):
        assert opened.pane(name).std() > 5, name
    truth = opened.pane("truth").mean(axis=2)
    height, width = truth.shape
    assert truth[: height // 5, : width // 5].mean() > 2 * truth[: height // 5, -width // 5 :].mean()  # rows run down
    assert opened.messages == []
    beyond = [url for url in opened.requested if not url.startswith(("data:", "blob:"))]
    assert beyond == [report.as_uri()]


@pytest.mark.parametrize("slider", ["time", "slice"])
def test_arrow_keys_on_a_slider_change_all_pictures(opened: Opened, slider: str) -> None:
    opened.page.select_option("#view", "missing.best")
    expect(opened.page.locator("#time")).to_have_attribute("max", "1")
    expect(opened.page.locator("#reading")).to_contain_text("Frame 1")
    opened.page.focus(f"#{slider}")
    before = opened.pane("truth"), opened.pane("generated")
    said = opened.page.inner_text(f"#{slider}-value")
    opened.page.keyboard.press("ArrowRight")
    assert opened.page.inner_text(f"#{slider}-value") != said
    after = opened.pane("truth"), opened.pane("generated")
    assert all(np.abs(now - then).max() > 5 for now, then in zip(after, before, strict=True))
    assert opened.messages == []


def test_shortcuts_choose_what_is_shown(opened: Opened) -> None:
    opened.page.focus("#slice")
    before = opened.pane("difference")
    opened.page.keyboard.press("3")
    expect(opened.page.locator("#title-generated")).to_have_text("Copy-last")
    assert np.abs(opened.pane("difference") - before).max() > 5
    assert opened.page.is_checked("input[value=copy-last]")
    for expected in ("Sample 1", "Sample 2", "Sample 3", "Sample 1"):
        opened.page.keyboard.press("2")
        expect(opened.page.locator("#title-generated")).to_have_text(expected)
    opened.page.keyboard.press("1")
    expect(opened.page.locator("#title-generated")).to_have_text("Estimate")
    opened.page.keyboard.press(",")
    assert opened.page.input_value("#slice") == "2"


def test_arrow_keys_on_a_picture_are_those_of_the_sliders(opened: Opened) -> None:
    opened.page.select_option("#view", "missing.best")
    expect(opened.page.locator("#reading")).to_contain_text("Frame 1")
    opened.page.focus("#pane-truth canvas")
    before = opened.pane("generated")
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowUp")
    assert opened.page.input_value("#time") == "1"
    assert opened.page.input_value("#slice") == "4"
    assert np.abs(opened.pane("generated") - before).max() > 5


def test_crosshair_and_zoom_are_those_of_all_panes(opened: Opened) -> None:
    names = ("truth", "generated", "difference", "spread", "probability")
    before = {name: opened.pane(name) for name in names}
    canvas = opened.page.locator("#pane-generated canvas")
    canvas.click(position={"x": 30, "y": 30})
    moved = {name: opened.pane(name) for name in names}
    assert all(np.abs(moved[name] - before[name]).max() > 5 for name in names)
    assert "truth: 0.9" in opened.page.inner_text("#reading")  # the bright corner
    opened.page.keyboard.down("Control")
    opened.page.mouse.wheel(0, -200)
    opened.page.keyboard.up("Control")
    expect(opened.page.locator("#zoom")).not_to_have_value("1")
    assert all(np.abs(opened.pane(name) - moved[name]).max() > 5 for name in names)


def test_a_view_can_be_linked(browser: Browser, report: Path) -> None:
    opened = Opened(browser, report, "#view=missing.worst&show=sample-2&t=2&z=4")
    page = opened.page
    assert page.input_value("#view") == "missing.worst"
    assert page.inner_text("#time-value") == "frame 2, time 0.3"
    assert page.inner_text("#slice-value") == "4 of 4"
    assert page.is_checked("input[value=sample-2]")
    page.click("a[href='#view=future.best']")
    expect(page.locator("#view")).to_have_value("future.best")
    expect(page).to_have_url(re.compile("#view=future.best&show=sample-2&t=3&z=3$"))
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser: Browser, report: Path, scheme: str) -> None:
    opened = Opened(browser, report, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    widest = "Math.max(document.body.scrollWidth, document.documentElement.scrollWidth)"
    assert opened.page.evaluate(widest) <= 390
    boxes = [opened.page.locator(f"#pane-{name}").bounding_box() for name in ("truth", "generated", "difference")]
    assert all(box is not None and box["width"] > 150 and box["x"] + box["width"] <= 390 for box in boxes)
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 25, 30)"}[scheme]
    opened.page.close()


def test_print_has_still_pictures_instead_of_the_viewer(opened: Opened) -> None:
    assert opened.page.is_visible("#viewer")
    opened.page.emulate_media(media="print")
    assert not opened.page.is_visible("#viewer")
    assert opened.page.is_visible("img.scan")


def test_without_webgl_the_page_says_why(playwright: Playwright, report: Path) -> None:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-3d-apis"])
    page = browser.new_page()
    page.goto(report.as_uri())
    expect(page.locator("#no-viewer")).to_contain_text("this browser offers no WebGL2. The still pictures below")
    assert not page.is_visible("#viewer")
    assert page.is_visible("img.scan")
    browser.close()


def test_without_scripts_the_page_can_be_read(browser: Browser, report: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(report.as_uri())
    assert "needs JavaScript and WebGL2" in page.inner_text("#no-viewer")
    assert page.is_visible("img.scan")
    page.close()


def test_no_other_script_may_run(opened: Opened) -> None:
    opened.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed=1\">')")
    with pytest.raises(Error):
        opened.page.evaluate("fetch('https://example.org/')")
    assert opened.page.evaluate("window.harmed") is None
