"""The page in a real browser without a display: Debian's Chromium, driven by selenium; skipped where one is missing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import scalekv_adapters
import scalekv_policies
from scalekv_core import ImageModel, Registry, ScaleKVError, hookimpl
from scalekv_core.app import pictures
from scalekv_core.app.engine import Settings
from scalekv_core.app.form import Form, read

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = [name for name in ("gradio", "selenium") if importlib.util.find_spec(name) is None]
MISSING += [name for name, there in (("chromium", BROWSER), ("chromedriver", DRIVER)) if there is None]

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(bool(MISSING), reason=f"the page is not looked at: {', '.join(MISSING)} not here"),
    pytest.mark.filterwarnings("default"),  # gradio's and selenium's own
]

PATIENCE = 120
"""Seconds that a step may take on a busy machine."""
PAUSE = 0.03
"""Seconds that each layer of the slow model takes longer, so that tests can act in the middle of an image."""


WATCH = """
window.seen = [];
new MutationObserver(() => {
    const line = document.querySelector('#status').innerText.trim(), last = window.seen.at(-1);
    const images = [...document.querySelectorAll('#stage .skv-stage img')].map(image => image.src);
    if (!line.startsWith('Generating')) return;
    if (last && last[0] === line) last[1] = images.join(); else window.seen.push([line, images.join()]);
}).observe(document.body, {childList: true, subtree: true, characterData: true, attributes: true});
"""
"""Notes each line and the images below it while they change."""


class Slow:
    """The digits model, slowed down, under the name 'slow'."""

    __name__ = "slow"

    @hookimpl
    def scalekv_image_models(self) -> dict[str, Callable[[], Any]]:
        return {"slow": slow_card}


def slow_card() -> Any:
    card = Registry.of(scalekv_adapters).make("model", "var-tiny")

    @attrs.frozen(kw_only=True)
    class SlowCard(type(card)):  # type: ignore[misc]  # whatever the class of the digits model is
        def load(self, **how: Any) -> ImageModel:
            model = super().load(**how)
            model.name = "slow"
            for block in model.module.blocks:
                block.register_forward_hook(lambda *_: time.sleep(PAUSE))
            return model

    return SlowCard(**{field.name: getattr(card, field.name) for field in attrs.fields(type(card))})


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The app with every model that ships, and the slow one."""
    return Registry.of(scalekv_policies, scalekv_adapters, Slow())


@pytest.fixture(scope="module")
def loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Closes the event loops that gradio makes for its locks and forgets: their sockets would be warned of in a later test."""
    made: list[asyncio.AbstractEventLoop] = []
    original = asyncio.new_event_loop

    def new_event_loop() -> asyncio.AbstractEventLoop:
        made.append(original())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", new_event_loop)
        yield made
    asyncio.set_event_loop(None)
    for loop in made:
        if not loop.is_running():
            loop.close()


@pytest.fixture(scope="module")
def address(registry: Registry, loops: object) -> Iterator[str]:
    """The address of the running page."""
    from scalekv_core.app.server import listening

    with listening(registry, Settings(model="var-tiny", policy="uniform"), port=0) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a display."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(service=Service(DRIVER), options=options)
    yield driver
    driver.quit()


class Tab:
    """One open page."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.switch_to.new_window("tab")
        self.handle = browser.current_window_handle
        browser.get(address)
        self.until(lambda: self.find("#generate").is_displayed())

    def here(self) -> Any:
        self.browser.switch_to.window(self.handle)
        return self.browser

    def find(self, selector: str) -> Any:
        return self.here().find_element("css selector", selector)

    def text(self, selector: str) -> str:
        found: str = self.find(selector).text
        return found

    def until(self, holds: Callable[[], Any]) -> Any:
        """Waits until this holds; the page may replace an element while the test reads it."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if found := holds():
                    return found
            except WebDriverException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not seen: {holds.__doc__ or holds}; status: {self.text('#status')!r}")

    def fill(self, field: str, value: str) -> None:
        """Types into a field in place of what is there."""
        from selenium.webdriver.common.keys import Keys

        box = self.find(f"#{field} textarea, #{field} input")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(Keys.BACKSPACE)
        box.send_keys(value)

    def choose(self, field: str, value: str) -> None:
        """Takes an entry of a menu."""
        from selenium.webdriver.common.keys import Keys

        box = self.find(f"#{field} input")
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(value)
        self.until(lambda: self.here().find_elements("css selector", "ul[role=listbox] li"))
        box.send_keys(Keys.ENTER)
        self.until(lambda: f"--{field} {value} " in self.text("#shell"))

    def press(self, button: str) -> None:
        """Clicks where a click is possible."""
        self.until(lambda: self.find(f"#{button}").is_enabled())
        self.here().execute_script(f"document.querySelector('#{button}').click()")

    def status(self, pattern: str) -> str:
        """Waits for a status line of this form, and returns it."""
        return str(self.until(lambda: re.search(pattern, self.text("#status")) and self.text("#status")))

    def done(self) -> dict[str, Any]:
        """Waits for the record of the image, and returns it."""
        self.status("^Done")
        self.until(lambda: self.find("#downloads a"))
        return pictures.record_of(self.saved("compressed.png"))

    def saved(self, name: str) -> bytes:
        """The bytes that a link saves."""
        link = self.find(f'#downloads a[download="{name}"]').get_attribute("href")
        return b64decode(link.partition("base64,")[2])


@pytest.fixture
def tab(chromium: Any, address: str) -> Iterator[Callable[[], Tab]]:
    """Opens pages, and closes them afterwards."""
    first, opened = chromium.current_window_handle, []

    def open_one() -> Tab:
        opened.append(Tab(chromium, address))
        return opened[-1]

    yield open_one
    for one in opened:
        one.here().close()
    chromium.switch_to.window(first)


def requested(browser: Any) -> set[str]:
    """The addresses that the browser has asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}


