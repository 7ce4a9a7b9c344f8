from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.ir.program import Program
from codesign.pass_manager.base import AnalysisPass, Pass, PassContext
from codesign.pass_manager.options import Item, option_text, option_value
from codesign.pass_manager.pipeline import parse_pipeline, pipeline_text
from codesign.pass_manager.registry import Loader

Rule = Literal["min-max", "1", 1, True]


@dataclass(frozen=True)
class EveryOptionPass(AnalysisPass):
    name: ClassVar[str] = "every-option"
    flag: bool = False
    count: int = 3
    share_of_all: float = 0.5
    label: str = "a"
    rule: Rule = "min-max"
    bits: tuple[int, ...] = (2, 4)
    pair: tuple[str, float] = ("x", 1.0)
    limit: int | None = None
    either: float | str | None = "text"
    names: tuple[str, ...] = field(default_factory=tuple)

    def run(self, program: Program, context: PassContext) -> None:
        pass


@dataclass(frozen=True)
class NeedyPass(AnalysisPass):
    name: ClassVar[str] = "needy"
    samples: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}, allowed is 1 or more")

    def run(self, program: Program, context: PassContext) -> None:
        pass


def _every() -> type[Pass]:
    return EveryOptionPass


def _needy() -> type[Pass]:
    return NeedyPass


KNOWN: dict[str, Loader] = {"every-option": _every, "needy": _needy}

numbers = st.floats(allow_nan=False)
passes = st.one_of(
    st.builds(NeedyPass, samples=st.integers(min_value=1)),
    st.builds(
        EveryOptionPass,
        flag=st.booleans(),
        count=st.integers(),
        share_of_all=numbers,
        label=st.text(),
        rule=st.sampled_from(["min-max", "1", 1]),
        bits=st.lists(st.integers()).map(tuple),
        pair=st.tuples(st.text(), numbers),
        limit=st.none() | st.integers(),
        either=st.none() | numbers | st.text() | st.sampled_from(["none", "nan", "inf", "1e5", "true", "()"]),
        names=st.lists(st.text()).map(tuple),
    ),
)


@given(st.lists(passes, min_size=1, max_size=4))
def test_text_reads_back_as_equal_passes(pipeline: list[Pass]) -> None:
    assert parse_pipeline(pipeline_text(pipeline), KNOWN) == tuple(pipeline)


@given(passes)
def test_types_survive_too(pass_: Pass) -> None:
    (read,) = parse_pipeline(str(pass_), KNOWN)
    assert repr(read) == repr(pass_)


@given(st.text(alphabet='ne-dy{}=,+"\\ 1é\n'))
def test_any_text_is_read_or_refused_with_a_caret(text: str) -> None:
    try:
        parse_pipeline(text, KNOWN)
    except InputError as error:
        assert str(error).splitlines()[-1].strip() == "^"


def test_only_options_off_their_default_are_printed() -> None:
    assert str(EveryOptionPass()) == "every-option"
    printed = str(EveryOptionPass(flag=True, share_of_all=1e20, bits=(8,), limit=4, label="runs/a.json"))
    assert printed == "every-option{flag=true,share-of-all=1e20,label=runs/a.json,bits=8,limit=4}"
    assert str(NeedyPass(7)) == "needy{samples=7}"


def test_spaces_and_line_breaks_are_allowed_between_tokens() -> None:
    text = ' every-option { bits = 2 + 3 , label = "a b" } ,\n needy{samples=4}, every-option{}\n'
    expected = (EveryOptionPass(bits=(2, 3), label="a b"), NeedyPass(4), EveryOptionPass())
    assert parse_pipeline(text, KNOWN) == expected


def test_exponents_with_a_plus_sign_are_numbers() -> None:
    assert parse_pipeline("every-option{share-of-all=1e+20}", KNOWN) == (EveryOptionPass(share_of_all=1e20),)


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("", "expected the name of a pass; known: every-option, needy", 0),
        ("every-option,", "expected the name of a pass", 13),
        ("every-option,{", "expected the name of a pass", 13),
        ("evry-option", "unknown pass 'evry-option'; did you mean 'every-option'?", 0),
        ("needy{samples=1},needdy", "did you mean 'needy'?", 17),
        ("needy{sample=1}", "no option 'sample'; did you mean 'samples'?", 6),
        ("needy{samples}", "expected '=' after option 'samples'", 13),
        ("needy{samples=}", "expected a value for option 'samples'", 14),
        ("needy{samples=1", "expected ',' or '}'", 15),
        ("needy{samples=1,samples=2}", "given twice", 16),
        ("needy{samples=1.5}", "allowed is a whole number, got '1.5'", 14),
        ('needy{samples="1"}', "allowed is a whole number", 14),
        ("needy{samples=0}", "samples is 0, allowed is 1 or more", 0),
        ("needy", "needs option 'samples'", 0),
        ("every-option flag=true", "expected ',' and another pass", 13),
        ("every-option{flag=yes}", "allowed is true or false, got 'yes'", 18),
        ("every-option{share-of-all=nan}", "allowed is a number, got 'nan'", 26),
        ("every-option{rule=min-mex}", "unknown choice 'min-mex'; did you mean 'min-max'?", 18),
        ("every-option{bits=2+x}", "allowed is a whole number, got 'x'", 18),
        ("every-option{pair=a}", "takes 2 values joined by '+', got 1", 18),
        ("every-option{limit=many}", "allowed is none, got 'many' or allowed is a whole number, got 'many'", 19),
        ('every-option{label="a}', "no closing quote", 19),
        ('every-option{label="\\x"}', "the string is malformed", 19),
        ('every-option{label="a"+"b"}', "takes one value", 19),
    ],
)
def test_errors_point_at_their_place(text: str, message: str, column: int) -> None:
    with pytest.raises(InputError) as caught:
        parse_pipeline(text, KNOWN)
    lines = str(caught.value).splitlines()
    assert message in lines[0]
    assert lines[-1] == " " * (column + 2) + "^"


def test_a_value_without_text_form_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be the value of an option"):
        option_text({"a": 1})
    with pytest.raises(TypeError, match="has no text form"):
        option_value([Item("a", quoted=False)], dict)
