# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The morning after, as a page: one file for a night, and an index of all. Pure.

A page asks for nothing: no script, no font, no picture, and its policy says so to the browser.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _page_style
from ansible_collections.homelab.nixos.plugins.module_utils._html import Html, join, tag
from ansible_collections.homelab.nixos.plugins.module_utils._night import (
    MEANINGS,
    PLAYBOOK,
    Command,
    Host,
    Night,
    Span,
    Trend,
    change,
    clipped,
    clock,
    closure,
    commands,
    headline,
    left_to_do,
    of_the_run,
    packages,
    page_name,
    read,
    read_all,
    title,
    took,
    trend,
    tried,
)
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD
from ansible_collections.homelab.nixos.plugins.module_utils._report import duration_words, locked_words

NIGHTS = 14
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_SIGNS = {"good": "✓", "mixed": "○", "bad": "✗"}
_STEPS = frozenset(_page_style.STEPS)
_REASON_SHOWN = 4000
# a step of a second is seen in a night of hours, too
_NARROWEST = 0.4
_TICKS = 6
_MINUTE, _HOUR = 60, 3600
_TICK_SECONDS = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * hours for hours in (1, 2, 4, 6, 12, 24)),
)


def page(
    result: Mapping[str, Any],
    former: Sequence[Mapping[str, Any]] = (),
    *,
    lab: str = "",
    zone: datetime.tzinfo = datetime.UTC,
    playbook: str = PLAYBOOK,
    optional: Collection[str] = (),
) -> str:
    """The page of one night. C(former) are the results of nights before it, the newest last.

    C(lab) is what its owner calls the lab, C(playbook) how a playbook is run, with V({}) for its name, and C(optional)
    are hosts of which nobody minds that they are off.
    """
    night = read(result, optional)
    last = trend(night, former, optional)
    return _document(
        f"{title(night, zone)}{f' · {lab}' if lab else ''}",
        tag(
            "header",
            tag("nav", tag("a", "All nights", href="index.html"), aria_label="Pages"),
            _verdict(night, lab, zone),
        ),
        tag(
            "main",
            _to_do(night, last, playbook),
            _left(night, playbook),
            _notes(night),
            _changed(night),
            _timeline(night, zone),
            _trend(last.newest(NIGHTS), night, zone),
            id="main",
        ),
        _about(night, zone),
    )


def index(
    results: Sequence[Mapping[str, Any]],
    *,
    lab: str = "",
    zone: datetime.tzinfo = datetime.UTC,
    optional: Collection[str] = (),
) -> str:
    """The index of the nights of C(results), the newest last, each of which has its page beside it."""
    nights, missing = read_all(results, optional)
    rows = [
        tag(
            "tr",
            tag("th", _night_link(night, zone), scope="row"),
            tag("td", _word(night.verdict, night.verdict), " (dry run)" if night.dry_run else ""),
            tag("td", headline(night)),
            tag("td", duration_words(night.seconds), class_="number"),
        )
        for night in nights
    ]
    table = _table("The newest first", ("Night", "Verdict", "What became of it", "Took"), rows)
    return _document(
        f"Nights{f' · {lab}' if lab else ''}",
        tag("header", tag("h1", f"Nights{f' of {lab}' if lab else ''}")),
        tag("main", table if rows else tag("p", "There is none yet."), _missing(missing), id="main"),
    )


def _document(name: str, *body: Html) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", name),
        # or browsers would ask the server for one
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(_page_style.sheet())),
    )
    skip = tag("a", "To what is to do", class_="skip", href="#main")
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', skip, _marks(), *body), lang='en')}\n"


def _verdict(night: Night, lab: str, zone: datetime.tzinfo) -> Html:
    day = f"{clock(night.began, zone):%A, %Y-%m-%d %H:%M %Z}"
    counts = [tag("li", _outcome(word), f" {count}") for word, count in night.counts.items()]
    return tag(
        "div",
        tag("p", f"{f'{lab} · ' if lab else ''}{day} · {duration_words(night.seconds)}", class_="soft"),
        tag("h1", _word(night.verdict, title(night, zone).rpartition(" of ")[0]), f": {headline(night)}"),
        tag("p", "A dry run: nothing was changed.") if night.dry_run else "",
        tag("ul", *counts, class_="counts", aria_label="Hosts by outcome") if counts else "",
        class_=f"verdict {night.verdict}",
    )


