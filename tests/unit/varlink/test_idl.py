"""The IDL files say what the daemons do: each method has a row in the access table, each common error is declared."""

from __future__ import annotations

import importlib
import pathlib
import re

import pytest

import graced
from graced.runtime.service import Interface

ROOT = pathlib.Path(graced.__file__).parent
FILES = sorted((ROOT / "share" / "varlink").glob("*.varlink"))
HOMES = ("supervisor.main", *(f"kernels.{path.stem}" for path in (ROOT / "kernels").glob("[a-z]*.py")), "actuator.main")


def interfaces():
    for home in HOMES:
        importlib.import_module(f"graced.{home}")
    found, left = {}, [Interface]
    while left:
        left += (subclasses := left.pop().__subclasses__())
        for one in subclasses:
            # The most derived class is the one that is served.
            if one.__module__.startswith("graced.") and one.name.startswith("io.graced.") and not one.__subclasses__():
                found[one.name] = one
    return found


def test_every_interface_has_its_file():
    assert sorted(interfaces()) == [path.stem for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_methods_errors_and_code_agree(path):
    text = path.read_text()
    cls = interfaces()[path.stem]
    assert re.search(rf"^interface {re.escape(path.stem)}$", text, re.M)
    methods = set(re.findall(r"^method (\w+)", text, re.M))
    assert methods == set(cls.acl)
    assert all(callable(getattr(cls, method)) for method in methods)
    declared = re.findall(r"^error (\w+)", text, re.M)
    assert len(declared) == len(set(declared))
    # What the runtime answers for every interface.
    assert {"PermissionDenied", "InvalidRequest", "Unavailable"} <= set(declared)
