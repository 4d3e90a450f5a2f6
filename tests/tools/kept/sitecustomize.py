"""Of the tests' Ansible: what it has collected for a module it keeps for the next run, while no source has changed.

Each run of a playbook looks anew through the imports of every module that it uses, which was a quarter of its work in
a night of few hosts. What hosts are given is the same. Where nothing can be kept, nothing is.
"""

import contextlib
import io
import os
import pickle
import sys
import tempfile
import zipfile
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

KEPT = os.environ.get("TESTS_KEPT", "")
SOURCES = Path(__file__).parents[3] / "plugins/module_utils"
BUILDER = "ansible.executor.module_common"


def keep(module_common):
    """Let C(recursive_finder) of ansible-core look first among what is kept."""
    find = module_common.recursive_finder

    def find_once(name, module_fqn, module_data, zf, date_time, extensions):
        if extensions.module_names:
            return find(name, module_fqn, module_data, zf, date_time, extensions)
        digest = sha256(repr((module_common.__version__, module_fqn, bytes(module_data))).encode())
        for source in sorted(SOURCES.glob("*.py")):
            digest.update(source.name.encode() + source.read_bytes())
        place = Path(KEPT) / digest.hexdigest()
        try:
            files, metadata = pickle.loads(place.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            with zipfile.ZipFile(io.BytesIO(), "w") as found:
                metadata = find(name, module_fqn, module_data, found, date_time, extensions)
                files = [(file, found.read(file)) for file in found.namelist()]
            with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=KEPT, delete=False) as new:
                new.write(pickle.dumps((files, metadata)))
                os.replace(new.name, place)
        for file, source in files:
            zf.writestr(module_common._make_zinfo(file, date_time, zf=zf), source)
        return metadata

    module_common.recursive_finder = find_once


class Builder(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        keep(module)


class Finder(MetaPathFinder):
    """Waits for the one import."""

    def find_spec(self, name, path=None, target=None):
        if name != BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            return spec
        return spec_from_file_location(name, spec.origin, loader=Builder(name, spec.origin))


if KEPT:
    sys.meta_path.insert(0, Finder())
