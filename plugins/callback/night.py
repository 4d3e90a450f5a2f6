# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: night
type: stdout
short_description: A night as people like to see it
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - At a terminal, there is one line for each host at the foot of the screen, with its step, for how long it has been in
    it, and how its night ended. Above are the plan, warnings, failures with their sentences, and the summary.
  - Elsewhere there is a plain line for each thing that happens, without any escape sequence, and the same plan,
    warnings, failures and summary.
  - With C(-v) it is the callback P(ansible.builtin.default#callback).
  - What M(homelab.nixos.lab_status) returns as C(lab_text) is printed, line by line. When its C(lab_only) is true too,
    nothing else is printed on the standard output any more. In a play with the variable C(__lab_quiet=true) only such
    texts are, and failures go to the standard error. In the results of other tasks neither means anything.
  - Control characters in what hosts say are shown as a replacement character.
options:
  view:
    description:
      - How a run is shown. V(auto) is V(live) where the standard output is a terminal that can move its cursor, and
        V(lines) elsewhere.
    type: str
    choices: [auto, lines]
    default: auto
    env:
      - name: HOMELAB_NIXOS_VIEW
    ini:
      - section: callback_homelab_nixos_night
        key: view
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - Set as stdout callback, for example with C(ANSIBLE_STDOUT_CALLBACK=homelab.nixos.night).
seealso:
  - plugin: ansible.builtin.default
    plugin_type: callback
"""

import atexit
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ansible import constants as C
from ansible.plugins.callback.default import CallbackModule as Default
from ansible.utils.color import stringc
from ansible.utils.fqcn import add_internal_fqcns
from ansible_collections.homelab.nixos.plugins.module_utils import _live
from ansible_collections.homelab.nixos.plugins.module_utils._html import visible
from ansible_collections.homelab.nixos.plugins.plugin_utils._screen import Screen, Ticker

_FRAME = 0.25
# only these tasks are believed, which run here; a host may answer to any other with whatever it likes
_TELLERS = ("homelab.nixos.lab_status", "lab_status")
_SET_FACT = add_internal_fqcns(("set_fact",))
_COLORS = {
    "title": "bright blue",
    "busy": "normal",
    "idle": C.COLOR_SKIP,
    "well": C.COLOR_OK,
    "held": C.COLOR_WARN,
    "bad": C.COLOR_ERROR,
}


def _unless_verbose(ours: Callable[..., None]) -> Callable[..., None]:
    """With -v, what Ansible's own callback does."""

    @functools.wraps(ours)
    def either(self: CallbackModule, *args: Any, **kwargs: Any) -> None:
        if self._display.verbosity:
            getattr(super(CallbackModule, self), ours.__name__)(*args, **kwargs)
        else:
            ours(self, *args, **kwargs)

    return either


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "homelab.nixos.night"

    def __init__(self) -> None:
        super().__init__()
        self._state = _live.State(began=time.time())
        # results come in one thread, and time passes in another
        self._changing = threading.Lock()
        self._screen: Screen | None = None
        self._ticker: Ticker | None = None
        # the state of which the plain lines have told
        self._announced = self._state
        # what is to be told at the end, by host, unless nothing was said since
        self._failures: dict[str, str] = {}
        self._just_told: set[str] = set()
        # the hosts of which an item of the task has failed, and told
        self._failed_items: set[str] = set()
        self._quiet = self._only = self._told = False

    # ---- the run -----------------------------------------------------------------------------------------------------

    @_unless_verbose
    def v2_playbook_on_start(self, playbook: Any) -> None:
        atexit.register(self._stop)

    @_unless_verbose
    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._quiet = play.get_vars().get("__lab_quiet") is True
        with self._changing:
            name = play.get_name().strip()
            self._state = _live.opened(self._state, name, bool(play.check_mode), bool(play.serial))
        if not self._quiet and self._ticker is None:
            self._start()

    @_unless_verbose
    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._stop()
        if not self._told:
            counted = {host: stats.summarize(host) for host in sorted(stats.processed)}
            for line in _live.recap(counted, self._failures, set(self._just_told)):
                self._say(line)

    @_unless_verbose
    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._say(_live.paragraph(self._state.play, "no host, nothing to do."))

    @_unless_verbose
    def v2_playbook_on_no_hosts_remaining(self) -> None:
        self._say("No host is left.", C.COLOR_ERROR)

    @_unless_verbose
    def v2_playbook_on_vars_prompt(self, *args: Any, **kwargs: Any) -> None:
        if self._screen:
            self._screen.pause(True)

    # ---- tasks -------------------------------------------------------------------------------------------------------

    @_unless_verbose
    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        # a question is about to be asked
        if self._screen:
            self._screen.pause(_verb(task) == "pause")

    @_unless_verbose
    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Its hosts tell."""

    @_unless_verbose
    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Its tasks tell."""

    @_unless_verbose
    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        # not get_name alone: it has the role in front
        step = _live.step(task.action, task.args, (task.name or task.get_name()).strip(), bool(task.delegate_to))
        with self._changing:
            self._state = _live.begun(self._state, _line(host, task), step, time.time())

    @_unless_verbose
    def v2_runner_on_ok(self, result: Any) -> None:
        self._end(result)
        self._warn(result)
        if "results" not in result.result:
            self._show(result)
        facts = result.result.get("ansible_facts")
        # of a night only the role speaks, and no host
        if isinstance(facts, Mapping) and result.task.action in _SET_FACT:
            self._note(result.host.get_name(), facts)

    @_unless_verbose
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        told = result.host.get_name() in self._failed_items
        self._end(result)
        self._warn(result)
        if not told:
            self._fail(result, "failed", ignore_errors)
        self._show(result)

    @_unless_verbose
    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._end(result)
        self._warn(result)
        self._fail(result, "unreachable", bool(result.task.ignore_unreachable))

    @_unless_verbose
    def v2_runner_on_skipped(self, result: Any) -> None:
        self._end(result, skipped=True)
        self._warn(result)

    @_unless_verbose
    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._begin(result)
        self._warn(result)
        self._show(result)

    @_unless_verbose
    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._begin(result)
        self._warn(result)
        self._failed_items.add(result.host.get_name())
        item = self._get_item_label(result.result)
        self._fail(result, f"[{item}] failed", bool(result.task_fields.get("ignore_errors")))

    @_unless_verbose
    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._warn(result)

    @_unless_verbose
    def v2_runner_retry(self, result: Any) -> None:
        left = result.result["retries"] - result.result["attempts"]
        intro = self._intro(result, f"failed, and is tried again, {left} times at most")
        self._say(_live.paragraph(intro, _live.sentence(result.result)), C.COLOR_WARN)

    @_unless_verbose
    def v2_runner_on_async_poll(self, result: Any) -> None:
        """It goes on."""

    @_unless_verbose
    def v2_runner_on_async_ok(self, result: Any) -> None:
        """The task tells."""

    @_unless_verbose
    def v2_runner_on_async_failed(self, result: Any) -> None:
        """The task tells."""

    @_unless_verbose
    def v2_on_file_diff(self, result: Any) -> None:
        looped = result.result.get("results") if result.task.loop else None
        for each in looped or [result.result]:
            if isinstance(each, Mapping) and each.get("diff") and each.get("changed"):
                self._say(_live.paragraph(self._intro(result, "changes"), ""))
                self._say(self._get_diff(_live.clean(each["diff"])))

    # ---- what is told ------------------------------------------------------------------------------------------------

    def _begin(self, result: Any) -> None:
        """An item of a task has a result, so that the task is not skipped."""
        with self._changing:
            self._state = _live.confirmed(self._state, _line(result.host, result.task))
        if self._screen is None:
            self._tell_steps()

    def _end(self, result: Any, skipped: bool = False) -> None:
        self._failed_items.discard(result.host.get_name())
        with self._changing:
            self._state = _live.ended(self._state, _line(result.host, result.task), skipped, time.time())
        if self._screen is None:
            self._tell_steps()

    def _note(self, host: str, facts: Mapping[str, Any]) -> None:
        """What a task noted of a host's night."""
        word, reason = _live.outcome(facts)
        with self._changing:
            before = self._state
            if "lab_rollout_batches" in facts:
                self._state = replace(self._state, batches=len(facts["lab_rollout_batches"]))
            if word:
                self._state = _live.judged(self._state, host, word)
            is_new = before.hosts.get(host) != self._state.hosts.get(host)
        if is_new and self._screen is None:
            told = word if word in _live.WELL or not reason else f"{word}. {reason}"
            self._say(_live.paragraph(f"{_clock(time.time())} {host}", told))

    def _tell_steps(self) -> None:
        """A plain line for each step that began, once it is known to have begun."""
        with self._changing:
            before, self._state = self._announced, _live.believed(self._state, time.time())
            self._announced = self._state
            for since, host, step in _live.news(before, self._state):
                self._say(_live.paragraph(f"{_clock(since)} {host}", step) if host else f"{_clock(since)} {step}")

    def _show(self, result: Any) -> None:
        """What a task has to tell people."""
        text = result.result.get("lab_text") if result.task.action in _TELLERS else None
        if isinstance(text, str):
            self._display.display(visible(text))
            self._told = True
            self._only = self._only or result.result.get("lab_only") is True
        elif _verb(result.task) == "debug":
            once = _is_once(result.task)
            self._told = self._told or (once and result.task.name in _live.SUMMARIES)
            said = result.result.get("msg")
            if isinstance(said, list):
                said = "\n".join(map(str, said))
            if said is None or isinstance(said, Mapping):
                self._clean_results(result.result, result.task.action)
                said = self._dump_results(result.result).strip("\n")
            self._say(visible(str(said)) if once else _live.paragraph(result.host.get_name(), str(said)))

    def _fail(self, result: Any, how: str, ignored: bool) -> None:
        said = _live.sentence(result.result) or visible(self._dump_results(result.result)).strip()
        host = result.host.get_name()
        if not ignored:
            self._failures[host] = _live.paragraph(f"{host}: {result.task_name.strip()} {how}", said)
        how += ", and the run goes on" if ignored else ""
        self._say(
            _live.paragraph(self._intro(result, how), said), C.COLOR_WARN if ignored else C.COLOR_ERROR, failure=True
        )
        if not ignored:
            self._just_told.add(host)

    def _warn(self, result: Any) -> None:
        for warning in result.result.get("warnings") or []:
            self._display.warning(visible(str(warning)))
        for old in result.result.get("deprecations") or []:
            known = {key: old.get(key) for key in ("version", "date", "collection_name")}
            self._display.deprecated(visible(str(old["msg"])), **known)

    def _intro(self, result: Any, what: str) -> str:
        return f"{_clock(time.time())} {self.host_label(result)}: {result.task_name.strip()} {what}"

    def _say(self, text: str, color: str | None = None, failure: bool = False) -> None:
        silent = self._quiet or self._only
        if not failure:
            self._just_told.clear()
        if failure or not silent:
            self._display.display(text, color=color if self._is_live else None, stderr=silent)
            # in a pipe, nobody else would for as long as a step takes
            sys.stdout.flush()

    # ---- the terminal ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._is_live:
            self._screen = Screen(self._draw)
        self._ticker = Ticker(_FRAME, self._screen.refresh) if self._screen else Ticker(1, self._tell_steps)

    def _stop(self) -> None:
        if self._ticker:
            self._ticker.stop()
            self._ticker = None
        if self._screen:
            self._screen.close()
            self._screen = None

    @functools.cached_property
    def _is_live(self) -> bool:
        moves = os.environ.get("TERM", "") not in ("", "dumb")
        return self.get_option("view") == "auto" and sys.stdout.isatty() and moves

    def _draw(self, width: int, height: int) -> list[tuple[str, str]]:
        lines = _live.lines(self._state, width, height, time.time())
        return [(line.text, stringc(line.text, _COLORS[line.kind])) for line in lines]


def _line(host: Any, task: Any) -> str:
    """Whose line of the view a task moves on: what runs once is nobody's."""
    return "" if _is_once(task) else host.get_name()


def _is_once(task: Any) -> bool:
    return task.run_once is True


def _verb(task: Any) -> str:
    return task.action.rpartition(".")[2]


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