def _to_do(night: Night, last: Trend, playbook: str) -> Html:
    """A card for each bad host, and what to do if the run failed without one."""
    cards = [
        _card(host.name, [host], night, playbook, _again(last.streak(host.name))) for host in night.hosts if host.bad
    ]
    if of_the_run(night):
        run = (_said(night.failure), _commands(of_the_run(night, playbook)))
        cards.insert(0, tag("article", tag("h3", "The run failed"), *run, class_="card bad"))
    return _section("to-do", "What to do now", *cards or [tag("p", "Nothing.")])


def _left(night: Night, playbook: str) -> Html:
    cards = [_card(", ".join(host.name for host in hosts), hosts, night, playbook, "") for hosts in left_to_do(night)]
    return _section("left", "Left for another night", *cards) if cards else Html()


def _notes(night: Night) -> Html:
    """What there is to know beside the hosts: who was left alone for long, which inputs stayed behind."""
    notes = [tag("li", clipped(text, _REASON_SHOWN)) for text in night.notes]
    return _section("notes", "To know", tag("ul", *notes)) if notes else Html()


def _card(heading: str, hosts: Sequence[Host], night: Night, playbook: str, more: str) -> Html:
    word = hosts[0].word
    return tag(
        "article",
        tag("h3", f"{heading} ", _outcome(word)),
        tag("p", f"{MEANINGS[word].capitalize()}{more}.", class_="soft"),
        _said(hosts[0].reason),
        *(_said(tried(host)) for host in hosts),
        _commands(commands(hosts, night, playbook)),
        class_=f"card {_rank(word)}",
    )


def _commands(several: Iterable[Command]) -> Html:
    told = (
        join(
            (
                tag("dt", f"{command.purpose}{f' (on {command.host})' if command.host else ''}:"),
                tag("dd", tag("pre", tag("code", command.line))),
            )
        )
        for command in several
    )
    return tag("dl", *told)


def _changed(night: Night) -> Html:
    inputs = [
        tag(
            "tr",
            tag("th", one["path"], scope="row"),
            tag("td", locked_words(one["before"])),
            tag("td", locked_words(one["after"])),
            tag("td", _compare(one["compare"])),
        )
        for one in night.inputs
    ]
    changed = packages(night)
    having = {name for names in changed.values() for name in names}
    rows = [
        tag("tr", tag("td", text), tag("td", _everybody(names, len(having)), class_="soft"))
        for text, names in changed.items()
    ]
    return _section(
        "changed",
        "What would change" if night.dry_run else "What changed",
        _table("Inputs", ("Input", "Before", "After", "Commits"), inputs)
        if inputs
        else tag("p", "No input of the flake moved."),
        _table("Packages", ("Package", "Hosts"), rows) if rows else "",
        _table(
            "Hosts",
            ("Host", "Outcome", "System"),
            [_host_row(host, night) for host in night.hosts],
        ),
    )


def _host_row(host: Host, night: Night) -> Html:
    grown = closure(host, night)
    told = (change(host), f"closure {grown}" if grown else "", "rebooted" if host.rebooted else "")
    return tag(
        "tr",
        tag("th", host.name, scope="row"),
        tag("td", _outcome(host.word)),
        tag("td", ", ".join(filter(None, told))),
    )


