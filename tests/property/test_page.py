"""Whatever hosts, inputs and programs say is shown as it was said, and is never HTML, Markdown or a header of ours."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _html, _letter, _night, _page
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests import nights
from tests.unit.plugins.module_utils.test_page import Elements

ATTACKS = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "' onfocus='alert(1)",
    '"><svg onload=alert(1)>',
    "--><!--",
    "]]>",
    "&lt;b&gt; &amp; &#x3c;b>",
    "![x](https://evil.example/x.png)",
    "[click](javascript:alert(1))",
    "<https://evil.example>",
    "https://evil.example www.evil.example",
    "```\n# heading\n```",
    "---\n- item\n1. one\n> quote",
    "| a | b |\n|---|---|",
    "~~gone~~ **bold** _it_ `code`",
    "\r\nBcc: everybody@example.org",
    "\x00\x1b[31mred\x1b[0m\u202egnp.exe\u2066\ud800\ufeff",
    "    indented\n\tcode",
    "\\*",
)
SAID = st.one_of(
    st.text(max_size=60),
    st.text("<>&\"'`*_[]()#!|\\~-+=.:/ \n\r\t1a", max_size=40),
)
NAMES = SAID.filter(bool)
Test = Callable[..., None]


def attacked(*parameters: str) -> Callable[[Test], Test]:
    """Try each attack in these parameters, whatever else is tried."""

    def decorate(test: Test) -> Test:
        for attack in ATTACKS:
            test = example(**dict.fromkeys(parameters, attack))(test)
        return test

    return decorate


def results(said: str, name: str) -> dict[str, Any]:
    """A night of which everything that others may have written is C(said), and a host is called C(name)."""
    locked = {"url": said, "rev": said, "last_modified": None, "nar_hash": said}
    made = [
        nights.host(name, "lost", reason=said, changes=[said], before=said, after=f"{said}x"),
        nights.host("web", "held", reason=said, before=said, after=said),
        nights.host("nas", "updated", reason=said, changes=[said], spans=[{"step": said, "began": 1e9, "seconds": 1}]),
    ]
    return nights.night(
        dict(zip((name, "web", "nas"), made, strict=True)),
        failure=said,
        inputs=[{"path": said, "before": locked, "after": locked, "compare": said}],
        lock_hash=said,
        durations={said: 1, "total": 2},
    )


def skeleton(page: str) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes, _text in Elements(page).found]


@settings(deadline=None, max_examples=30)
@attacked("said", "name")
@given(SAID, NAMES)
def test_a_page_has_the_same_elements_whatever_was_said_and_shows_it(said: str, name: str):
    name = f"host {name}"
    page = _page.page(results(said, name), lab=said)
    # what is empty has no element, and only an address of the web has a link
    plain = "https://x" if said.startswith("https://") else "x" if said else ""
    assert skeleton(page) == skeleton(_page.page(results(plain, "host x"), lab=plain))
    page.encode()
    assert all(letter in "\n" or letter.isprintable() for letter in page)
    lines = [" ".join(text.split()) for text in Elements(page).texts("p")]
    assert not said.strip() or " ".join(_html.visible(said).split()) in lines


@settings(deadline=None, max_examples=30)
@attacked("said")
@given(SAID)
def test_an_index_has_the_same_elements_whatever_was_said(said: str):
    def index(text: str) -> str:
        failed = nights.night({"web": nights.host("web", "held")}, failed=True, failure=text or "x")
        return _page.index([failed, {"version": text}], lab=text)

    assert skeleton(index(said)) == skeleton(index("x"))


@settings(deadline=None, max_examples=30)
@attacked("said")
@given(SAID)
def test_a_word_in_an_attribute_or_an_element_comes_back_as_it_was(said: str):
    [(name, attributes, text)] = Elements(_html.tag("p", said, title=said)).found
    assert (name, attributes["title"], "".join(text)) == ("p", _html.visible(said), _html.visible(said))


def shape(text: str) -> list[str]:
    """What a Markdown reader makes of a letter, without the words; with tables, strokes and links it makes itself."""
    reader = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    kinds = []
    for token in reader.parse(text):
        kinds.append(token.type)
        kinds += [child.type for child in token.children or () if child.type not in ("text", "text_special")]
    return kinds


def lines(said: str) -> str:
    """As many lines as C(said) has with something in them, of nothing but a letter."""
    return "\n".join("x" for line in _html.visible(said).split("\n") if line.strip())


@settings(deadline=None, max_examples=30)
@attacked("said", "name")
@given(SAID, NAMES)
def test_a_letter_in_markdown_has_the_same_shape_whatever_was_said(said: str, name: str):
    given_, plain = results(said, f"host {name}"), results(lines(said), "host x")
    assert shape(_letter.markdown(given_)) == shape(_letter.markdown(plain))
    _letter.markdown(given_).encode()


@settings(deadline=None, max_examples=30)
@attacked("said", "name")
@given(SAID, NAMES)
def test_a_letter_in_plain_text_has_our_headings_only_and_a_subject_is_one_line(said: str, name: str):
    given_ = results(said, f"host {name}")
    text = _letter.plain(given_)
    ours = _letter.plain(results("x", "host x")).splitlines()
    theirs = text.splitlines()
    headings = [line for line in theirs if line.startswith("--")]
    assert headings == [line for line in ours if line.startswith("--")]
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    subject = _night.subject(_night.read(given_), said)
    assert len(subject.splitlines()) == 1
    assert not [letter for letter in subject if unicodedata.category(letter).startswith("C")]
