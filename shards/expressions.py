"""Choose events by an expression on the columns: `abs(u) < 23.9 and w >= 0`, `run in @good_runs.txt`.

The expression is parsed by Python's own parser, checked against a short list of what is allowed, and made into NumPy
operations; nothing in it is executed. Comparing with a missing value (NaN) is false, so `not` gives the exact
complement. Whole numbers are compared exactly, however large.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from shards.base import ConfigError, nearest
from shards.base.documents import read_text
from shards.geometry import FIDUCIAL_U, FIDUCIAL_V

NAMED_CUTS: dict[str, str] = {"fiducial": f"abs(u) < {FIDUCIAL_U} and abs(v) < {FIDUCIAL_V} and w >= 0"}
"""Cuts that can be used by name inside an expression."""

Number = Callable[[pl.DataFrame], Any]
"""The value of a part of an expression: an array (rows,) of float64 or int64, or a constant."""
Mask = Callable[[pl.DataFrame], npt.NDArray[np.bool_]]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    name: getattr(np, name) for name in ("abs", "sqrt", "exp", "log", "log10", "sin", "cos", "tan", "floor")
}
_ALLOWED = (
    "comparisons, and, or, not, + - * / % **, in [...], in @FILE, isnan() and "
    + ", ".join(f"{f}()" for f in _FUNCTIONS)
)  # fmt: skip
_LIST_FILE = re.compile(r"""(\bin\s+)@("[^"]*"|'[^']*'|[^\s()\[\],]+)""")