def _timeline(night: Night, zone: datetime.tzinfo) -> Html:
    spans = [*night.spans, *(span for host in night.hosts for span in host.spans)]
    if not spans:
        rows = [_lane(host.name, host.spans, host.durations, None, ()) for host in night.hosts]
        return _section("timeline", "How long it took", tag("ol", *rows, class_="timeline"))
    first = min(span.began for span in spans)
    window = (first, max(1.0, max(span.end for span in spans) - first))
    ticks = _ticks(*window)
    # in the order in which they began; who was not touched comes last
    hosts = sorted(night.hosts, key=lambda host: (host.spans[0].began if host.spans else float("inf"), host.name))
    axis = tag(
        "li",
        tag("span", class_="name"),
        tag("svg", *(_tick_label(tick, window, zone) for tick in ticks), class_="axis"),
        tag("span", class_="took"),
        class_="axis-row",
        aria_hidden="true",
    )
    lanes = [_lane(host.name, host.spans, host.durations, window, ticks) for host in hosts]
    whole = [_lane("all systems", night.spans, {}, window, ticks)] if night.spans else []
    steps = sorted({_step(span.step) for span in spans}, key=_page_style.STEPS.index)
    legend = [tag("li", tag("svg", _rect(0, 100, step), aria_hidden="true"), step) for step in steps]
    return _section(
        "timeline",
        "Timeline",
        tag("p", f"Times are {clock(first, zone):%Z}. The bars have in words what stands beside them.", class_="soft"),
        tag("ul", *legend, class_="legend", aria_label="Patterns"),
        tag("ol", axis, *whole, *lanes, class_="timeline"),
    )


def _lane(
    name: str,
    spans: Sequence[Span],
    durations: Mapping[str, float],
    window: tuple[float, float] | None,
    ticks: Sequence[float],
) -> Html:
    """The row of a host, its bar for the eyes and the same in words."""
    drawn: str = ""
    if window is not None:
        grid = (_line(100 * (tick - window[0]) / window[1]) for tick in ticks)
        steps = (_bar_step(span, window) for span in spans)
        drawn = tag("svg", *grid, *steps, class_="bar", aria_hidden="true")
    return tag(
        "li", tag("span", name, class_="name"), drawn or tag("span"), tag("span", took(spans, durations), class_="took")
    )


def _bar_step(span: Span, window: tuple[float, float]) -> Html:
    width = min(100.0, max(_NARROWEST, 100 * span.seconds / window[1]))
    left = min(100 - width, 100 * (span.began - window[0]) / window[1])
    return _rect(left, width, _step(span.step))


def _trend(last: Trend, tonight: Night, zone: datetime.tzinfo) -> Html:
    if not last.nights:
        return _section("trend", "Last nights", tag("p", "There is none yet."), _missing(last.missing))
    rows = [
        tag(
            "tr",
            tag("th", _night_link(night, zone, here=night.run_id == tonight.run_id), scope="row"),
            tag("td", _word(night.verdict, night.verdict)),
            tag("td", _shares(night), class_="drawn", aria_hidden="true"),
            tag("td", ", ".join(f"{count} {word}" for word, count in night.counts.items()) or "no host"),
            tag("td", duration_words(night.seconds), class_="number"),
        )
        for night in last.nights
    ]
    nights = "1 night" if len(last.nights) == 1 else f"{len(last.nights)} nights"
    said = f"{last.good} of {nights} good, {last.reboots} reboots, {duration_words(last.seconds)} in the middle."
    head = tag(
        "tr",
        *(tag("th", text, scope="col") for text in ("Night", "Verdict")),
        tag("td", class_="drawn", aria_hidden="true"),
        *(tag("th", text, scope="col") for text in ("Hosts", "Took")),
    )
    table = tag("table", tag("caption", "The newest first"), tag("thead", head), tag("tbody", *rows), class_="trend")
    return _section("trend", "Last nights", tag("p", said), table, _missing(last.missing))


def _shares(night: Night) -> Html:
    """How many of the hosts were bad, left to do and right, as a bar."""
    ranks = [_rank(host.word) if host.bad or host.left else "good" for host in night.hosts]
    steps, left = [], 0.0
    for rank in ("bad", "mixed", "good"):
        width = 100 * ranks.count(rank) / max(1, len(ranks))
        steps += [_rect(left, width, rank)] if width else []
        left += width
    return tag("svg", *steps, class_="bar")


