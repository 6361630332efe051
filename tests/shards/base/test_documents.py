import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PositiveInt

from shards.base import ConfigError, CorruptError, InputError
from shards.base.documents import checked, parse_json, parse_yaml, read_document, read_json, read_yaml, yaml_text


@dataclass(frozen=True)
class Part:
    name: str
    events: int = 0


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    title: str | None = None
    by_name: dict[str, Part] = field(default_factory=dict)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    seed: PositiveInt = 1
    inside: list["Strict"] = []


def test_a_document_is_its_model(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text('{"parts": [{"name": "a", "events": 3}], "title": null}')
    assert read_document(file, Whole, "list of parts") == Whole((Part("a", 3),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a valid list of parts: Expecting value"),
        ("[]", r"is not a valid list of parts \(found a list, expected an object\)"),
        ("5", r"is not a valid list of parts \(found a number"),
        ("null", r"is not a valid list of parts \(found nothing"),
        ("[" * 3000, "is not a valid list of parts: it is nested too deeply"),
        ("{}", "parts: is missing"),
        ('{"parts": "x"}', r"parts: has a wrong value \(found 'x', expected a valid tuple"),
        ('{"parts": [{"name": "a", "events": "many"}]}', r"parts\[0\]\.events: has a wrong value \(found 'many'"),
        ('{"parts": [{"name": 3}]}', r"parts\[0\]\.name: has a wrong value \(found 3, expected a valid string"),
        ('{"parts": [], "parts": []}', "the key 'parts' is given twice"),
        ('{"parts": NaN}', "NaN is not a finite number"),
        ('{"parts": 1e999}', "1e999 is not a finite number"),
        ('{"parts": ' + "9" * 5000 + "}", "is too large a number"),
    ],
)
def test_damaged_documents_are_named_with_the_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "d.json"
    file.write_text(text)
    with pytest.raises(CorruptError, match=rf"d\.json: .*{message}"):
        read_document(file, Whole, "list of parts")


def test_unknown_keys_name_the_nearest_at_their_place() -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml: inside\[0\]\.sed: no such key; did you mean 'seed'"):
        checked(Strict, {"inside": [{"sed": 3}]}, file="f.yaml", error=ConfigError)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("a: 1\nb: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="latin: line 2: is not a valid schema: it is not UTF-8 text"):
        read_yaml(tmp_path / "latin", "schema")
    with pytest.raises(InputError, match="there is no such view file"):
        read_json(tmp_path / "none", "view file")
    with pytest.raises(InputError, match="is not a valid view file: it is a folder"):
        read_json(tmp_path, "view file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a valid view file: it is a device or pipe"):
        read_json(tmp_path / "pipe", "view file")
    with pytest.raises(InputError, match=r"there is no such view file|cannot be read: Not a directory"):
        read_json(tmp_path / "latin" / "x", "view file")
    with pytest.raises(InputError, match=r"cannot be read: File name too long"):
        read_json(tmp_path / ("n" * 300), "view file")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "bom.yaml", "schema") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("0x1f", 31), ("1e-4", 1e-4), (".5", 0.5), ("off", "off"), ("no", "no"), ("true", True),
        ("2024-11-20", "2024-11-20"), ("1:30", "1:30"), ("~", None), ("=", "="), ("1_000", "1_000"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML: expected the node content"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2: is not YAML: the key 'c' is given twice"),
        ("a: .inf", "inf is not a finite number"),
        ("a: -.inf", "inf is not a finite number"),
        ("a: 1e999", "1e999 is not a finite number"),
        ("a: 2024-13-45", "2024-13-45 is not a date"),
        ("a: &x\n  b: *x\n", "a value contains itself"),
        ("a: " + "[" * 5000, "is nested too deeply"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("a: " + "9" * 400, "is too large a number"),
    ],
)
def test_what_is_no_yaml_of_ours(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"f\.yaml: .*{message}"):
        parse_yaml(text, file="f.yaml")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\u2028\u2029\ufeff", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab=01-e.", max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(PLAIN)
def test_yaml_and_json_read_back_what_was_written(value: object) -> None:
    assert parse_yaml(yaml_text(value)) == value
    assert parse_json(json.dumps(value), "value") == value


@given(st.text(max_size=60) | st.text("{}[]:,&*!-\n ab'\"#|>%@`0.", max_size=40))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    for parse in (lambda: parse_yaml(text), lambda: parse_json(text, "value")):
        try:
            parse()
        except (ConfigError, CorruptError) as error:
            assert "\n" not in str(error)  # noqa: PT017
