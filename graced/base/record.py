"""Immutable values without the import cost of `dataclasses` (12-15 ms a process: it imports inspect).

A subclass of Record lists its fields as annotations, with defaults where it has them. Type checkers see a
frozen dataclass (`dataclass_transform`). Two Records are equal when their type and all fields are.
"""

from __future__ import annotations

from graced.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform

    from graced.base.json import JsonDict
else:

    def dataclass_transform(**_options):  # noqa: D103  # a stand-in for typing.dataclass_transform, which costs 7 ms
        return lambda cls: cls


_PLAIN = frozenset({str, int, float, bool, type(None)})
_SCALARS = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict, "list": list, "tuple": tuple}


@dataclass_transform(frozen_default=True, eq_default=True)
class Record:
    """Base of every frozen value. Construct by position or keyword; wrong names raise TypeError."""

    _fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    _types: ClassVar[dict[str, str]] = {}
    _needed: ClassVar[int] = 0
    """How many values by position are enough: all of them where a field without a default follows one with."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        types = dict(cls._types)
        defaults = dict(cls._defaults)
        for name, kind in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063  # inspect costs 12 ms
            if name.startswith("_") or str(kind).startswith("ClassVar"):
                continue
            types[name] = str(kind)
            if name in cls.__dict__:
                defaults[name] = cls.__dict__[name]
        cls._types = types
        cls._fields = tuple(types)
        cls._defaults = defaults
        without = len(types) - len(defaults)
        cls._needed = without if defaults.keys().isdisjoint(cls._fields[:without]) else len(types)

    if not TYPE_CHECKING:

        def __init__(self, *args, **kwargs) -> None:
            fields = self._fields
            if not kwargs and self._needed <= len(args) <= len(fields):
                if len(args) < len(fields):
                    self.__dict__.update(self._defaults)
                self.__dict__.update(zip(fields, args, strict=False))
                return
            if len(args) > len(fields):
                raise TypeError(f"{type(self).__name__} takes {len(fields)} values, not {len(args)}")
            values = {**self._defaults, **dict(zip(fields, args, strict=False)), **kwargs}
            if values.keys() != self._types.keys() or any(name in kwargs for name in fields[: len(args)]):
                wrong = sorted(set(values) ^ set(fields)) or sorted(set(kwargs) & set(fields[: len(args)]))
                raise TypeError(f"{type(self).__name__}: missing, unknown or doubled: {', '.join(wrong)}")
            self.__dict__.update(values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._values()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({inside})"

    def _values(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in self._fields)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; TypeError for a name it does not have."""
        return type(self)(**{**{name: self.__dict__[name] for name in self._fields}, **changes})

    def to_json(self) -> JsonDict:
        """All fields as JSON values; nested Records become objects, tuples become lists."""
        values = self.__dict__
        return {
            name: value if type(value := values[name]) in _PLAIN else _to_json(value)  # most are
            for name in self._fields
        }

    @classmethod
    def from_json(cls, obj: JsonDict, path: str = "$") -> Self:
        """Build from an object; FormatError for a missing, unknown or wrongly typed field (nested Records: by hand)."""
        for name in obj:
            if name not in cls._types:
                raise FormatError(f"{path}.{name} is not a field of {cls.__name__}", path=f"{path}.{name}")
        values = {}
        for name, kind in cls._types.items():
            if name in obj:
                values[name] = _from_json(obj[name], kind, f"{path}.{name}")
            elif name not in cls._defaults:
                raise FormatError(f"{path}.{name} is missing", path=f"{path}.{name}")
        return cls(**values)


def _to_json(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, (tuple, list)):
        return [item if type(item) in _PLAIN else _to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _from_json(value: Any, kind: str, path: str) -> Any:
    options = [option.strip() for option in kind.split("|")]
    if value is None and "None" in options:
        return None
    for option in options:
        base = option.split("[", 1)[0]
        if base in {"Any", "JsonDict"}:
            return value
        wanted = _SCALARS.get(base)
        if wanted is tuple and isinstance(value, (list, tuple)):
            return _tuple_from_json(value, option, path)
        if wanted is float and type(value) is int:
            return float(value)
        if wanted is not None and isinstance(value, wanted) and (wanted is bool) == isinstance(value, bool):
            return value
    raise FormatError(f"{path}: {kind} is needed, not {type(value).__name__}", path=path)


def _tuple_from_json(value: list[Any] | tuple[Any, ...], option: str, path: str) -> tuple[Any, ...]:
    inner = option[len("tuple[") : -1].split(",", maxsplit=1)[0].strip() if "[" in option else "Any"
    return tuple(_from_json(item, inner, f"{path}[{index}]") for index, item in enumerate(value))
