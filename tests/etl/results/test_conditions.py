from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import QueryError
from etl.results.conditions import parse

KNOWN = ("x", "y", "confidence", "depth", "joint", "status", "frame")
COLUMNS = {
    "x": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]]),
    "confidence": np.array([[0.1, 0.5, 0.9], [0.3, 0.2, np.nan]]),
    "joint": np.array([["head", "hip", "knee"]]),
    "frame": np.array([[0], [7]]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("confidence < 0.3", [[1, 0, 0], [0, 1, 0]]),
        ("0.2 <= confidence <= 0.5", [[0, 1, 0], [1, 1, 0]]),
        ("not confidence < 0.3", [[0, 1, 1], [1, 0, 1]]),
        ("confidence < 0.3 or joint == 'knee'", [[1, 0, 1], [0, 1, 1]]),
        ("joint in ('head', 'hip') and x >= 2", [[0, 1, 0], [1, 1, 0]]),
        ("joint not in ('head', 'hip')", [[0, 0, 1]]),
        ("(x - 1) * 2 / 2 + confidence > 3", [[0, 0, 0], [1, 1, 0]]),
        ("x > -frame + 6", [[0, 0, 0], [1, 1, 0]]),
        ("frame == 7", [[0], [1]]),
        ("x == 'head'", [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_conditions(text: str, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(parse(text, KNOWN)(COLUMNS), np.array(expected, bool))


def test_names_are_those_that_it_looks_at() -> None:
    assert parse("confidence < 0.3 and joint == 'x'", KNOWN).names == {"confidence", "joint"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__import__('os').system('true')", "names, values"),
        ("x.__class__ == 1", "names, values"),
        ("(lambda: 1)() == 1", "names, values"),
        ("[x for x in (1,)] == 1", "names, values"),
        ("x ** 99999 > 1", "names, values"),
        ("x[0] > 1", "names, values"),
        ("(x := 3) > 1", "names, values"),
        ("f'{x}' == 'a'", "names, values"),
        ("x > 1 if y else x", "names, values"),
        ("(x > 1) & (y > 1)", "names, values"),
        ("x == None", "names, values"),
        ("'a' * 999999999 == joint", "can only be compared"),
        ("x in (y, 1)", "numbers or quoted text"),
        ("x in joint", "parentheses"),
        ("x == (1, 2)", "parentheses"),
        ("confidense < 1", "confidense"),
        ("confidence", None),
        ("confidence + 1", "true or false"),
        ("", "must follow Python"),
        ("x <", "must follow Python"),
        ("x > 1; y > 1", "must follow Python"),
        ("(" * 400 + "x" + ")" * 400 + " > 1", "must follow Python"),
        ("x > 1 or " * 200 + "x > 1", "characters"),
        ("x\0 > 1", "must follow Python"),
    ],
)
def test_what_is_not_a_condition(text: str, words: str | None) -> None:
    if words is None:  # a column of truth values is one, by itself
        assert parse(text, KNOWN).names == {"confidence"}
        return
    with pytest.raises(QueryError, match=words):
        parse(text, KNOWN)


def test_text_against_numbers() -> None:
    with pytest.raises(QueryError, match="numbers with numbers"):
        parse("x < 'a'", KNOWN)(COLUMNS)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="xy01.<>=+-*/()'\"andornotin _,[]{}:@\\", max_size=40))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    columns = {name: np.arange(6.0).reshape(2, 3) for name in KNOWN}
    try:
        found = parse(text, KNOWN)(columns)
    except QueryError:
        return
    assert found.dtype == bool
