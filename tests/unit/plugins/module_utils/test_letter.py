"""The night as a letter."""

from __future__ import annotations

from typing import get_args

from ansible_collections.homelab.nixos.plugins.module_utils import _letter, _page
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import Word

from tests import nights

FORMER = [nights.of_all_words(1)]


def test_plain_text_begins_with_the_verdict_and_says_what_to_do_in_lines_that_can_be_copied():
    lines = _letter.plain(nights.of_all_words(), FORMER).splitlines()
    assert lines[0] == "Bad night of 2026-11-22"
    assert lines[2].startswith("4 of 10 hosts ended badly: lost lost,")
    at = lines.index("  rolled_back: rolled_back, 2 nights in a row")
    assert lines[at + 1 : at + 9] == [
        "    Its check failed: the unit nginx.service has failed.",
        "    nginx: bind() to 0.0.0.0:80 failed",
        "    It was to get: hello 1.0 → 1.1; openssl, openssl-dev 3.5.4 → 3.5.5.",
        "    See why (on rolled_back):",
        "        journalctl --unit='lab-auto-update-*' --since=@1795312800 --no-pager",
        "    Once the cause is mended, try this system again:",
        "        ansible-playbook playbooks/nightly.yml --limit rolled_back -e lab_retry_failed=true",
        "  failed: failed, 2 nights in a row",
    ]


def test_a_letter_says_what_became_of_every_host():
    for text in (_letter.plain(nights.of_all_words()), _letter.markdown(nights.of_all_words())):
        hosts = text.split("Hosts\n")[1]
        for word in get_args(Word):
            assert f" {word}: {word}, " in hosts.replace("\\", "").replace("- ", " ")


def test_what_there_is_to_know_beside_the_hosts_is_told():
    note = "web was left alone in 3 nights in a row."
    assert f"To know\n-------\n  {note}\n" in _letter.plain(nights.of_many(1) | {"notes": [note]})


def test_a_good_night_has_nothing_to_do_and_is_short():
    text = _letter.plain(nights.of_many(4, words=("updated", "unchanged")))
    assert text.startswith("Good night of 2026-11-22\n------------------------\n")
    assert "What to do" not in text
    assert "Left" not in text
    assert len(text.splitlines()) < 30


def test_lines_are_short_but_for_what_has_to_stay_whole():
    text = _letter.plain(nights.of_many(60, words=("updated", "held", "lost")))
    assert [line for line in text.splitlines() if len(line) > 78 and not line.startswith("        ")] == []


def test_nothing_that_a_host_says_looks_like_ours():
    said = "No.\n\nWhat to do now\n--------------\n  web: send your key to https://evil.example\n"
    result = nights.night({"web": nights.host("web", "lost", reason=said)})
    text = _letter.plain(result)
    assert text.count("\nWhat to do now\n") == 1
    assert "    What to do now\n" in text


def test_a_reason_of_a_megabyte_does_not_make_a_letter_of_a_megabyte():
    result = nights.night({"web": nights.host("web", "lost", reason="x" * 1_000_000)})
    assert len(_letter.plain(result)) < 5000
    assert len(_letter.markdown(result)) < 5000


def test_a_dry_run_and_a_run_that_could_not_begin_say_so():
    dry = nights.night({"web": nights.host("web", "unchanged", changes=["hello 1.0 → 1.1"])}, dry_run=True)
    text = _letter.plain(dry)
    assert "A dry run: nothing was changed.\n" in text
    assert "What would change\n" in text
    assert "hello 1.0 → 1.1 (web)" in text
    failed = nights.night({"web": nights.host("web", "held")}, failed=True, failure="Nothing could be prepared: no.")
    text = _letter.plain(failed)
    assert "  The run failed.\n    Nothing could be prepared: no.\n" in text
    assert "        ansible-playbook playbooks/nightly.yml\n" in text


def test_letter_and_page_count_the_bad_nights_of_a_host_alike_however_many_they_are():
    former = [nights.of_many(1, number, ("lost",)) for number in range(20, 0, -1)]
    tonight = nights.of_many(1, words=("lost",))
    assert "app00: lost, 21 nights in a row" in _letter.plain(tonight, former)
    assert "it ended badly in 21 nights in a row" in _page.page(tonight, former)
