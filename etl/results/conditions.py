"""Conditions on joints, such as ``confidence < 0.3 and joint == 'left_knee'``; parsed and walked, never executed.

The grammar is a corner of Python's: names, numbers, quoted text, ``+ - * /``, comparisons, ``in (…)``, ``and or not``
and parentheses. Whatever else Python's parser knows is refused by name.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etl.errors import QueryError

Array = NDArray[Any]

LONGEST: Final = 1000  # characters; what a person types is shorter, and the parser's stack is finite
_FIX: Final = "Write it like: confidence < 0.3 and joint == 'left_knee'"
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: np.isin,
    ast.NotIn: functools.partial(np.isin, invert=True),
}


@dataclass(frozen=True)
class Condition:
    """A parsed condition.

    Parameters
    ----------
    text : str
        What was written.
    names : frozenset of str
        Columns that it looks at.
    """

    text: str
    names: frozenset[str]

    def __call__(self, columns: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Return where the condition holds.

        Parameters
        ----------
        columns : mapping of str to array
            Values by name, of shapes that broadcast. Comparisons with NaN are false, as everywhere.

        Returns
        -------
        bool array
            Of the columns' common shape.

        Raises
        ------
        QueryError
            When text meets numbers.
        """
        try:
            with np.errstate(all="ignore"):
                return np.asarray(_value(_parse(self.text), columns), dtype=bool)
        except (TypeError, ValueError) as error:
            raise QueryError(
                "A condition must compare numbers with numbers and text with text.", f"{self.text!r}: {error}", _FIX
            ) from error


def parse(text: str, known: Collection[str]) -> Condition:
    """Read a condition.

    Parameters
    ----------
    text : str
        As typed.
    known : collection of str
        Names that it may use.

    Raises
    ------
    QueryError
        When it isn't of the grammar, uses another name, or isn't a condition.
    """
    if len(text) > LONGEST:
        raise QueryError(f"A condition must have at most {LONGEST} characters.", f"{len(text)} characters", _FIX)
    tree = _parse(text)
    names = frozenset(_check(tree))
    if unknown := sorted(names - set(known)):
        raise QueryError(
            "A condition must use known names.",
            f"unknown: {', '.join(unknown)}",
            f"Known names: {', '.join(sorted(known))}.",
        )
    if not isinstance(tree, ast.Compare | ast.BoolOp | ast.Name) and not _is_not(tree):
        raise QueryError("A condition must be true or false.", repr(text), _FIX)
    return Condition(text, names)


@functools.lru_cache(maxsize=64)
def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise QueryError(
            "A condition must follow Python's grammar of expressions.", f"{text!r}: {error}", _FIX
        ) from error


def _check(node: ast.expr) -> Iterator[str]:
    """Names below `node`; refuses everything that isn't of the grammar."""
    match node:
        case ast.Name():
            yield node.id
        case ast.Constant(value=bool() | int() | float() | str()):
            pass
        case ast.BoolOp(values=parts):
            for part in parts:
                yield from _check(part)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=part):
            yield from _check(part)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            for part in (left, right):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):  # 'x' * 10**9 would fill the memory
                    raise QueryError("Text can only be compared.", ast.unparse(node), _FIX)
                yield from _check(part)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            yield from _check(left)
            for kind, other in zip(ops, others, strict=True):
                if isinstance(kind, ast.In | ast.NotIn) != isinstance(other, ast.Tuple | ast.List):
                    raise QueryError("`in` must be followed by values in parentheses.", ast.unparse(node), _FIX)
                if not isinstance(other, ast.Tuple | ast.List):
                    yield from _check(other)
                elif any(list(_check(part)) for part in other.elts):
                    raise QueryError("The values of `in` must be numbers or quoted text.", ast.unparse(node), _FIX)
        case _:
            hint = "Write and, or, not, and nothing that Python would have to run."
            raise QueryError(
                "A condition must consist of names, values, comparisons and sums.", ast.unparse(node), hint
            )


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _value(node: ast.expr, columns: Mapping[str, Array]) -> Any:
    """Value of a checked node."""
    match node:
        case ast.Name():
            return columns[node.id]
        case ast.Constant():
            return node.value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return [_value(part, columns) for part in parts]
        case ast.BoolOp(op=op, values=parts):
            combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return functools.reduce(combine, (_value(part, columns) for part in parts))
        case ast.UnaryOp(op=op, operand=part):
            value = _value(part, columns)
            return np.logical_not(value) if isinstance(op, ast.Not) else -value
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_value(left, columns), _value(right, columns))
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(part, columns) for part in (left, *others)]
            pairs = zip(ops, values, values[1:], strict=False)
            return functools.reduce(np.logical_and, (_COMPARISONS[type(kind)](a, b) for kind, a, b in pairs))
    raise AssertionError(ast.dump(node))  # `_check` lets nothing else through
