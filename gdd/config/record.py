"""The base of every configuration record, and how YAML becomes one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
)

from gdd.errors import UserError


class Record(BaseModel):
    """A frozen record in which unknown keys and silent conversions between types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

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


class _StrictLoader(yaml.SafeLoader):
    """YAML with keys that are text and stand once; as in YAML 1.2 `1e-4` is a number, and a date is text."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        # Taken as written: `no` and `2` can be names, and `2` is the same name as "2".
        key = key_node.value
        problem = None
        if not isinstance(key, str) or "\n" in key:
            problem = "a key has to be one line of text"
        elif key in mapping:
            problem = f"the key '{key}' stands twice"
        if problem:
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
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
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: {problem}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from None


def parse(kind: type[RecordT], data: Any, where: str | Path) -> RecordT:
    """Turn plain data into a record of `kind`.

    Raises:
        UserError: naming `where`, the key, what it holds and what is allowed.
    """
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise UserError(f"{where}: expected keys and values, found {found}.")
    try:
        # Through JSON, because strict mode takes lists for tuples only from there.
        return kind.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(kind, data, error)}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}.") from None


# pydantic speaks of JSON; whoever reads this wrote YAML.
_IN_YAML = {
    "tuple_type": "input should be a list",
    "model_type": "input should be keys and values",
    "dict_type": "input should be keys and values",
    "too_short": "it needs at least one entry",
}


def _sentence(kind: type[Record], data: Any, error: ValidationError) -> str:
    # An unknown key comes first: where it is misspelt, it is why another one is missing.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    located = [(_location(data, problem), problem) for problem in problems]
    # A value that may be of several types has a problem with each; the one deepest inside fits it best.
    start = located[0][0]
    place = max((place for place, _ in located if place[: len(start)] == start), key=len)
    first, *others = [problem for at, problem in located if at == place]
    key = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; allowed here: {', '.join(sorted(_fields_at(kind, place[:-1])))}."
    if first["type"] == "missing":
        return f"the key '{key}' is missing."
    message = _message(first)
    for other in others:
        message += f", or {_message(other).removeprefix('input should be ')}"
    if not key:
        return f"{message}."
    value = first["input"]
    if isinstance(value, dict) and first["type"] == "value_error":
        return f"'{key}': {message}."  # about several keys of the record, which would be a long quotation
    return f"'{key}' is {'empty' if value is None else repr(value)}: {message}."


def _message(problem: Any) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"]).rstrip(".")
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
    return tuple(location)


def _fields_at(annotation: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the record that stands at `location` inside a value of type `annotation`."""
    for part in location:
        annotation = _type_at(annotation, part)
    record = _record_in(annotation)
    return [field.alias or name for name, field in record.model_fields.items()] if record else []


def _type_at(annotation: Any, part: int | str) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields[str(part)].annotation
    inner = get_args(annotation)
    if get_origin(annotation) in (dict, tuple):
        return inner[-1] if get_origin(annotation) is dict else inner[0]
    # A union: the member that has such a part.
    return next((found for member in inner if (found := _type_at(member, part)) is not None), None)


def _record_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for member in get_args(annotation) if (found := _record_in(member))), None)