def _about(night: Night, zone: datetime.tzinfo) -> Html:
    facts = (
        ("Run", night.run_id),
        ("Began", f"{clock(night.began, zone):%Y-%m-%d %H:%M:%S %Z}"),
        ("Took", ", ".join(f"{name} {duration_words(seconds)}" for name, seconds in night.durations.items())),
        ("flake.lock (SHA-256)", night.lock_hash),
        ("The run failed", night.failure or ("and did not say why" if night.failed else "")),
    )
    told = (join((tag("dt", what), tag("dd", clipped(text, _REASON_SHOWN)))) for what, text in facts if text)
    return tag("footer", tag("h2", "About this run"), tag("dl", *told))


def _section(name: str, heading: str, *content: str) -> Html:
    return tag("section", tag("h2", heading, id=name), *content, aria_labelledby=name)


def _table(caption: str, headings: Iterable[str], rows: Iterable[Html]) -> Html:
    head = tag("tr", *(tag("th", text, scope="col") for text in headings))
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *rows))


def _night_link(night: Night, zone: datetime.tzinfo, here: bool = False) -> Html:
    text = f"{clock(night.began, zone):%Y-%m-%d %H:%M}"
    if here:
        return tag("a", text, href="#main", aria_current="page")
    return tag("a", text, href=page_name(night.run_id))


def _compare(url: str) -> str:
    # a lock file is written by others, so nothing but a page of the web is followed
    return tag("a", "what was done", href=url, rel="noreferrer") if url.startswith("https://") else ""


def _said(text: str) -> str:
    """What a host or a program said, its lines kept."""
    return tag("p", clipped(text, _REASON_SHOWN), class_="said") if text else ""


def _missing(sentences: Sequence[str]) -> str:
    return tag("ul", *(tag("li", text) for text in sentences)) if sentences else ""


def _outcome(word: str) -> Html:
    return _word(_rank(word), word)


def _word(rank: str, text: str) -> Html:
    return tag("span", tag("span", _SIGNS[rank], aria_hidden="true"), f" {text}", class_=f"word {rank}")


def _rank(word: str) -> str:
    return "bad" if word in BAD else "good" if word in ("updated", "unchanged") else "mixed"


def _again(streak: int) -> str:
    return f"; it ended badly in {streak} nights in a row" if streak > 1 else ""


def _everybody(names: Sequence[str], most: int) -> str:
    return f"all {most} that changed" if len(names) == most > 1 else ", ".join(names)


def _step(step: str) -> str:
    return step if step in _STEPS else "other"


def _ticks(first: float, seconds: float) -> list[float]:
    """Round times, at most so many, at which a line is drawn."""
    apart = next((one for one in _TICK_SECONDS if seconds / one <= _TICKS), seconds / _TICKS)
    begin = first - first % apart + apart
    return [begin + number * apart for number in range(_TICKS) if begin + number * apart < first + seconds]


def _tick_label(tick: float, window: tuple[float, float], zone: datetime.tzinfo) -> Html:
    place = 100 * (tick - window[0]) / window[1]
    anchor = "start" if place < 5 else "end" if place > 95 else "middle"
    when = clock(tick, zone)
    return tag(
        "text",
        f"{when:%H:%M:%S}" if tick % _MINUTE else f"{when:%H:%M}",
        x=f"{place:.2f}%",
        y="80%",
        text_anchor=anchor,
    )


def _line(place: float) -> Html:
    return tag("line", x1=f"{place:.2f}%", x2=f"{place:.2f}%", y1="0", y2="100%", class_="grid")


def _rect(left: float, width: float, fill: str) -> Html:
    return tag(
        "rect", x=f"{left:.2f}%", y="0", width=f"{width:.2f}%", height="100%", fill=f"url(#fill-{fill})", class_="step"
    )


def _marks() -> Html:
    """The patterns of the bars, once for the whole page."""
    patterns = (
        tag(
            "pattern",
            tag("rect", width="8", height="8", class_=f"fill-{name}"),
            tag("path", d=_page_style.PATTERNS[name]),
            id=f"fill-{name}",
            width="8",
            height="8",
            patternUnits="userSpaceOnUse",
        )
        for name in _page_style.DRAWN
    )
    return tag("svg", tag("defs", *patterns), class_="marks", aria_hidden="true", focusable="false")