def test_an_image_is_generated(tab: Callable[[], Tab], address: str) -> None:
    """The page shows both images, difference, figures and record; it loads nothing from elsewhere and shows no path."""
    page = tab()
    page.fill("prompt", "7")
    page.fill("seed", "3")
    page.press("generate")
    record = page.done()

    assert ("var-tiny", "7", 3, "uniform") == (
        record["model"]["name"], record["prompt"], record["seed"], record["policy"]["name"],
    )  # fmt: skip
    images = page.here().find_elements("css selector", "#slider img")
    assert 2 == len(images)
    assert all(image.get_property("naturalWidth") == 512 for image in images)
    assert page.find("#difference img").get_property("naturalWidth") == 32
    assert "PSNR" in page.text("#difference")
    assert "after generating" not in page.text("#bars")
    assert page.text("#shell").startswith("Shell")
    assert "scalekv generate --model var-tiny --policy uniform --seed 3 -- 7" in page.text("#shell")
    assert 10 == len(page.here().find_elements("css selector", "#stage .skv-strip:last-child img"))
    asked = requested(page.here())
    assert {address} <= asked
    assert [] == [url for url in asked if not url.startswith((address, "data:", "about:", "chrome", "blob:"))]
    source = re.sub(r"base64,[\w+/=]*", "", page.here().page_source)
    assert [] == re.findall(r"/(?:tmp|home|root|work|usr)/[\w./]*|site-packages|Traceback", source)
    assert [] == [entry for entry in page.here().get_log("browser") if entry["level"] == "SEVERE"]


def test_images_appear_scale_by_scale(tab: Callable[[], Tab]) -> None:
    """The status and the pictures change with every scale while the model is at work."""
    page = tab()
    page.choose("model", "slow")
    page.here().execute_script(WATCH)
    page.press("generate")
    page.status("^Done")
    seen = page.here().execute_script("return window.seen")

    assert [
        f"Generating, {which}: scale {n} of 10." for which in ("unmodified", "compressed") for n in range(1, 11)
    ] == [line for line, _ in seen]
    assert 20 == len({image for _, image in seen})


def test_the_slider_moves(tab: Callable[[], Tab]) -> None:
    """Moving the slider shows more of one image and less of the other."""
    from selenium.webdriver import ActionChains

    page = tab()
    page.press("generate")
    page.done()
    page.until(lambda: page.find("#slider [data-testid=slider]").is_displayed())
    shown = lambda: page.find("#slider img.fixed").value_of_css_property("clip-path")  # noqa: E731
    before = shown()

    ActionChains(page.here()).drag_and_drop_by_offset(page.find("#slider .inner"), 100, 0).perform()

    page.until(lambda: shown() != before)


