"""Of the guests' Python: what it has compiled of a zip it keeps, as Python does for every other module.

Each module of Ansible comes as a zip of sources and is compiled whole, which was a fifth of a night's work in a lab.
The code that runs is the same. Where nothing can be kept, nothing is.
"""

import contextlib
import marshal
import os
import zipimport

from _sha2 import sha256  # type: ignore[import-not-found]  # it costs no import of OpenSSL

KEPT = "/var/cache/python-zip"

compile_source = zipimport._compile_source  # type: ignore[attr-defined]


def compile_once(path, source, *rest):
    """The code of C(source), compiled now or on another day."""
    place = f"{KEPT}/{sha256(source).hexdigest()}"
    with contextlib.suppress(OSError, EOFError, ValueError, TypeError), open(place, "rb") as file:
        return marshal.load(file)
    code = compile_source(path, source, *rest)
    with contextlib.suppress(OSError):
        os.makedirs(KEPT, exist_ok=True)
        with open(f"{place}.{os.getpid()}", "xb") as new:
            marshal.dump(code, new)
        os.replace(new.name, place)
    return code


zipimport._compile_source = compile_once  # type: ignore[attr-defined]
