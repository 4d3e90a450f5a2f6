"""Of the tests' Ansible: what it has made of our sources it keeps for the next run, while no source has changed.

Each run of a playbook looks anew through the imports of every module that it uses, and each of its workers compiles
anew every template and plugin that it meets: half of the controller's work in a night of few hosts. What hosts are
given, and the code that runs, is the same. Where nothing can be kept, nothing is.
"""

import contextlib
import functools
import gc
import io
import marshal
import os
import pickle
import sys
import tempfile
import zipfile
from hashlib import sha256
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

KEPT = os.environ.get("TESTS_KEPT", "")
PLUGINS = Path(__file__).parents[3] / "plugins"
# so many objects more, and garbage is looked for: a run is short, and never has as many
OBJECTS = 200_000
VERSIONS = (sys.version, *(version(name) for name in ("ansible-core", "jinja2"))) if KEPT else ()
# Jinja may compute what depends on nothing while it compiles
NEVER_TWICE = ("random", "shuffle", "password_hash")


@functools.cache
def sources():
    """What names the sources of the collection, as far as others are made of them."""
    digest = sha256()
    for source in sorted([*PLUGINS.glob("module_utils/*.py"), *PLUGINS.glob("filter/*.py")]):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def kept(key, make, read, write):
    """What C(make) returns, made now or on another day."""
    place = Path(KEPT) / sha256(repr(key).encode()).hexdigest()
    with contextlib.suppress(OSError, EOFError, ValueError, TypeError, pickle.UnpicklingError):
        return read(place.read_bytes())
    made = make()
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=KEPT, delete=False) as new:
        new.write(write(made))
        os.replace(new.name, place)
    return made


def keep_modules(module_common):
    """Let C(recursive_finder) of ansible-core look first among what is kept."""
    find = module_common.recursive_finder

    def find_once(name, module_fqn, module_data, zf, date_time, extensions):
        if extensions.module_names:
            return find(name, module_fqn, module_data, zf, date_time, extensions)

        def make():
            with zipfile.ZipFile(io.BytesIO(), "w") as found:
                metadata = find(name, module_fqn, module_data, found, date_time, extensions)
                return [(file, found.read(file)) for file in found.namelist()], metadata

        key = ("module", VERSIONS, sources(), module_fqn, bytes(module_data))
        files, metadata = kept(key, make, pickle.loads, pickle.dumps)
        for file, source in files:
            zf.writestr(module_common._make_zinfo(file, date_time, zf=zf), source)
        return metadata

    module_common.recursive_finder = find_once


def keep_templates(bits):
    """Let Jinja look first among what is kept, for templates as well as for single expressions."""
    sources()  # before there are workers
    environment = bits.AnsibleEnvironment
    compile_template, compile_expression = environment.compile, environment.compile_expression

    def once(kind, env, source, make):
        if env._debuggable_template_source or any(word in source for word in NEVER_TWICE):
            return make()
        context = bits._TemplateCompileContext.current(optional=True)
        options = [getattr(env, name) for name in bits._TEMPLATE_OVERRIDE_FIELD_NAMES]
        key = (kind, VERSIONS, sources(), context and context.escape_backslashes, options, str(source))
        return kept(key, make, marshal.loads, marshal.dumps)

    def compile_template_once(env, source, *rest, **more):
        make = functools.partial(compile_template, env, source, *rest, **more)
        return make() if rest or more or not isinstance(source, str) else once("template", env, source, make)

    def compile_expression_once(env, source, undefined_to_none=True):
        def make():
            # the code instead of a template that is made of it
            env.from_string = functools.partial(compile_template, env)
            try:
                return compile_expression(env, source, undefined_to_none)._template
            finally:
                del env.from_string

        code = once("expression", env, source, make)
        template = env.template_class.from_code(env, code, env.make_globals(None))
        return bits.TemplateExpression(template, undefined_to_none)

    environment.compile, environment.compile_expression = compile_template_once, compile_expression_once


def keep_plugins(collection_finder):
    """Let the loader of collections compile a source once, as Python does for every other module."""

    def compile_once(source, filename, mode, flags, dont_inherit):
        make = functools.partial(compile, source, filename, mode, flags, dont_inherit)
        return kept(("plugin", VERSIONS, filename, source), make, marshal.loads, marshal.dumps)

    collection_finder.compile = compile_once


def load_filters(strategy):
    """Have a playbook's filters before its first task has workers, of which each would load all of them."""
    if Path(sys.argv[0]).name == "ansible-playbook":
        with contextlib.suppress(ImportError):
            import_module("ansible_collections.homelab.nixos.plugins.action.lab_run")


KEEPERS = {
    "ansible.executor.module_common": keep_modules,
    "ansible._internal._templating._jinja_bits": keep_templates,
    "ansible.utils.collection_loader._collection_finder": keep_plugins,
    "ansible.plugins.strategy": load_filters,
}


class Keeper(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        KEEPERS[module.__name__](module)


class Finder(MetaPathFinder):
    """Waits for the imports."""

    def find_spec(self, name, path=None, target=None):
        if name not in KEEPERS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.origin is None:
            return spec
        return spec_from_file_location(name, spec.origin, loader=Keeper(name, spec.origin))


if KEPT:
    sys.meta_path.insert(0, Finder())
    gc.set_threshold(OBJECTS)
    # workers look at what they find as little as they can
    os.register_at_fork(before=gc.freeze)
