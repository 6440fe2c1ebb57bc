"""The base of every configuration record, and how YAML becomes one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gdd.errors import UserError


class Record(BaseModel):
    """A frozen record in which unknown keys and silent conversions between types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def canonical(self) -> str:
        """Return the record as JSON with sorted keys: equal records give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of the canonical text's SHA-256: equal for equal records."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


RecordT = TypeVar("RecordT", bound=Record)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a repeated key is an error and `1e-4` is a number, as in YAML 1.2."""


def _mapping_without_repeats(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(problem=f"the key '{key}' stands twice (line {line})")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)
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
        problem = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: {problem}.") from None


def parse(kind: type[RecordT], data: Any, where: str | Path) -> RecordT:
    """Turn plain data into a record of `kind`.

    Raises:
        UserError: naming `where`, the key, what it holds and what is allowed.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected keys and values, found {type(data).__name__}.")
    try:
        # Through JSON, because strict mode takes lists for tuples only from there.
        return kind.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(kind, error)}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}.") from None


def _sentence(kind: type[Record], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields_at(kind, first["loc"][:-1])))
        return f"unknown key '{key}'; allowed here: {allowed}."
    if first["type"] == "missing":
        return f"the key '{key}' is missing."
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if not key:
        return f"{message}."
    return f"'{key}' is {first['input']!r}: {message[0].lower()}{message[1:]}."


def _fields_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the record that stands at `location` inside `kind`."""
    for part in location:
        field = kind.model_fields.get(str(part))
        inner = _record_in(field.annotation) if field else None
        if inner is None:
            continue  # an index of a list or a key of a mapping: the record is the one already found
        kind = inner
    return list(kind.model_fields)


def _record_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _record_in(argument)
        if found is not None:
            return found
    return None
