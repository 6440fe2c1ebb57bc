"""From YAML to records: what is read, what is refused, and that each refusal is one helpful sentence."""

from __future__ import annotations

import functools
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


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("key: 1e-4", {"key": 1e-4}),
        ("key: 2E5", {"key": 2e5}),
        ("key: -1.5e+3", {"key": -1500.0}),
        ("key: 28_800", {"key": 28_800}),
        ("key: [1, two, true]", {"key": [1, "two", True]}),
        ("a: &a [x]\nb: [*a, *a]", {"a": ["x"], "b": [["x"], ["x"]]}),
        ("[" * 50 + "]" * 50, functools.reduce(lambda value, _: [value], range(49), [])),
        ("no: 1\n2: 1\nnull: 1\n1e-3: 1\n", {"no": 1, "2": 1, "null": 1, "1e-3": 1}),
    ],
)
def test_yaml(tmp_path: Path, text: str, value: Any) -> None:
    (tmp_path / "some.yaml").write_text(text)
    assert repr(read_yaml(tmp_path / "some.yaml")) == repr(value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"rows:\n  GDD: {a: 1}\n  GDD: {b: 1}\n", " line 3: the key 'GDD' stands twice."),
        (b"rows: {2: {}, '2': {}}\n", " line 1: the key '2' stands twice."),
        (b"- a: {b: 1, b: 2}\n", " line 1: the key 'b' stands twice."),
        (b"? [1, 2]\n: x\n", " line 1: a key has to be text."),
        (b"a: 1\n\tb: 2\n", " line 2: found character '\\t' that cannot start any token."),
        (b"a: *b\n", " line 1: found undefined alias 'b'."),
        (b"a: &b {c: *b}\n", " line 1: an alias (*) stands inside of an anchor (&)."),
        (
            b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
            " line 2: an alias (*) stands inside of an anchor (&).",
        ),
        (b"a: &a 1\nb: [" + b"*a, " * 101 + b"]\n", " line 2: it has more than 100 aliases (*)."),
        (b"[" * 1000, " line 1: it is nested more than 50 deep."),
        (b"a: !!python/object:os.system {}\n", "line 1: could not determine a constructor for the tag"),
        (b"a: \0\n", " cannot be read (unacceptable character #x0000"),
        (b"a: \xff\n", " cannot be read ('utf-8' codec"),
        (None, " does not exist."),
    ],
)
def test_broken_yaml_is_one_sentence_with_the_line(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "some.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


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
        ({"nmae": 1}, "unknown key 'nmae'; allowed here: by_name, either, inner, maybe, name, numbers, several"),
        ({"maybe": {"left": 1, "up": 1}}, "unknown key 'maybe.up'; allowed here: left, right"),
        ({"several": [{"left": 1}, {"up": 1}]}, "unknown key 'several.1.up'; allowed here: left, right"),
        # A key of a mapping may be called like a field of the records in it.
        ({"by_name": {"left": {"up": 1}}}, "unknown key 'by_name.left.up'; allowed here: left, right"),
        ({"inner": {}}, "the key 'inner.left' is missing"),
        # Misspelt: not "missing", which sends the reader looking for something that is there.
        ({"inner": {"letf": 1}}, "unknown key 'inner.letf'; allowed here: left, right"),
        ({"by_name": {"a": {}}}, "the key 'by_name.a.left' is missing"),
        ({"inner": {"left": "1"}}, "'inner.left' is '1': input should be a valid integer"),
        ({"inner": {"left": 1.5}}, "'inner.left' is 1.5: input should be a valid integer"),
        ({"inner": {"left": True}}, "'inner.left' is True: input should be a valid integer"),
        ({"inner": {"left": None}}, "'inner.left' is empty: input should be a valid integer"),
        ({"inner": {"left": 1, "right": float("nan")}}, "'inner.right' is nan: input should be a finite number"),
        ({"name": 3}, "'name' is 3: input should be a valid string"),
        ({"inner": 3}, "'inner' is 3: input should be keys and values"),
        ({"by_name": [1]}, "'by_name' is [1]: input should be keys and values"),
        ({"several": {"left": 1}}, "'several' is {'left': 1}: input should be a list"),
        ({"either": "som"}, "'either' is 'som': input should be 'none' or 'all', or a list"),
        ({"either": ["a", 3]}, "'either.1' is 3: input should be a valid string"),
        ({"numbers": [1, 2, 1]}, "'numbers' is [1, 2, 1]: 1 stands twice"),
    ],
)  # fmt: skip
def test_refusals(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Outer, {**GOOD, **change}, "some.yaml")
    assert str(caught.value) == f"some.yaml: {sentence}."


@pytest.mark.parametrize(("data", "found"), [(None, "nothing"), ([], "a list"), ("x", "a str")])
def test_what_is_no_mapping(data: Any, found: str) -> None:
    with pytest.raises(UserError, match=f"^some.yaml: expected keys and values, found {found}.$"):
        parse(Outer, data, "some.yaml")


def test_deeply_nested_yaml(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("[" * 10_000)
    with pytest.raises(UserError, match=r"some\.yaml cannot be read|some\.yaml line"):
        read_yaml(path)


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
    row = {"method": "gdd", "freeze": "conv", "lr": {"generator": 0.1}}
    data: dict[str, Any] = {"title": "T", "setting": "digits", "rows": {"GDD": row}, "columns": ["fid"]}
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


def test_equal_records_have_equal_fingerprints() -> None:
    one = parse(Outer, {"name": "x", "inner": {"left": 1, "right": 0.5}}, "a.yaml")
    other = parse(Outer, {"inner": {"left": 1}, "name": "x"}, "b.yaml")
    different = parse(Outer, {"inner": {"left": 2}, "name": "x"}, "b.yaml")
    assert one == other
    assert one.fingerprint() == other.fingerprint() != different.fingerprint()
