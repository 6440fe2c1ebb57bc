"""The base of every configuration record, and how YAML becomes one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gdd.errors import UserError, shown

Count = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class UnknownKey(ValueError):
    """A key that a record does not have; the message is what it has."""

    def __init__(self, key: str, allowed: list[str]) -> None:
        super().__init__(", ".join(allowed))
        self.key = key


class Record(BaseModel):
    """A frozen record in which unknown keys and silent conversions between types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _knows_its_keys(cls, data: Any) -> Any:
        # Before anything else: a misspelt key is why another one is missing.
        allowed = sorted(field.alias or name for name, field in cls.model_fields.items())
        for key in data if isinstance(data, dict) else ():
            if key not in allowed:
                raise UnknownKey(key, allowed)
        return data

    def changes(self, key: str) -> bool:
        """Whether a key has another value than its default."""
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    def require_one_of(self, *keys: str) -> None:
        """Refuse a record that sets none, or more than one, of some keys that are empty by default."""
        if sum(self.changes(key) for key in keys) != 1:
            raise ValueError(f"give exactly one of {', '.join(map(repr, keys))}")

    def canonical(self) -> str:
        """Return the record as JSON with sorted keys: equal records give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of the canonical text's SHA-256: equal for equal records."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


RecordT = TypeVar("RecordT", bound=Record)


def _without_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} stands twice")
    return values


Distinct = AfterValidator(_without_repeats)  # annotates a list in which no value may stand twice


DEEPEST, MOST_ALIASES = 50, 100  # without limits, a small file could stand for endless data


class _Loader(yaml.SafeLoader):
    """YAML with keys that are text and stand once; as in YAML 1.2, `1e-4` is a number."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.depth = self.aliases = self.anchored = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, problem = self.peek_event(), ""
        alias = isinstance(event, yaml.AliasEvent)
        anchors = not alias and event.anchor is not None
        self.depth += 1
        self.aliases += alias
        self.anchored += anchors
        if self.depth > DEEPEST:
            problem = f"it is nested more than {DEEPEST} deep"
        elif alias and self.anchored:
            problem = "an alias (*) stands inside of an anchor (&)"
        elif self.aliases > MOST_ALIASES:
            problem = f"it has more than {MOST_ALIASES} aliases (*)"
        if problem:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        self.anchored -= anchors
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: ARG002
        mapping: dict[Hashable, Any] = {}
        for key, value in node.value:
            # Taken as written: `no` and `2` can be names, and `2` is the same name as "2".
            if not isinstance(key.value, str):
                raise yaml.constructor.ConstructorError(None, None, "a key has to be text", key.start_mark)
            if key.value in mapping:
                problem = f"the key '{key.value}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            mapping[key.value] = self.construct_object(value, deep=True)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> Any:
    """Read one YAML file.

    Raises:
        UserError: the file is missing, is no YAML, or repeats a key.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: {error.problem}.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from None


def parse(
    kind: type[RecordT], data: Any, where: str | Path, known: Mapping[str, Mapping[str, Any]] | None = None
) -> RecordT:
    """Turn plain data into a record of `kind`; names in it have to be among those that are `known`, by kind.

    Raises:
        UserError: naming `where`, the key, what it holds and what is allowed.
    """
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise UserError(f"{where}: expected keys and values, found {found}.")
    try:
        return kind.model_validate(_with_tuples(data), context=known)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(data, error)}.") from None


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `change` laid over it, mapping by mapping."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = merged(old, value)  # noqa: PLW2901
        result[key] = value
    return result


def _with_tuples(value: Any) -> Any:
    """Return plain data with tuples for lists, as strict records want them."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


# pydantic speaks of Python; whoever reads this wrote YAML.
_IN_YAML = {
    "tuple_type": "input should be a list",
    "model_type": "input should be keys and values",
    "dict_type": "input should be keys and values",
    "too_short": "it needs at least one entry",
}


def _sentence(data: Any, error: ValidationError) -> str:
    located = [(_location(data, problem), problem) for problem in error.errors()]
    # A value that may be of several types has a problem with each; the one deepest inside fits it best.
    place = max((place for place, _ in located), key=len)
    first, *others = [problem for at, problem in located if at == place]
    key, value = ".".join(map(str, place)), first["input"]
    key = key if key.isprintable() else repr(key)[1:-1]
    if unknown := _unknown_key(first):
        return f"unknown key '{key}'; allowed here: {unknown}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    messages = [_message(first), *(_message(other).removeprefix("input should be ") for other in others)]
    message = ", or ".join(dict.fromkeys(messages))
    if not place:
        return message
    if isinstance(value, dict) and first["type"] == "value_error":
        return f"'{key}': {message}"  # about several keys of the record: a long quotation
    plain = list(value) if isinstance(value, tuple) else value
    return f"'{key}' is {'empty' if value is None else shown(repr(plain))}: {message}"


def _message(problem: Any) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    text: str = problem["msg"]
    return _IN_YAML.get(problem["type"], f"{text[0].lower()}{text[1:]}")


def _location(data: Any, problem: Any) -> tuple[int | str, ...]:
    """Return the keys and indices that lead to a problem, without pydantic's names of types among them."""
    location = []
    for part in problem["loc"]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if problem["type"] != "missing":
                continue
        location.append(part)
    unknown = _unknown_key(problem)
    return (*location, unknown.key) if unknown else tuple(location)


def _unknown_key(problem: Any) -> UnknownKey | None:
    error = problem.get("ctx", {}).get("error")
    return error if isinstance(error, UnknownKey) else None
