"""Finds graced's own modules at the start of a daemon, with less work than Python's own finders (ADR 22).

Those look for six kinds of file in every directory of the path, and at the dates of the directories. Taken here is only
what they would take, too: the byte-compiled file that this interpreter made of the source as it is now (the check is
PEP 3147's and PEP 552's). Of everything else this finder says nothing, and theirs go on.
"""

from __future__ import annotations

import sys
from marshal import loads
from os import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
else:
    # To import it costs what this module saves, and nothing asks for it.
    Loader = object

_HEAD: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER + bytes(4)
"""Of a file whose source is told by date and size; importlib.util has the number, too, and costs 2 ms."""
_HEAD_BYTES = 16
_TAG = f"{sys.implementation.cache_tag}.pyc"
_Spec: type[ModuleSpec] = type(sys.__spec__)


class OwnFinder(Loader):
    """Finder and loader of the modules of one package."""

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def install(self) -> None:
        """Ask this one first, from now on; not where byte code is made otherwise than usual."""
        if not sys.flags.optimize and sys.pycache_prefix is None:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """What importlib asks: where a module is, or None."""
        if not path or not name.startswith(self._prefix):
            return None
        leaf = name.rpartition(".")[2]
        for directory, stem in ((path[0], leaf), (f"{path[0]}/{leaf}", "__init__")):
            source, cached = f"{directory}/{stem}.py", f"{directory}/__pycache__/{stem}.{_TAG}"
            code = _compiled(source, cached)
            if code is not None:
                spec = _Spec(name, self, origin=source, loader_state=code, is_package=stem == "__init__")
                spec.has_location, spec.cached = True, cached
                if spec.submodule_search_locations is not None:
                    spec.submodule_search_locations.append(directory)
                return spec
        return None

    def create_module(self, _spec: ModuleSpec) -> None:
        """Leave it to importlib."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code."""
        spec = module.__spec__
        assert spec is not None
        code, spec.loader_state = spec.loader_state, None
        exec(code, module.__dict__)  # noqa: S102  # what every import does


def _compiled(source: str, cached: str) -> CodeType | None:
    """The code in `cached` when it was made of `source` as it is now."""
    try:
        seen = stat(source)
        with open(cached, "rb", buffering=0) as file:
            data = file.read()
    except OSError:
        return None
    made_of = _four_bytes(int(seen.st_mtime)) + _four_bytes(seen.st_size)
    if data[:_HEAD_BYTES] != _HEAD + made_of:
        return None
    code: CodeType = loads(memoryview(data)[_HEAD_BYTES:])  # noqa: S302  # as Python does, of the same file
    return code


def _four_bytes(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")
