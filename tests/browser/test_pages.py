"""The reports in a real browser: wide and narrow, light and dark; `make browser` brings what it takes.

PARTITA_CHROMIUM names the browser where it is not called chromium; PARTITA_SCREENSHOTS a folder for pictures of the
pages, which are to be looked at: no test can say that a page reads well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from partita.controller.comparison import compare, shown
from partita.controller.config import Scenario
from partita.controller.demand import read_demand
from partita.controller.report import write_capacity, write_report
from partita.controller.results import result_document
from partita.controller.whatif.capacity import Asked, capacity_document, look_at, search
from partita.controller.whatif.workers import LocalWorkers

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
CHROMIUM = os.environ.get("PARTITA_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; on Debian and Ubuntu: apt install chromium"),
]

GOLDEN = Path(__file__).parents[1] / "golden"
WIDTHS = {"laptop": 1400, "phone": 390}

ALL_DRAWN = """() => [...document.querySelectorAll(".card > div[id]")].every(e => e.querySelector(".main-svg"))"""

TOO_WIDE = """() => [...document.querySelectorAll("main *")]
  .filter(e => !e.closest(".scroll") && !e.closest("pre") && !e.closest("defs") && !e.closest(".cartesianlayer"))
  .filter(e => { const b = e.getBoundingClientRect(); return b.width && (b.right > innerWidth + 1 || b.left < -1); })
  .map(e => `${e.tagName}.${e.getAttribute("class")} ${(e.textContent || "").slice(0, 40)}`)"""

BEYOND_THEIR_CARD = """() => [...document.querySelectorAll(".js-plotly-plot")]
  .filter(plot => plot.querySelector(".main-svg").getBoundingClientRect().right
    > plot.closest(".card").getBoundingClientRect().right)
  .map(plot => plot.id)"""

WITHOUT_TITLES = """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap(plot =>
  Object.keys(plot._fullLayout).filter(key => /^[xy]axis[0-9]*$/.test(key))
    .filter(key => plot._fullLayout[key].showticklabels !== false && plot._fullLayout[key].matches === undefined)
    .filter(key => { const text = plot._fullLayout[key].title.text; return !text || text.startsWith("Click"); })
    .map(key => `${plot.id} ${key}`))"""

OVERLAPPING = """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap(plot => {
  const texts = [...plot.querySelectorAll("text")]
    .filter(e => e.textContent.trim() && getComputedStyle(e).opacity !== "0" && e.closest(".hoverlayer") === null)
    .map(e => ({said: e.textContent, box: e.getBoundingClientRect(), turned: /title/.test(e.getAttribute("class"))}))
    .filter(({box}) => box.width && box.height);
  const found = [];
  texts.forEach((a, n) => texts.slice(n + 1).forEach(b => {
    const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
    const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
    if (wide > 1.5 && high > 3) found.push(`${plot.id}: ${a.said} / ${b.said}`);
  }));
  return found;
})"""

INK = """() => {
  const shade = text => { const [r, g, b] = text.match(/[0-9.]+/g).map(Number); return (r + g + b) / 3; };
  const ground = shade(getComputedStyle(document.body).backgroundColor);
  return [ground, ...[...document.querySelectorAll(".js-plotly-plot text")].map(e => shade(getComputedStyle(e).fill))];
}"""


@dataclass
class Opened:
    """A page in the browser, and all that it said and asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write both kinds of pages, from real runs."""
    folder = tmp_path_factory.mktemp("pages")
    scenario = Scenario.load(GOLDEN / "controlled.yaml")
    demand, policies = read_demand(scenario), list(scenario.policy_options())
    runs = compare(
        scenario, policies, seed=7, demand=demand, watch=lambda _: lambda _done, _all: None, record_gpus=True
    )
    result = result_document(scenario, runs, seed=7)
    drawn = dict(zip(result["scores"], map(shown, runs), strict=True))
    write_report(folder / "replayed.html", result, drawn, title="controlled", command="partita replay controlled.yaml")
    measured = Scenario.load(GOLDEN / "measured.yaml")
    asked = Asked(measured, GOLDEN, ("deferred", "eager"), (7, 8), resolution=0.1, curve=5)
    basis, points = look_at(asked), []
    answers = search(asked, basis, lambda: LocalWorkers(2), points=points)
    document = capacity_document(asked, basis, answers, points)
    write_capacity(folder / "capacity.html", document, title="measured", command="partita capacity measured.yaml")
    return {name: folder / f"{name}.html" for name in ("replayed", "capacity")}


@pytest.fixture(scope="module")
def browser(pages: dict[str, Path]) -> Iterator[Any]:
    """Start the browser, after the pages are written: while it runs, its event loop is in the way of others."""
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(
    scope="module",
    params=[
        (name, kind, scheme) for name in ("replayed", "capacity") for kind in WIDTHS for scheme in ("light", "dark")
    ],
    ids="-".join,
)
def opened(request: pytest.FixtureRequest, browser: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    """Open a page as a laptop or a phone shows it, in light or dark."""
    name, kind, scheme = request.param
    phone = kind == "phone"
    size = {"width": WIDTHS[kind], "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=phone, is_mobile=phone)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("request", lambda asked: found.asked.append(asked.url))
    found.page.goto(pages[name].as_uri())
    found.page.wait_for_function(ALL_DRAWN)
    if "PARTITA_SCREENSHOTS" in os.environ:
        picture = Path(os.environ["PARTITA_SCREENSHOTS"]) / f"{'-'.join(request.param)}.png"
        found.page.screenshot(path=picture, full_page=True)
    yield found
    context.close()


def test_it_opens_quietly_and_fits(opened: Opened) -> None:
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith(("file:", "blob:", "data:"))] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.page.evaluate(TOO_WIDE) == []
    assert opened.page.evaluate(BEYOND_THEIR_CARD) == []


def test_every_figure_is_drawn_with_titles_and_no_text_over_another(opened: Opened) -> None:
    drawn = opened.page.locator(".js-plotly-plot").count()
    assert drawn == opened.page.locator(".card > div[id]").count() >= 2
    assert opened.page.evaluate(WITHOUT_TITLES) == []
    assert opened.page.evaluate(OVERLAPPING) == []


def test_ink_stands_out_from_the_ground(opened: Opened) -> None:
    ground, *ink = opened.page.evaluate(INK)
    assert ink
    assert min(abs(shade - ground) for shade in ink) > 80


def test_a_cell_of_the_timeline_spells_out_its_services(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages["replayed"].as_uri())
    texts = page.evaluate("gpus0.data.find(trace => trace.type === 'heatmap').text.flat()")
    page.close()
    assert {name for text in texts for name in ("chat", "search") if f"<br>{name} " in text} == {"chat", "search"}
    assert {text.split("<br>")[0].split(" % ")[-1] for text in texts} <= {"busy", "not ready"}


def test_a_phone_scrolls_over_figures_and_zooms_by_button(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(pages["replayed"].as_uri())
    assert page.evaluate("course.layout.dragmode") is False
    before = page.evaluate("course._fullLayout.xaxis.range")
    page.locator("#course [data-title='Zoom in']").click()
    after = page.evaluate("course._fullLayout.xaxis.range")
    context.close()
    assert before[0] < after[0] < after[1] < before[1]
