#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nix_flake_update
short_description: Update the inputs of a flake, once every system builds with them
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Updates the inputs of a flake in a candidate, builds every system of O(must_build) from the candidate, and only then
    makes the candidate's C(flake.lock) the flake's own.
  - C(flake.lock) has its old bytes after any failure, and the new, built ones after any success.
  - It is changed when the bytes of C(flake.lock) changed or, with O(pull), the checkout moved.
  - In a git checkout the candidate is a commit in a detached worktree of the committed state, and it is adopted by
    fast-forward, so C(self.rev) is the same in test and in use. Uncommitted changes are never built. A C(flake.lock)
    with uncommitted changes, or a torn one, is refused.
  - Elsewhere the candidate is a copy of the directory, and it is adopted by one rename.
  - Inputs are compared by their path, such as V(dep/nixpkgs), and not by the node keys of C(flake.lock), which Nix
    renumbers.
  - Warns of inputs that are gone or now follow another one, of inputs that come from another owner, repository or host
    than before, and of inputs that moved although O(inputs) names only others.
options:
  path:
    description: Directory of the flake. It may be a subdirectory of a git checkout.
    type: path
    required: true
  inputs:
    description:
      - Inputs to update, each by its path as C(nix flake update) has it, such as V(nixpkgs) or V(dep/nixpkgs).
      - With an empty list all inputs are updated.
      - A name that the flake does not have is an error.
    type: list
    elements: str
    default: []
  update:
    description: Whether to update inputs at all. With V(false) the systems are built as they are locked.
    type: bool
    default: true
  must_build:
    description:
      - What has to build before C(flake.lock) is adopted, as a dictionary of names and attributes of the flake, such as
        V(nixosConfigurations."web".config.system.build.toplevel).
      - A name is also the name of the GC root in O(gc_roots).
    type: dict
    default: {}
  build_failure:
    description:
      - What to do when a system of O(must_build) does not evaluate or build.
      - V(stop) adopts nothing. V(skip) goes on without it and adopts a C(flake.lock) with which at least one of the
        others builds; RV(failed_systems) says which ones failed and why.
    type: str
    choices: [stop, skip]
    default: stop
  fallback:
    description:
      - What to do when an update cannot be adopted as a whole, because an input cannot be fetched, or went back in
        time, or a system does not build.
      - V(per_input) adds inputs one at a time, in the order of O(inputs) or of their names, and keeps each one with
        which all systems build. That takes at most as many more builds as there are inputs, and one of what is locked
        with O(build_failure=skip), where a system that does not build as it is locked is no input's fault.
        RV(rejected_inputs) names the others. When every input is rejected, it is as with V(none).
    type: str
    choices: [none, per_input]
    default: none
  commit:
    description:
      - Whether a new C(flake.lock) is committed. Only matters in a git checkout.
      - With V(false) it is left uncommitted. The next run refuses it until somebody commits it or throws it away.
      - Hooks and signing work as git is set up for the user.
    type: bool
    default: true
  commit_message:
    description: First line of the commit's message. The inputs that changed follow it, with their links.
    type: str
    default: 'flake.lock: update'
  pull:
    description:
      - Whether to fetch first, and to begin with what the remote branch has that the checkout follows.
      - The checkout is fast-forwarded to it together with the new C(flake.lock), so once everything builds. A checkout
        that cannot be fast-forwarded is refused.
    type: bool
    default: false
  push:
    description:
      - Whether the commit of a new C(flake.lock) is pushed to the remote branch that the checkout follows. Implies
        O(pull).
      - It is pushed once everything builds, and before it is adopted. What the remote refuses is not adopted.
      - Where the branch has other commits that the remote has not, nothing is pushed, and a warning says so.
    type: bool
    default: false
  fetch_timeout:
    description: Seconds for a fetch or a push of the checkout, and for updating the inputs.
    type: int
    default: 600
  allow_downgrade:
    description:
      - Whether an input may become older than it was.
      - A source that is down or was rewound has taken hosts back in silence, so the default refuses it for every input
        path.
    type: bool
    default: false
  max_age:
    description: Warn of inputs of the flake itself that are older than this many days after the update.
    type: int
  eval_memory:
    description:
      - MiB of memory that the evaluation of one system may take; one that wants more is named and fails.
      - Systems are evaluated side by side, one on each processor, as far as the available memory holds that much for
        each of them.
    type: int
    default: 4096
  signing_key:
    description:
      - A file with a secret key, as C(nix key generate-secret) makes it, by which the closures of all systems are
        signed.
      - Hosts that have its public key among their C(trusted-public-keys) take signed systems from anybody.
    type: path
  gc_roots:
    description:
      - Directory for the GC roots of what was built, one for each name of O(must_build).
      - It must be writable for the user who runs the task.
    type: path
    default: /nix/var/nix/gcroots/lab-auto-update/builder
  options:
    description: Nix settings for this run, as in C(nix.conf).
    type: dict
    default: {}
  timeout:
    description: Seconds for everything together.
    type: int
    default: 3600
