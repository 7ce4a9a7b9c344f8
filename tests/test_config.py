from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from codesign.config import StrictModel, load, read_toml, validate
from codesign.errors import InputError


class Inner(StrictModel):
    rate: Annotated[float, Field(gt=0)] = 1.0


class Outer(StrictModel):
    name: str
    sizes: tuple[int, ...] = ()
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None


def test_toml_becomes_an_immutable_value(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "x"\nsizes = [1, 2]\n[inner]\nrate = 2\n[[many]]\nrate = 3.5\n')
    value = load(Outer, path)
    assert value == Outer(name="x", sizes=(1, 2), inner=Inner(rate=2.0), many=(Inner(rate=3.5),))
    with pytest.raises(ValueError, match="frozen"):
        value.name = "y"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "siezs": (1,)}, "f: siezs: unknown key; did you mean 'sizes'?"),
        ({"name": "x", "inner": {"rte": 1.0}}, "f: inner.rte: unknown key; did you mean 'rate'?"),
        ({"name": "x", "many": [{}, {"rte": 1.0}]}, "f: many.1.rte: unknown key; did you mean 'rate'?"),
        ({"name": "x", "maybe": {"rte": 1.0}}, "f: maybe.rte: unknown key; did you mean 'rate'?"),
        ({"name": "x", "zzz": 1}, "f: zzz: unknown key; known: inner, many, maybe, name, sizes"),
        ({}, "f: name: missing; add it"),
        ({"name": 3}, "f: name: Input should be a valid string, got 3; correct the value"),
        ({"name": "x", "sizes": ["1"]}, "f: sizes.0: Input should be a valid integer, got '1'; correct the value"),
        ({"name": "x", "inner": {"rate": -1.0}}, "f: inner.rate: Input should be greater than 0, got -1.0; correct"),
        ({"name": "x", "inner": {"rate": True}}, "f: inner.rate: Input should be a valid number, got True; correct"),
    ],
)
def test_each_mistake_names_file_key_and_cure(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refused:
        validate(Outer, values, "f")
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"name": "x", "inner": tuple(range(999))}, "got an array of 999 values; correct"),
        ({"name": {str(key): key for key in range(99)}}, "got a table of 99 keys; correct"),
        ({"name": "x", "sizes": "y" * 999}, "got 'yyyy"),
    ],
)
def test_long_values_are_not_repeated(values: dict[str, object], shown: str) -> None:
    with pytest.raises(InputError) as refused:
        validate(Outer, values, "f")
    assert shown in str(refused.value)
    assert len(str(refused.value)) < 400


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InputError) as refused:
        validate(Outer, {"name": 3, "inner": {"rate": 0.0}, "other": 1}, "f")
    assert len(str(refused.value).splitlines()) == 3


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml: no such file; check the path"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="is a folder; name a TOML file"):
        read_toml(tmp_path)
    for number, data in enumerate((b"a = ", b"a = '\xff'", b"a = 1\na = 2")):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(data)
        with pytest.raises(InputError, match="is not valid TOML"):
            read_toml(path)
