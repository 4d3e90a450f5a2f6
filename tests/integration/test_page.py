"""The pages of nights in a real browser, Debian's Chromium: wide, narrow, dark, on paper, by keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _page
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests import nights

CHROMIUM = "/usr/bin/chromium"
FORMER = [nights.of_many(60, number, ("updated", "pending", "lost")) for number in range(14, 0, -1)]
LONG = "web-that-has-a-name-as-long-as-names-may-be.and-a-domain-beside-it.example.org"
Scheme = Literal["light", "dark"]
PAGES = {
    "four": _page.page(nights.of_many(4, words=("updated", "unchanged")), FORMER, lab="home"),
    "sixty": _page.page(nights.of_many(60, words=("updated", "held", "updated", "lost", "unchanged")), FORMER),
    "every-word": _page.page(nights.of_all_words(), FORMER),
    "hostile": _page.page(
        nights.night({LONG: nights.host(LONG, "lost", reason=f"<script>alert(1)</script> {'x' * 3000}")}), FORMER
    ),
    "index": _page.index([*FORMER, nights.of_all_words()], lab="home"),
}
SIZES = {"wide": (1280, 900), "narrow": (320, 640)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # its sandbox is for users, and root has none
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("pages")
    for name, text in PAGES.items():
        (directory / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: directory / f"{name}.html" for name in PAGES}


def opened(chromium: Browser, file: Path, size: str = "wide", scheme: Scheme = "light") -> tuple[Page, list[str]]:
    """A page, and all that the browser said about it or asked for."""
    width, height = SIZES[size]
    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    noticed: list[str] = []
    page.on("console", lambda message: noticed.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: noticed.append(str(error)))
    page.on("dialog", lambda dialog: noticed.append(dialog.message))
    page.on("request", lambda request: noticed.append(request.url))
    page.goto(file.as_uri())
    return page, [one for one in noticed if one not in (file.as_uri(), "data:,")]


@pytest.mark.parametrize(("size", "scheme"), [("wide", "dark"), ("narrow", "light")])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_fits_and_is_accessible(
    chromium: Browser, files: dict[str, Path], name: str, size: str, scheme: Scheme
):
    page, noticed = opened(chromium, files[name], size, scheme)
    assert noticed == []
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    assert [(one["id"], one["impact"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []
    page.close()


def test_the_verdict_and_what_to_do_are_seen_without_scrolling(chromium: Browser, files: dict[str, Path]):
    for name in ("four", "sixty", "every-word"):
        page, _noticed = opened(chromium, files[name])
        for heading in ("h1", "#to-do"):
            box = page.locator(heading).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] < SIZES["wide"][1]
        page.close()


def test_a_dark_page_is_dark_on_a_screen_and_light_on_paper(chromium: Browser, files: dict[str, Path]):
    page, _noticed = opened(chromium, files["four"], scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(background) == "rgb(15, 20, 25)"
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.close()


def test_the_keyboard_gets_past_the_beginning_and_to_every_link(chromium: Browser, files: dict[str, Path]):
    page, _noticed = opened(chromium, files["four"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.querySelector('.skip').getBoundingClientRect().x") >= 0
    reached = {page.evaluate("document.activeElement.outerHTML")}
    for _number in range(page.locator("a").count()):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML"))
    links = page.evaluate("[...document.querySelectorAll('a')].map(one => one.outerHTML)")
    assert set(links) <= reached
    page.close()


def test_a_bar_is_as_wide_on_the_screen_as_its_step_was_long(chromium: Browser, files: dict[str, Path]):
    page, _noticed = opened(chromium, files["four"])
    lane = page.locator(".timeline li").nth(1)
    whole = lane.locator("svg").bounding_box()
    update, build = (lane.locator("rect").nth(number).bounding_box() for number in (0, 1))
    assert whole is not None
    assert update is not None
    assert build is not None
    assert build["width"] / update["width"] == pytest.approx(41.8 / 1.9, rel=0.15)
    assert update["x"] == pytest.approx(whole["x"], abs=1)
    page.close()
