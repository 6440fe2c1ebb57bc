"""From YAML to records: what is read, what is refused, and that each refusal is one helpful sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdd.config.record import Distinct, Record, parse, read_yaml
from gdd.config.tables import Ablation
from gdd.errors import UserError


class Inner(Record):
    left: int
    right: float = 0.5


class Outer(Record):
    name: str
    inner: Inner
    maybe: Inner | None = None
    by_name: dict[str, Inner] = {}
    several: tuple[Inner, ...] = ()
    either: Literal["none", "all"] | tuple[str, ...] = "none"
    numbers: Annotated[tuple[int, ...], Distinct] = ()


GOOD: dict[str, Any] = {"name": "x", "inner": {"left": 1}}


def refusal(kind: type[Record], data: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse(kind, data, "some.yaml")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith("some.yaml: ")
    assert sentence.endswith(".")
    return sentence.removeprefix("some.yaml: ")


def read(tmp_path: Path, text: str) -> Any:
    (tmp_path / "some.yaml").write_text(text)
    return read_yaml(tmp_path / "some.yaml")


def unreadable(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "some.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "some.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(tmp_path / "some.yaml"))


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("-1.5e+3", -1500.0),
        ("28_800", 28_800),
        ("1.0e-4", 1e-4),
        ("2026-11-23", "2026-11-23"),
        ("[1, two, true]", [1, "two", True]),
    ],
)
def test_scalars(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"key: {text}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_as_written(tmp_path: Path) -> None:
    assert read(tmp_path, "no: 1\n2: 1\nnull: 1\n1e-3: 1\n") == {"no": 1, "2": 1, "null": 1, "1e-3": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rows:\n  GDD: {a: 1}\n  GDD: {b: 1}\n", " line 3: the key 'GDD' stands twice."),
        ("title: one\nrows: {}\ntitle: two\n", " line 3: the key 'title' stands twice."),
        ("rows: {2: {}, '2': {}}\n", " line 1: the key '2' stands twice."),
        ("- a: {b: 1, b: 2}\n", " line 1: the key 'b' stands twice."),
        ("? [1, 2]\n: x\n", " line 1: a key has to be one line of text."),
        ('"two\\nlines": 1\n', " line 1: a key has to be one line of text."),
        ("a: 1\n\tb: 2\n", " line 2: found character '\\t' that cannot start any token."),
        ("a: [1\nb: 2\n", " line 2: expected ',' or ']', but got ':'."),
        ("a: *b\n", " line 1: found undefined alias 'b'."),
        ("a: &b {c: *b}\n", " line 1: found unconstructable recursive node."),
        (
            "a: !!python/object:os.system {}\n",
            " line 1: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'.",
        ),
        ("a: \0\n", ": unacceptable character #x0000: special characters are not allowed."),
    ],
)
def test_broken_yaml_is_one_sentence_with_the_line(tmp_path: Path, text: str, sentence: str) -> None:
    assert unreadable(tmp_path, text.encode()) == sentence


def test_unreadable_files(tmp_path: Path) -> None:
    assert unreadable(tmp_path, b"a: \xff\n").startswith(" cannot be read ('utf-8' codec")
    with pytest.raises(UserError, match=r"none\.yaml does not exist\.$"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"cannot be read \(.*Is a directory"):
        read_yaml(tmp_path)


# Records


def test_what_is_allowed() -> None:
    record = parse(Outer, {**GOOD, "maybe": None, "by_name": {"a": {"left": 2, "right": 1}}}, "some.yaml")
    assert record.by_name["a"].right == 1.0  # a whole number is a number
    assert record.either == "none"
    assert parse(Outer, {**GOOD, "either": ["a*", "b"]}, "some.yaml").either == ("a*", "b")
    with pytest.raises(ValueError, match="frozen"):
        record.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"nmae": 1},
            "unknown key 'nmae'; allowed here: by_name, either, inner, maybe, name, numbers, several.",
        ),
        ({"inner": {"left": 1, "up": 1}}, "unknown key 'inner.up'; allowed here: left, right."),
        ({"maybe": {"left": 1, "up": 1}}, "unknown key 'maybe.up'; allowed here: left, right."),
        ({"by_name": {"a": {"up": 1}}}, "unknown key 'by_name.a.up'; allowed here: left, right."),
        ({"several": [{"left": 1}, {"up": 1}]}, "unknown key 'several.1.up'; allowed here: left, right."),
        # A key of a mapping may be called like a field of the records in it.
        ({"by_name": {"left": {"up": 1}}}, "unknown key 'by_name.left.up'; allowed here: left, right."),
        ({"inner": {}}, "the key 'inner.left' is missing."),
        # Misspelt: not "missing", which sends the reader looking for something that is there.
        ({"inner": {"letf": 1}}, "unknown key 'inner.letf'; allowed here: left, right."),
        ({"by_name": {"a": {}}}, "the key 'by_name.a.left' is missing."),
        ({"inner": {"left": "1"}}, "'inner.left' is '1': input should be a valid integer."),
        ({"inner": {"left": 1.5}}, "'inner.left' is 1.5: input should be a valid integer."),
        ({"inner": {"left": True}}, "'inner.left' is True: input should be a valid integer."),
        ({"inner": {"left": None}}, "'inner.left' is empty: input should be a valid integer."),
        ({"name": 3}, "'name' is 3: input should be a valid string."),
        ({"inner": 3}, "'inner' is 3: input should be keys and values."),
        ({"by_name": [1]}, "'by_name' is [1]: input should be keys and values."),
        ({"several": {"left": 1}}, "'several' is {'left': 1}: input should be a list."),
        ({"either": "som"}, "'either' is 'som': input should be 'none' or 'all', or a list."),
        ({"either": 3}, "'either' is 3: input should be 'none' or 'all', or a list."),
        ({"either": ["a", 3]}, "'either.1' is 3: input should be a valid string."),
        ({"numbers": [1, 2, 1]}, "'numbers' is [1, 2, 1]: 1 stands twice."),
        (
            {"inner": {"left": 1, "right": float("nan")}},
            "'inner.right' is nan: input should be a finite number.",
        ),
        (
            {"inner": {"left": 1, "right": float("inf")}},
            "'inner.right' is inf: input should be a finite number.",
        ),
    ],
)
def test_refusals(change: dict[str, Any], sentence: str) -> None:
    assert refusal(Outer, {**GOOD, **change}) == sentence


@pytest.mark.parametrize(("data", "found"), [(None, "nothing"), ([], "a list"), ("x", "a str")])
def test_what_is_no_mapping(data: Any, found: str) -> None:
    assert refusal(Outer, data) == f"expected keys and values, found {found}."


TEXT = st.text("gd1.-_ \n\0é", max_size=4)  # all of Unicode takes hypothesis a second to list
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
PLACES = [("rows", "GDD"), ("rows", "GDD", "freeze"), ("rows", "GDD", "lr"), ("columns",), ("curve",)]


@settings(max_examples=60, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON, key=st.none() | TEXT)
def test_nothing_ends_in_anything_but_a_sentence(place: tuple[str, ...], value: Any, key: str | None) -> None:
    data: dict[str, Any] = {
        "title": "T",
        "setting": "digits",
        "rows": {"GDD": {"method": "gdd", "freeze": "conv", "lr": {"generator": 0.1}}},
        "columns": ["fid"],
        "curve": {},
    }
    inner = data
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value if key is None else {key: value}
    sentence = "some.yaml: "
    try:
        parse(Ablation, data, "some.yaml")
    except UserError as error:
        sentence = str(error)
    assert sentence.startswith("some.yaml: ")


def test_equal_records_have_equal_text_and_fingerprint() -> None:
    one = parse(Outer, {"name": "x", "inner": {"left": 1, "right": 0.5}}, "a.yaml")
    other = parse(Outer, {"inner": {"left": 1}, "name": "x"}, "b.yaml")
    assert one == other
    assert one.canonical() == other.canonical()
    assert one.fingerprint() == other.fingerprint()
    different = parse(Outer, {"inner": {"left": 2}, "name": "x"}, "b.yaml")
    assert one.fingerprint() != different.fingerprint()
