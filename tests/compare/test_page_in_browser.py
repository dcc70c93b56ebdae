"""The page of a study in a real browser: it plots, sorts, filters and marks, and loads and logs nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scalekv_core.compare.page.contents import page_of
from scalekv_core.compare.page.write import write_page
from scalekv_core.plugins.registry import shared_registry
from tests.compare.synthetic import synthetic_study

pytest.importorskip("plotly", reason="extra 'report'")
pytest.importorskip("jinja2", reason="extra 'report'")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="chromium and chromedriver are not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of selenium's own sockets
]


class Tab:
    """A page in a browser without a window."""

    def __init__(self, file: Path, *, phone: bool = False, dark: bool = False) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1280,1400",
        ):
            options.add_argument(argument)
        if phone:
            size = {"width": 390, "height": 844, "pixelRatio": 2.0}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": size, "userAgent": "phone"})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        if dark:
            how = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", how)
        self.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        self.driver.get(file.as_uri())

    def js(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def settings(self) -> list[str]:
        """The settings that the table shows, in its order."""
        return self.js(
            "return [...document.querySelectorAll('table[data-role=settings] tbody tr')].map(r => r.cells[1].firstChild.nextSibling.textContent)"
        )

    def click_header(self, title: str) -> None:
        self.js(
            f"[...document.querySelectorAll('table[data-role=settings] thead button')].find(b => b.textContent === {title!r}).click()"
        )

    def type(self, role: str, text: str) -> None:
        self.js(
            f"const i = document.querySelector('[data-role={role}]'); i.value = {text!r}; i.dispatchEvent(new Event('input'))"
        )

    def count(self) -> str:
        return self.js("return document.querySelector('[data-role=count]').textContent")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses beside the page itself and what is in it."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty settings of eight images, three of whose cells are not finite."""
    folder = tmp_path_factory.mktemp("study")
    store = synthetic_study(folder, settings=60, images=8, nan=3)
    write_page(page_of(store, shared_registry()), folder / "report.html")
    store.close()
    return folder / "report.html"


@pytest.fixture(scope="module")
def tab(file: Path) -> Iterator[Tab]:
    made = Tab(file)
    yield made
    made.driver.quit()


def test_it_is_drawn(tab: Tab) -> None:
    """Plots have marks, the table its rows; a plot out of sight is rendered when it comes into sight."""
    assert "yes" == tab.js("return document.documentElement.dataset.ready")
    assert 60 == len(tab.settings())
    assert 0 < tab.js("return document.querySelectorAll('[data-plot=bytes] .scatterlayer .point').length")
    tab.js("document.querySelector('[data-plot=scales]').scrollIntoView()")
    drawn = "document.querySelectorAll('[data-plot=scales] .scatterlayer .trace').length"
    assert tab.driver.execute_async_script(
        f"const done = arguments[0]; const wait = () => {drawn} ? done({drawn}) : setTimeout(wait, 50); wait()"
    )


def test_a_click_sorts_and_another_reverses(tab: Tab) -> None:
    """By what the column means: bytes as numbers, and the first click on a figure brings the best up."""
    tab.click_header("held")
    up = tab.settings()
    tab.click_header("held")
    assert up == tab.settings()[::-1]
    tab.click_header("psnr")
    first = tab.js("return document.querySelector('table[data-role=settings] tbody tr').textContent")
    assert "identical" in first
    tab.click_header("rank")


def test_words_and_chips_filter(tab: Tab) -> None:
    """All words must be there; a policy that is switched off is in no table and no plot."""
    tab.type("filter", "uniform 5%")
    assert tab.settings()
    assert all("uniform" in name and "5%" in name for name in tab.settings())
    assert tab.count().endswith("of 60")
    tab.type("filter", "")
    chip = "[...document.querySelectorAll('[data-what=policy] button')].find(b => b.textContent === 'uniform')"
    tab.js(f"{chip}.click()")
    assert not any(name.startswith("uniform") for name in tab.settings())
    assert "uniform" not in tab.js("return document.querySelector('[data-plot=bytes]').data.map(t => t.name)")
    tab.js(f"{chip}.click()")
    assert 60 == len(tab.settings())


def test_a_row_that_is_clicked_is_marked_and_shows_its_command(tab: Tab) -> None:
    """Until it is clicked again."""
    row = "document.querySelector('table[data-role=settings] tbody tr')"
    tab.js(f"{row}.click()")
    assert "scalekv compare --model var-tiny --policy" in tab.js(
        "return document.querySelector('[data-role=marked]').textContent"
    )
    assert "true" == tab.js(f"return {row}.getAttribute('aria-selected')")
    tab.js(f"{row}.click()")
    assert "" == tab.js("return document.querySelector('[data-role=marked]').textContent")


def test_figures_and_axes_are_chosen(tab: Tab) -> None:
    """Another figure changes plots and columns; an axis with a figure of 0 or infinity can be logarithmic."""
    choose = (
        "const s = document.querySelector('[data-role=metric]'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
    )
    tab.js(choose.format("psnr"))
    assert "psnr" == tab.js("return document.querySelectorAll('table[data-role=settings] thead button')[2].textContent")
    tab.js("document.querySelector('[data-role=logy]').click()")
    assert "log" == tab.js("return document.querySelector('[data-plot=bytes]').layout.yaxis.type")
    assert "infinite" in tab.js("return document.querySelector('[data-plot=bytes]').layout.annotations[0].text")
    tab.js("document.querySelector('[data-role=logy]').click()")
    tab.js(choose.format("forced-kl"))


def test_cells_that_are_not_finite_say_where_it_began(tab: Tab) -> None:
    """In the table of every image, and in the list of what is missing."""
    tab.js("document.querySelector('[data-role=cells-card]').open = true")
    cells = "document.querySelectorAll('table[data-role=cells] tbody tr').length"
    assert tab.driver.execute_async_script(
        f"const done = arguments[0]; const wait = () => {cells} ? done(true) : setTimeout(wait, 50); wait()"
    )
    tab.js("document.querySelector('[data-role=only-missing]').click()")
    assert 3 == tab.js(f"return {cells}")
    assert "layer 3 at scale 2" in tab.js("return document.querySelector('table[data-role=cells] tbody').textContent")
    assert "layer 3 at scale 2" in tab.js("return document.querySelector('.missing').textContent")


@pytest.mark.parametrize(("phone", "dark"), [(True, False), (False, True)], ids=["phone", "dark"])
def test_phones_and_dark_mode(file: Path, phone: bool, dark: bool) -> None:
    """The page is no wider than the screen, and its colours follow the system."""
    tab = Tab(file, phone=phone, dark=dark)
    try:
        assert tab.js("return document.documentElement.scrollWidth <= window.innerWidth + 1")
        paper = tab.js("return getComputedStyle(document.body).backgroundColor")
        assert dark == (max(map(int, paper.strip("rgb()").split(","))) < 60)
        assert [] == tab.complaints()
    finally:
        tab.driver.quit()


def test_nothing_is_said_to_the_console_and_nothing_is_loaded(tab: Tab) -> None:
    """After all of the above."""
    assert [] == tab.complaints()
    assert [] == tab.requests()