def test_the_plan_follows_the_budget(tab: Callable[[], Tab]) -> None:
    """The slider, and a text in another unit, change the plan before anything is generated."""
    from selenium.webdriver.common.keys import Keys

    page = tab()
    planned = lambda: page.text("#bars .skv-bar-planned .skv-figure")  # noqa: E731
    first = planned()

    page.find("#percent input[type=range]").send_keys(Keys.ARROW_RIGHT * 20)
    page.until(lambda: "20%" == page.find("#budget textarea, #budget input").get_attribute("value"))
    page.until(lambda: "--budget 20%" in page.text("#shell"))  # the plan is of all keys, not of some of them
    page.until(lambda: planned() != first)
    second = planned()

    page.fill("budget", "100 tokens")
    page.until(lambda: planned() != second)
    assert "after generating" in page.text("#bars")


@pytest.mark.parametrize(
    ("field", "value"),
    [("budget", "lots"), ("seed", "x"), ("guidance", "strong"), ("prompt", "a" * 10_000)],
)
def test_what_is_wrong_is_one_line(tab: Callable[[], Tab], registry: Registry, field: str, value: str) -> None:
    """The line is the same as the command line's; then the right value is generated."""
    page = tab()
    if len(value) > 100:  # typing takes too long
        page.here().execute_script(
            "const box = document.querySelector('#prompt textarea'); box.value = arguments[0];"
            "box.dispatchEvent(new Event('input', {bubbles: true}))", value,
        )  # fmt: skip
    else:
        page.fill(field, value)
    page.press("generate")
    line = page.status("(?s).+(?:got|understood)")

    assert "skv-wrong" in page.find("#status p").get_attribute("class")
    assert 1 == len(line.splitlines())
    assert 300 > len(line)
    if field in ("seed", "guidance"):
        with pytest.raises(ScaleKVError) as refused:
            read(Form(model="var-tiny", policy="uniform", **{field: value}), registry=registry, dtype=None)  # type: ignore[arg-type]
        assert str(refused.value) == line
    page.fill(field, {"budget": "20%", "seed": "1", "guidance": "2", "prompt": "1"}[field])
    page.press("generate")
    page.done()


def test_a_model_without_weights(tab: Callable[[], Tab]) -> None:
    """The page says so in one line and fetches nothing; it plans the model's memory all the same."""
    page = tab()
    page.choose("model", "infinity-2b")
    page.until(lambda: "GiB" in page.text("#bars"))
    page.press("generate")

    assert "does not ship with weights" in page.status("weights")


def test_two_visitors_at_once(tab: Callable[[], Tab]) -> None:
    """There is one model: the second visitor waits for the first, and each gets their own image."""
    first, second = tab(), tab()
    for page, prompt in ((first, "3"), (second, "8")):
        page.choose("model", "slow")
        page.fill("prompt", prompt)
    first.press("generate")
    first.status("Generating")
    second.press("generate")
    second.status("1 request ahead")

    assert "8" == second.done()["prompt"]
    assert "3" == first.done()["prompt"]
    assert first.saved("compressed.png") != second.saved("compressed.png")


def test_cancelling_in_mid_image(tab: Callable[[], Tab]) -> None:
    """After cancelling, the model is free and generates the same image again."""
    page = tab()
    page.choose("model", "slow")
    page.fill("prompt", "5")
    page.press("generate")
    page.done()
    before = page.saved("compressed.png")
    page.fill("prompt", "6")
    page.press("generate")
    page.status("scale [2-9]")
    page.press("cancel")
    page.status("^cancelled")

    page.fill("prompt", "5")
    page.press("generate")
    page.status("Generating")
    page.done()

    assert pixels(before) == pixels(page.saved("compressed.png"))


def test_reloading_in_mid_image(tab: Callable[[], Tab]) -> None:
    """The reloaded page starts empty, and the model is free for it."""
    page = tab()
    page.choose("model", "slow")
    page.press("generate")
    page.status("scale [2-9]")

    page.here().refresh()

    page.until(lambda: page.find("#generate").is_enabled())
    assert "" == page.text("#status")
    page.press("generate")
    assert "var-tiny" == page.done()["model"]["name"]


def test_kept_tokens_of_another_layer(tab: Callable[[], Tab]) -> None:
    """The kept tokens shown are those of the layer on the slider."""
    from selenium.webdriver.common.keys import Keys

    page = tab()
    page.press("generate")
    page.done()
    page.until(lambda: "Layer 0" in page.text("#kept"))

    page.find("#layer input[type=range]").send_keys(Keys.ARROW_RIGHT)

    page.until(lambda: "Layer 1" in page.text("#kept"))


def pixels(file: bytes) -> bytes:
    """The pixels of a PNG, without its record."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return image.convert("RGB").tobytes()