@dataclass(frozen=True)
class Condition:
    """A parsed expression."""

    columns: tuple[str, ...]
    """Those that it needs, in the order of the known ones."""
    mask: Mask

    def __call__(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Which rows of `table` pass, bool (rows,)."""
        with np.errstate(all="ignore"):
            return np.array(np.broadcast_to(self.mask(table), len(table)), dtype=np.bool_)


def condition(expression: str, known: Iterable[str]) -> Condition:
    """Parse an expression on the `known` columns.

    Raises:
        ConfigError: it is not understood, names an unknown column, or is not a condition.
    """
    return _condition(inlined(expression), tuple(known))


def evaluate(expression: str, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows of `table` pass, bool (rows,); raises as `condition` does."""
    return condition(expression, table.columns)(table)


def columns_of(expression: str, known: Iterable[str]) -> list[str]:
    """Which of the `known` columns the expression needs, in their order; raises as `condition` does."""
    return list(condition(expression, known).columns)


def inlined(expression: str) -> str:
    """The expression with the numbers of list files (`run in @good.txt`) in place of their names.

    A list holds whole numbers, separated by spaces, commas or newlines; `#` starts a comment.

    Raises:
        ConfigError: a list holds something else, or nothing; names the line.
        InputError: a list cannot be read.
    """

    def numbers(match: re.Match[str]) -> str:
        return f"{match[1]}{_read_numbers(Path(match[2].strip(chr(34) + chr(39))))}"

    return _LIST_FILE.sub(numbers, expression)


def _read_numbers(file: Path) -> list[int]:
    found: list[int] = []
    for number, line in enumerate(read_text(file, "list of numbers", ConfigError).splitlines(), 1):
        for word in line.partition("#")[0].replace(",", " ").split():
            if not re.fullmatch(r"[-+]?\d{1,19}", word, re.ASCII) or not -(2**63) <= int(word) < 2**63:
                raise ConfigError("is not a whole number", file=file, item=f"line {number}", found=repr(word[:40]))
            found.append(int(word))
    if not found:
        raise ConfigError("lists no numbers", file=file)
    return found


@lru_cache(maxsize=32)
def _condition(expression: str, known: tuple[str, ...]) -> Condition:
    compiler = _Compiler(expression, known)
    try:
        mask = compiler.whole()
    except (RecursionError, MemoryError):
        raise ConfigError("is nested too deeply", item=compiler.name) from None
    return Condition(tuple(name for name in known if name in compiler.used), mask)


class _Compiler:
    """One expression on its way to functions of a table."""

    def __init__(self, expression: str, known: Sequence[str]) -> None:
        self.expression, self.known = expression, known
        self.used: set[str] = set()

    def whole(self) -> Mask:
        try:
            tree = ast.parse(self.expression.strip(), mode="eval")
        except (SyntaxError, ValueError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise ConfigError(f"is not an expression: {reason}", item=self.name) from None
        return self._boolean(tree.body)

    @property
    def name(self) -> str:
        shown = self.expression if len(self.expression) <= 200 else self.expression[:199] + "…"
        return f"selection {shown!r}"

    def _refused(self, node: ast.AST) -> ConfigError:
        return ConfigError(f"may not contain {_source(node)}", item=self.name, expected=_ALLOWED)

    def _boolean(self, node: ast.expr) -> Mask:
        match node:
            case ast.BoolOp(op=op, values=values):
                return _joined([self._boolean(value) for value in values], isinstance(op, ast.And))
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as op, right=right):
                return _joined([self._boolean(left), self._boolean(right)], isinstance(op, ast.BitAnd))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                inner = self._boolean(operand)
                return lambda table: ~inner(table)
            case ast.Compare():
                return self._chain(node)
            case ast.Call(func=ast.Name(id="isnan"), args=[argument], keywords=[]):
                value = self._number(argument)
                return lambda table: ~_known(value(table))
            case ast.Name(id=name) if name in NAMED_CUTS and name not in self.known:
                return self._named(name)
            case ast.Name() | ast.Attribute() if _dotted(node) is not None and _dotted(node) not in self.known:
                raise self._unknown(str(_dotted(node)))
        if isinstance(node, ast.Name | ast.Attribute | ast.Constant | ast.BinOp | ast.UnaryOp | ast.Call):
            self._number(node)  # what is wrong inside comes first
            raise ConfigError(
                f"{_source(node)} is a number, not a condition", item=self.name, remedy="compare it with something"
            )
        raise self._refused(node)

    def _named(self, name: str) -> Mask:
        inner = _Compiler(NAMED_CUTS[name], self.known)
        mask = inner.whole()
        self.used |= inner.used
        return mask

    def _chain(self, node: ast.Compare) -> Mask:
        parts: list[Mask] = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                parts.append(self._among(left, right, isinstance(op, ast.In), node))
            elif type(op) in _COMPARISONS:
                parts.append(_compared(_COMPARISONS[type(op)], self._number(left), self._number(right)))
            else:
                raise self._refused(node)
            left = right
        return _joined(parts, conjunction=True)

    def _among(self, left: ast.expr, right: ast.expr, wanted: bool, node: ast.AST) -> Mask:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            raise self._refused(node)
        value = self._number(left)
        constants = [_constant(choice) for choice in right.elts]
        if None in constants:
            equal = [_compared(np.equal, value, self._number(choice)) for choice in right.elts]
            found = _joined(equal, conjunction=False)
        else:
            choices = np.array(constants)
            choices = choices if choices.dtype.kind == "i" else choices.astype(np.float64)

            def found(table: pl.DataFrame) -> npt.NDArray[np.bool_]:
                return np.isin(value(table), choices)

        return found if wanted else lambda table: ~found(table) & _known(value(table))

    def _number(self, node: ast.expr) -> Number:
        constant = _constant(node)
        if constant is not None:
            return lambda table: constant
        match node:
            case ast.Name() | ast.Attribute() if (path := _dotted(node)) is not None:
                name: str = path
                if name not in self.known:
                    raise self._unknown(name)
                self.used.add(name)
                return lambda table: _values(table[name])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._number(operand)
                return lambda table: np.negative(inner(table))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                a, b, operation = self._number(left), self._number(right), _ARITHMETIC[type(op)]
                return lambda table: operation(np.float64(a(table)), np.float64(b(table)))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                inner, function = self._number(argument), _FUNCTIONS[name]
                return lambda table: function(np.float64(inner(table)))
            case ast.Call(func=ast.Name(id=name)) if name not in _FUNCTIONS:
                remedy = nearest(name, [*_FUNCTIONS, "isnan"])
                raise ConfigError(f"unknown function {name!r}", item=self.name, remedy=remedy)
        raise self._refused(node)

    def _unknown(self, name: str) -> ConfigError:
        return ConfigError(f"unknown column {name!r}", item=self.name, remedy=nearest(name, [*self.known, *NAMED_CUTS]))


def _joined(parts: Sequence[Mask], conjunction: bool) -> Mask:
    operation = np.logical_and if conjunction else np.logical_or
    return lambda table: reduce(operation, (part(table) for part in parts))


def _compared(operation: Callable[[Any, Any], Any], left: Number, right: Number) -> Mask:
    def compare(table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        a, b = left(table), right(table)
        return np.asarray(operation(a, b) & _known(a) & _known(b))

    return compare


def _known(value: Any) -> Any:
    """Which values are not missing; integers never are."""
    return ~np.isnan(np.asarray(value))


def _values(column: pl.Series) -> npt.NDArray[Any]:
    """A column as int64 where it holds whole numbers only, else as float64 with NaN for missing."""
    if column.dtype.is_integer() and not column.null_count():
        return column.cast(pl.Int64).to_numpy()
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _constant(node: ast.expr) -> int | float | None:
    """The number that a node writes out; None where it is something else."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if not isinstance(node, ast.Constant) or not isinstance(node.value, int | float) or isinstance(node.value, bool):
        return None
    value = sign * node.value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(max(-(2**1000), min(value, 2**1000)))
    return value


def _dotted(node: ast.expr) -> str | None:
    """`leaf.x` as a name: columns carried from nested branches have dots in theirs."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return None if head is None else f"{head}.{node.attr}"
    return None


def _source(node: ast.AST) -> str:
    text = ast.unparse(node)
    return repr(text if len(text) <= 80 else text[:79] + "…")
