# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings as the roles' specifications have them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.homelab.nixos.plugins.module_utils import _answers
from ansible_collections.homelab.nixos.plugins.module_utils._answers import Typed
from yaml import YAMLError

_ROLES = Path(__file__).parents[2] / "roles"


@cache
def options(role: str = "update", entry_point: str = "open") -> dict[str, dict[str, Any]]:
    """What a role says of the type of each of its settings; those of a night without arguments."""
    specification = (_ROLES / role / "meta/argument_specs.yml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = {}
    for name, option in yaml_load(specification)["argument_specs"][entry_point]["options"].items():
        kept = {key: option[key] for key in ("type", "elements", "choices") if key in option}
        # a path may be another machine's: nothing of it is expanded here
        found[name] = {key: "str" if value == "path" else value for key, value in kept.items()}
    return found


@cache
def defaults(role: str = "update") -> dict[str, Any]:
    """What a setting is when nobody has set it."""
    text = (_ROLES / role / "defaults/main.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml_load(text)
    return found


def typed(given: Mapping[str, object]) -> Typed:
    """Settings with the types that the specification gives them, however they came."""
    return _answers.typed(given, options(), _read)


def _read(text: str) -> object:
    try:
        return yaml_load(text)
    except YAMLError as error:
        raise ValueError("this is no YAML") from error