requirements:
  - Python 3.11 or newer
  - Nix 2.26 or newer
  - git, for a flake in a git checkout
attributes:
  check_mode:
    support: full
    description:
      - The same is done but for the adoption, so C(flake.lock) and the branch stay as they are.
      - Store paths, GC roots of ours and loose git objects may be added.
  diff_mode:
    support: full
    description: Shows a line for each input that changes, and RV(inputs[].compare) below it.
  platform:
    support: full
    platforms: linux
    description: Any Linux that has Nix.
notes:
  - Runs on the host that has the flake. Run it as the owner of the checkout, because git and Nix refuse the checkouts
    of other users.
  - Git submodules are not part of the candidate.
"""

EXAMPLES = r"""
- name: Update all inputs, if web and db build with them
  homelab.nixos.nix_flake_update:
    path: /etc/nixos
    must_build:
      web: nixosConfigurations."web".config.system.build.toplevel
      db: nixosConfigurations."db".config.system.build.toplevel
  register: flake
  run_once: true
  delegate_to: builder
  become: true

- name: Show the system of this host
  ansible.builtin.debug:
    msg: "{{ flake.systems[inventory_hostname] }}"

- name: Show what an update of nixpkgs would bring
  homelab.nixos.nix_flake_update:
    path: /etc/nixos
    inputs: [nixpkgs]
  check_mode: true
  diff: true

- name: Build what is locked
  homelab.nixos.nix_flake_update:
    path: /etc/nixos
    update: false
    must_build:
      web: nixosConfigurations."web".config.system.build.toplevel
"""

RETURN = r"""
inputs:
  description:
    - The inputs that changed, each with what it was locked to and what it is now.
    - RV(inputs[].before) is V(null) for an input that was not there, RV(inputs[].after) for one that is gone or follows
      another one.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The path of the input from the flake.
      type: str
    before:
      description: The old lock.
      type: dict
      contains: &locked
        url:
          description: The source, without secrets.
          type: str
        rev:
          description: The revision, or V(null) for a source that has none.
          type: str
        last_modified:
          description: When the source was made, in seconds since 1970, or V(null).
          type: int
        nar_hash:
          description: The hash of the source, or V(null).
          type: str
    after:
      description: The new lock.
      type: dict
      contains: *locked
    compare:
      description:
        - The page on which the forge shows what changed, or V(null) where there is none.
        - Known are GitHub and GitLab, also on other hosts by inputs of these types, and Codeberg, Gitea and Forgejo on
          their well-known hosts.
      type: str
  sample:
    - path: nixpkgs
      before:
        url: github:NixOS/nixpkgs
        rev: 1b1f50645af2a70dc93eae18bfd88d330bfbcf7f
        last_modified: 1795204545
        nar_hash: sha256-Ix75GHEywjnGg/6KLcRYff3zBaH17/Eip6bmt/iEJuY=
      after:
        url: github:NixOS/nixpkgs
        rev: 50fc86b75d2744e1ab3837ef74b53f103a9b55a0
        last_modified: 1795377345
        nar_hash: sha256-dQRW+0PmfZniYFlavud7yp1ZbLbFJjKQRSFFB31tIFQ=
      compare: "https://github.com/NixOS/nixpkgs/compare/1b1f50645af2a70dc93eae18bfd88d330bfbcf7f...\
        50fc86b75d2744e1ab3837ef74b53f103a9b55a0"
    - path: packages
      before:
        url: git+file:///srv/packages?ref=refs/heads/main
        rev: ad465281809234ae5c7eca0d9355e78ae7442ff1
        last_modified: 1795377345
        nar_hash: sha256-Ix75GHEywjnGg/6KLcRYff3zBaH17/Eip6bmt/iEJuY=
      after:
        url: git+file:///srv/packages?ref=refs/heads/main
        rev: 3047390341263ff429d4e16a6951461b790cea74
        last_modified: 1795377345
        nar_hash: sha256-dQRW+0PmfZniYFlavud7yp1ZbLbFJjKQRSFFB31tIFQ=
      compare: null
