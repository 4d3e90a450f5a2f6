"""The night as a page, and the index of all."""

from __future__ import annotations

import itertools
import re
import zoneinfo
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _page, _page_style
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD, Word

from tests import nights

FORMER = [nights.of_many(4, number, ("updated", "pending")) for number in range(20, 0, -1)]
PAGES = {
    "four": _page.page(nights.of_many(4), FORMER, lab="home"),
    "sixty": _page.page(nights.of_many(60, words=("updated", "held", "lost", "unchanged")), FORMER),
    "every word": _page.page(nights.of_all_words()),
    "nobody": _page.page(nights.night({})),
    "index": _page.index([*FORMER, nights.of_all_words()], lab="home"),
    "empty index": _page.index([]),
}


class Elements(HTMLParser):
    """Every element with its attributes and the text in it, in order; all that is opened has to be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.found.append((name, {key: value or "" for key, value in attributes}, text))
        if name not in ("meta", "link"):
            self.open.append((name, text))

    def handle_endtag(self, name: str) -> None:
        opened, text = self.open.pop()
        assert opened == name
        if self.open:
            self.open[-1][1].extend(text)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1][1].append(data)

    def texts(self, name: str) -> list[str]:
        return ["".join(text) for each, _attributes, text in self.found if each == name]


def row(page: str, host: str) -> list[str]:
    """The cells of a host in the table of hosts."""
    table = page.split("<caption>Hosts</caption>")[1].split("</table>")[0]
    [found] = [one for one in table.split("<tr>") if f'<th scope="row">{host}</th>' in one]
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found)]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_and_runs_nothing(name: str):
    found = Elements(PAGES[name]).found
    assert not {"script", "img", "iframe", "object", "embed", "form", "base", "audio", "video"} & {
        one[0] for one in found
    }
    for tag, attributes, _text in found:
        assert not [
            key for key in attributes if key.startswith("on") or key in ("src", "srcset", "style", "xlink:href")
        ]
        if tag == "link":
            assert attributes == {"rel": "icon", "href": "data:,"}
        if "href" in attributes and tag != "link":
            assert tag == "a"
            assert re.match(r"https://github\.com/|night-[\w.-]+\.html$|index\.html$|#", attributes["href"])
    assert not re.search(r"@import|url\((?!#)", PAGES[name])
    assert "default-src 'none'" in PAGES[name].replace("&#x27;", "'")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_what_a_screen_reader_goes_by(name: str):
    found = Elements(PAGES[name]).found
    names = [tag for tag, _attributes, _text in found]
    assert found[0][:2] == ("html", {"lang": "en"})
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all("scope" in attributes for tag, attributes, _text in found if tag == "th")
    assert names.count("table") == names.count("caption")
    ids = [attributes["id"] for _tag, attributes, _text in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for tag, attributes, _text in found if attributes.get("href", "").startswith("#")}
    assert targets <= set(ids)
    # a drawing is for the eyes, and what it shows is beside it in words
    assert all(
        attributes.get("aria-hidden") == "true" or attributes["class"] in ("axis", "bar")
        for tag, attributes, _text in found
        if tag == "svg"
    )


@pytest.mark.parametrize("colours", [_page_style.LIGHT, _page_style.DARK], ids=["light", "dark"])
def test_text_and_drawings_have_the_contrast_that_wcag_aa_asks_for(colours: dict[str, str]):
    for ground in ("paper", "raised"):
        for name in _page_style.TEXT:
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in _page_style.DRAWN:
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)
    assert colours.keys() == _page_style.LIGHT.keys()


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_no_two_steps_are_told_apart_by_colour_alone():
    steps = [_page_style.PATTERNS[step] for step in _page_style.STEPS]
    ranks = [_page_style.PATTERNS[rank] for rank in ("good", "mixed", "bad")]
    assert len(set(steps)) == len(steps)
    assert len(set(ranks)) == len(ranks)
    assert len(set(_page._SIGNS.values())) == 3


def test_the_verdict_comes_first_and_in_a_word():
    for name, said in (
        ("four", "✓ Good night: All 4 hosts run what they should."),
        ("every word", "✗ Bad night: 4 of 10"),
    ):
        assert Elements(PAGES[name]).texts("h1")[0].startswith(said)
        body = PAGES[name].split("<body>")[1]
        assert body.index("<h1>") < body.index("<h2")


@pytest.mark.parametrize("word", get_args(Word))
def test_every_outcome_has_a_row_with_its_word(word: Word):
    assert row(PAGES["every word"], word)[0].endswith(f" {word}")


def test_each_bad_host_has_a_card_with_its_reason_and_a_command():
    cards = [card for card in PAGES["every word"].split("<article") if 'class="card bad"' in card]
    assert len(cards) == len(BAD)
    for word in BAD:
        [card] = [one for one in cards if f"<h3>{word} " in one]
        assert nights.REASONS[word].splitlines()[0].replace("'", "&#x27;") in card
        assert "<pre><code>" in card
        assert f"--limit {word}" in card


def test_what_is_left_and_the_inputs_and_packages_are_told():
    page = PAGES["every word"]
    left = page.split('id="left"')[1].split("</section>")[0]
    assert [word for word in get_args(Word) if f"<h3>{word} " in left] == ["pending", "deferred", "held", "unreachable"]
    assert "2026-11-20 1a2b3c4</td><td>2026-11-22 9f8e7d6</td>" in page
    assert 'href="https://github.com/NixOS/nixpkgs/compare/1a2b3c4d5e...9f8e7d6c5b"' in page
    assert "<td>hello 1.0 → 1.1</td>" in page
    assert row(page, "updated") == [
        "✓ updated",
        "updated-26.05.1 6gdlyhm → updated-26.05.2 xnpa2vc, closure +12.6 MiB",
    ]
    assert row(page, "lost") == ["✗ lost", "last seen on lost-26.05.1 6gdlyhm, rebooted"]


def test_what_there_is_to_know_beside_the_hosts_is_told_as_it_is():
    note = "web was left alone in 3 nights in a row <b>"
    assert "web was left alone in 3 nights in a row &lt;b&gt;" in _page.page(nights.of_many(1) | {"notes": [note]})
    assert "To know" not in _page.page(nights.of_many(1))


def test_only_pages_of_the_web_are_linked():
    for link in ("javascript:alert(1)", "http://example.org", "data:text/html,x", "//example.org", " https://x"):
        result = nights.of_many(1)
        result["inputs"][0] |= {"compare": link}
        assert link.strip() not in "".join(one[1].get("href", "") for one in Elements(_page.page(result)).found)


def bars(page: str) -> dict[str, list[tuple[float, float, str]]]:
    """For each row of the timeline where its steps begin, how wide they are, and what they are."""
    found = {}
    for lane in re.findall(r"<li><span class=\"name\">.*?</li>", page):
        name = re.findall(r'class="name">([^<]*)', lane)[0]
        rects = re.findall(r'<rect x="([\d.]+)%" y="0" width="([\d.]+)%" height="100%" fill="url\(#fill-(\w+)\)', lane)
        found[name] = [(float(left), float(width), fill) for left, width, fill in rects]
    return found


def test_the_timeline_has_each_step_where_it_was_and_as_long_as_it_was():
    def spans(*steps: tuple[str, float, float]) -> dict[str, Any]:
        return {"spans": [{"step": step, "began": 1000 + began, "seconds": seconds} for step, began, seconds in steps]}

    result = nights.night(
        {
            "b": nights.host("b", "updated", **spans(("probe", 0, 10), ("reboot", 50, 50))),
            "a": nights.host("a", "updated", **spans(("copy", 20, 20), ("new", 90, 0.001))),
            "off": nights.host("off", "unreachable"),
        },
        **spans(("build", 10, 10)),
    )
    assert bars(_page.page(result)) == {
        "all systems": [(10, 10, "build")],
        "b": [(0, 10, "probe"), (50, 50, "reboot")],
        "a": [(20, 20, "copy"), (90, 0.4, "other")],
        "off": [],
    }


def test_every_host_has_a_lane_and_all_stay_within_the_night():
    found = bars(PAGES["sixty"])
    assert len(found) == 61
    for lane in found.values():
        assert lane
        assert all(left >= 0 and left + width <= 100.01 for left, width, _fill in lane)


def test_without_times_the_page_says_how_long_it_took_and_draws_nothing():
    result = nights.night({"web": nights.host("web", "updated", timed=False)})
    del result["spans"]
    page = _page.page(result)
    assert "How long it took" in page
    assert bars(page) == {"web": []}
    assert "copy 8.5 s, activation 4.2 s" in page
    assert _page.page({**result, "inputs": [], "hosts": {}})


@pytest.mark.parametrize("seconds", [0.5, 5, 60, 61, 599, 3600, 14100, 86400, 10**7])
@pytest.mark.parametrize("first", [1795312800, 1795312801.5])
def test_the_times_on_the_axis_are_round_few_and_in_the_night(first: float, seconds: float):
    ticks = _page._ticks(first, seconds)
    assert len(ticks) <= 6
    assert all(first < tick < first + seconds for tick in ticks)
    assert seconds < 6 or len(ticks) >= 2
    if seconds <= 86400:
        assert all(tick == round(tick) for tick in ticks)


def test_times_are_those_of_the_owner():
    page = _page.page(nights.of_many(1), zone=zoneinfo.ZoneInfo("Europe/Vienna"))
    assert "Sunday, 2026-11-22 03:00 CET" in page
    assert "Times are CET." in page


def test_the_trend_has_the_last_nights_the_newest_first_each_with_its_page():
    trend = PAGES["four"].split('id="trend"')[1].split("</table>")[0]
    assert re.findall(r'href="(night-[^"]+)"', trend) == [f"night-20261122T020000Z-{n:04x}.html" for n in range(1, 14)]
    assert trend.count("<tr>") == 15
    assert 'href="#main" aria-current="page">2026-11-22 02:00' in trend
    assert "1 of 14 nights good" in trend


def test_a_host_that_is_bad_again_says_for_how_many_nights():
    former = [nights.of_many(1, number, ("lost",)) for number in (2, 1)]
    assert "it ended badly in 3 nights in a row." in _page.page(nights.of_many(1, words=("lost",)), former)


def test_the_index_has_each_night_once_the_newest_first_and_names_what_it_cannot_read():
    index = _page.index([*FORMER, {"version": 9}, nights.of_all_words()])
    links = re.findall(r'href="(night-[^"]+)"', index)
    assert links == [f"night-20261122T020000Z-{n:04x}.html" for n in range(21)]
    assert "A night is missing here: The result of a night has version 9" in index
    assert "There is none yet." in PAGES["empty index"]


def test_a_run_that_failed_without_a_bad_host_says_why_and_what_to_do():
    page = _page.page(nights.night({"web": nights.host("web", "held")}, failed=True, failure="Nothing was built: no."))
    card = page.split('class="card bad"')[1].split("</article>")[0]
    assert "Nothing was built: no." in card
    assert "ansible-playbook playbooks/nightly.yml" in card


def test_a_dry_run_says_that_nothing_was_changed():
    page = _page.page(nights.night({"web": nights.host("web", "unchanged")}, dry_run=True))
    assert "✓ Good dry run: Nothing was changed on 1 host." in Elements(page).texts("h1")
    assert "What would change" in page
    assert "There is none yet." in page


def test_a_reason_of_a_megabyte_does_not_make_a_page_of_a_megabyte():
    result = nights.night({"web": nights.host("web", "lost", reason="x" * 1_000_000)})
    assert len(_page.page(result)) < 30_000
