"""The explorer in a real browser, on small and large screens: filter, open, toggle, step, review, keys alone."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explore_site import ATTACK, served, to_review
from typer.testing import CliRunner

from etl.cli import app
from etl.labels.maps import load_label_map

sync = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'medglip-etl[dev]'")
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SIZES = pytest.mark.parametrize("width", [390, 1440])
PAGES = ("/", "/browse?source=demo_ct_abdomen", "/image/2", "/labels", "/review/demo_ct_abdomen", "/quarantine")


@pytest.fixture(scope="module")
def address(explored: Path) -> Iterator[str]:
    with served(explored, "--review") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def new(browser: Any, address: str) -> Iterator[Any]:
    """Opens a page of the explorer; any error that the browser reports fails the test."""
    contexts, faults = [], []

    def opened(path: str, width: int, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, base_url=address)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on("dialog", lambda d: (faults.append(f"dialog: {d.message}"), d.dismiss()))
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def drawn(page: Any, what: str) -> bool:
    return bool(page.locator(f"#picture .{what}").first.is_visible())


def other(page: Any, key: str) -> None:
    """Waits for the page of another image, and its script."""
    sync.expect(page.locator("h1")).not_to_have_text(key)
    page.wait_for_load_state()


@SIZES
def test_filter_open_toggle_and_step(new: Any, width: int) -> None:
    page = new("/browse", width)
    assert page.get_by_role("heading", level=1).inner_text().replace("\u202f", "") == "387 images"
    if width == 390:
        page.locator("#filters summary").click()
    page.get_by_label("Label", exact=True).select_option("liver")
    if width == 1440:  # a change is an answer; on a telephone the button is
        page.wait_for_url("**/browse?label=liver")
    page.get_by_role("checkbox", name="coronal").click()
    if width == 390:
        page.get_by_role("button", name="Apply").click()
    page.wait_for_url(re.compile(r"axis=coronal&label=liver|label=liver&axis=coronal"))
    count = int(page.get_by_role("heading", level=1).inner_text().split()[0])
    first = page.locator(".card").first
    first.locator("img").scroll_into_view_if_needed()
    page.locator(".card").last.scroll_into_view_if_needed()
    sync.expect(page.locator(".card")).to_have_count(count)
    sync.expect(first.locator("img")).to_have_js_property("complete", True)
    assert first.locator("img").evaluate("image => image.naturalWidth") == 320
    first.click()
    page.wait_for_url("**/image/*")
    key = page.get_by_role("heading", level=1).inner_text()
    assert re.fullmatch(r"demo_ct_abdomen/s\d\d-\d/coronal/\d+", key)
    for name, part in (("Boxes", "box"), ("Masks", "fill")):
        assert drawn(page, part)
        page.get_by_role("button", name=name).click()
        assert not drawn(page, part)
    page.get_by_role("link", name="Slice after").click()
    other(page, key)
    after = page.get_by_role("heading", level=1).inner_text()
    assert int(after.rsplit("/", 1)[1]) > int(key.rsplit("/", 1)[1])
    assert after.rsplit("/", 1)[0] == key.rsplit("/", 1)[0]
    assert not drawn(page, "box"), "what is drawn stays as it was from slice to slice"
    page.get_by_role("button", name="Boxes").click()
    page.locator(".regions input").first.uncheck()
    assert "off" in (page.locator("#picture .region").first.get_attribute("class") or "")
    page.get_by_role("button", name="Zoom in").click()
    assert float(page.locator("#picture").get_attribute("viewBox").split()[2]) < 56
    page.get_by_role("link", name="all that fit").click()
    page.wait_for_url(re.compile(r"/browse\?.*label=liver"))


@SIZES
def test_by_keys_alone(new: Any, width: int) -> None:
    page = new("/", width)
    keys = page.keyboard
    keys.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    keys.press("g")
    keys.press("b")
    page.wait_for_url("**/browse")
    keys.press("/")
    keys.type("liver s01")
    keys.press("Enter")
    page.wait_for_url("**/browse?text=liver+s01")
    keys.press("Escape")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    assert page.evaluate("document.activeElement.className") == "card"
    keys.press("ArrowDown")
    keys.press("Enter")
    page.wait_for_url("**/image/*")
    key = page.get_by_role("heading", level=1).inner_text()
    keys.press("b")
    assert not drawn(page, "box")
    keys.press("m")
    assert not drawn(page, "fill")
    keys.press("m")
    keys.press("1")
    assert page.locator("#picture .region.off").count() == 1
    keys.press("+")
    assert page.locator("#picture.zoomed").count() == 1
    keys.press("0")
    keys.press("ArrowRight")
    other(page, key)
    keys.press("ArrowLeft")
    sync.expect(page.locator("h1")).to_have_text(key)
    page.wait_for_load_state()
    keys.press("n")
    other(page, key)
    keys.press("?")
    assert page.get_by_role("dialog").is_visible()
    keys.press("Escape")
    keys.press("u")
    page.wait_for_url("**/browse?text=liver+s01")


def test_the_window_is_changed_and_the_raw_volume_stepped(new: Any) -> None:
    page = new("/browse?label=liver&axis=axial", 1440)
    page.locator(".card").first.click()
    page.get_by_role("link", name="Cut anew from the raw volume").click()
    page.wait_for_selector("[data-window]")
    assert page.get_by_label("Width").input_value() == "400"
    with page.expect_response(re.compile(r"/plane/\d+\.png\?index=\d+&center=40&width=80")) as answer:
        page.get_by_label("Width").fill("80")
    assert answer.value.ok
    with page.expect_response(re.compile(r"/plane/\d+\.png\?index=0&")) as answer:
        page.locator("[data-slice]").focus()
        page.keyboard.press("Home")
    assert answer.value.ok
    assert not drawn(page, "box"), "regions are those of their own slice"
    assert page.locator(".others svg").count() == 2


@SIZES
def test_a_label_is_reviewed_by_keys_and_the_file_lints(new: Any, explored: Path, width: int) -> None:
    path = to_review(explored)
    if width == 390:
        assert "swapped" in lint(explored)[0], "the proposal for the right kidney is wrong"
    page = new("/labels", width)
    page.get_by_role("link", name="demo_ct_abdomen").first.click()
    page.wait_for_selector("[data-entry]")
    sync.expect(page.locator(".examples").first).to_have_js_property("naturalWidth", 984)
    keys = page.keyboard
    page.get_by_label("Your name").focus()
    keys.type("A. Reader")
    keys.press("Enter")  # to the first entry
    keys.press("a")
    page.wait_for_selector("#entry-0.done")
    keys.press("c")  # right kidney, proposed as the left one
    keys.type("right kidney")
    keys.press("Enter")
    page.wait_for_selector("#entry-1.done")
    keys.press("m")
    keys.type("is it whole?")
    keys.press("Enter")
    sync.expect(page.locator("#entry-2")).to_contain_text("A. Reader: is it whole?")
    sync.expect(page.locator("#entry-3")).to_be_focused()
    keys.press("r")  # asks for the reason
    keys.type("a device")
    keys.press("Escape")
    keys.press("r")
    page.wait_for_selector("#entry-3.done")
    found = load_label_map("demo_ct_abdomen", explored / "label_maps")
    told = {raw: (m.label, m.status, m.by) for raw, m in found.items()}
    assert told == {
        "left_kidney": ("left kidney", "approved", "A. Reader"), "liver": ("liver", "approved", "curator"),
        "right_kidney": ("right kidney", "approved", "A. Reader"), "spleen": ("spleen", "proposed", "llm:model"),
        "stent": (None, "rejected", "A. Reader"),
    }  # fmt: skip
    assert "  # both kidneys have a side\n" in path.read_text()
    assert path.read_text().count("# easy\n") == 1
    assert lint(explored) == []


def lint(folder: Path) -> list[str]:
    """The faults of the label maps, but for lines that move."""
    given = ["--manifests", str(folder / "manifests"), "--label-maps", str(folder / "label_maps")]
    done = CliRunner().invoke(app, ["labels", "lint", *given])
    return [line for line in done.stdout.splitlines() if "demo_ct_abdomen.yaml" in line]


def test_names_that_are_html_run_nothing(new: Any, explored: Path) -> None:
    page = new("/browse?source=hostile", 1440)
    assert ATTACK in page.locator(".card").first.inner_text()
    page.locator(".card").first.click()
    for path in ("/?source=hostile", "/review/hostile?all=1", "/quarantine", "/labels"):
        page.wait_for_load_state("networkidle")
        assert page.evaluate("typeof hacked") == "undefined"
        page.goto(path)
    assert page.evaluate("typeof hacked") == "undefined"


UNNAMED = """() => [...document.querySelectorAll('input:not([type=hidden]), select, button, a, img, svg[role]')]
  .filter(e => !e.closest('[hidden], [aria-hidden=true]') && !(e.labels && e.labels.length) &&
    !e.getAttribute('aria-label') && !(e.textContent || '').trim() && !e.querySelector('img') &&
    !e.hasAttribute('alt')).map(e => e.outerHTML)"""
FAINT = """() => {
  const luminance = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
  const values = text => text.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) {
    const color = values(getComputedStyle(e).backgroundColor); if (color.length < 4 || color[3] > .99) return color; }
    return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('main *, header *')) {
    const style = getComputedStyle(e);
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility() ||
        e.closest('svg, :disabled, .letters, [aria-disabled], option')) continue;
    const [a, b] = [luminance(values(style.color)), luminance(behind(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) found.push([e.outerHTML.slice(0, 120), style.color, behind(e).join()]);
  }
  return found; }"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark"), (3840, "light"), (390, "dark")])
def test_pages_are_named_legible_and_fit_the_screen(new: Any, explored: Path, width: int, scheme: str) -> None:
    to_review(explored)
    page = new("/", width, scheme)
    for path in PAGES:
        page.goto(path)
        assert page.evaluate(UNNAMED) == [], path
        assert page.evaluate(FAINT) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert [page.locator(tag).count() for tag in ("h1", "main")] == [1, 1], path