systems:
  description: The store path of each system of O(must_build).
  returned: success
  type: dict
  sample:
    web: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
lock_hash:
  description: The SHA-256 of the C(flake.lock) that the systems were built with, or V(null) for a flake without one.
  returned: success
  type: str
  sample: 9f4438821fe8189ba1c3c11352192a6ec8a8914e168e530af5e6481d645f6e96
commit:
  description: The commit of the new C(flake.lock), or V(null) if there is none.
  returned: success
  type: str
  sample: cc1a3a675fec08c71a0a86cff0c42811fd5d5bd5
durations:
  description: Seconds that C(update), C(build) and everything together, C(total), took.
  returned: success
  type: dict
  sample:
    build: 41.8
    total: 44.1
    update: 1.9
failed_systems:
  description: Why systems of O(must_build) do not build, a sentence for each name.
  returned: success, and when a system does not build
  type: dict
  sample:
    web: "Its system did not evaluate: error: attribute 'nginx' missing."
rejected_inputs:
  description: Why inputs could not be updated, a sentence for each one, with O(fallback=per_input).
  returned: success, and when no input could be updated by itself
  type: dict
  sample:
    tools: "With the new 'tools': The system of 'web' did not evaluate: error: attribute 'restic' missing."
evaluation:
  description: How the systems were evaluated.
  returned: success
  type: dict
  contains:
    workers:
      description: How many were evaluated at a time.
      type: int
    memory:
      description: How much memory each one could have, in MiB.
      type: int
    peak_memory:
      description: How much memory the largest program of this run has had, in MiB.
      type: int
  sample:
    memory: 4096
    peak_memory: 92
    workers: 2
known_inputs:
  description: The paths of all inputs of the flake.
  returned: when one of O(inputs) is unknown
  type: list
  elements: str
  sample: [packages, services]
"""

from ansible_collections.homelab.nixos.plugins.module_utils import _flake_update, _nix
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule


def main() -> None:
    module = LabModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "inputs": {"type": "list", "elements": "str", "default": []},
            "update": {"type": "bool", "default": True},
            "must_build": {"type": "dict", "default": {}},
            "build_failure": {"type": "str", "choices": ["stop", "skip"], "default": "stop"},
            "fallback": {"type": "str", "choices": ["none", "per_input"], "default": "none"},
            "commit": {"type": "bool", "default": True},
            "commit_message": {"type": "str", "default": "flake.lock: update"},
            "pull": {"type": "bool", "default": False},
            "push": {"type": "bool", "default": False},
            "fetch_timeout": {"type": "int", "default": 600},
            "allow_downgrade": {"type": "bool", "default": False},
            "max_age": {"type": "int"},
            "eval_memory": {"type": "int", "default": 4096},
            # the name of a file, and no secret itself
            "signing_key": {"type": "path", "no_log": False},
            "gc_roots": {"type": "path", "default": _nix.BUILDER_ROOTS},
            "options": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    module.params["must_build"] = {str(name): str(what) for name, what in module.params["must_build"].items()}
    request = _flake_update.Request(**module.params, check_mode=module.check_mode)
    try:
        outcome = _flake_update.update(door(module), request)
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)
    for words in outcome.warnings:
        module.warn(words)
    module.exit_json(**outcome.as_result())


if __name__ == "__main__":
    main()
