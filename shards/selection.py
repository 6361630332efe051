"""Choose events by an expression on the columns: `abs(u) < 23.9 and w >= 0`.

The expression is parsed by Python's own parser, checked against a short list of what is allowed, and translated to
Polars; nothing in it is executed. Comparing with a missing value (NaN) is false, so `not` gives the exact complement.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shards.base import ConfigError, CorruptError, InputError, nearest, publish_json
from shards.geometry import FIDUCIAL_U, FIDUCIAL_V

if TYPE_CHECKING:
    import polars as pl

    from shards.dataset import Dataset

NAMED_CUTS: dict[str, str] = {"fiducial": f"abs(u) < {FIDUCIAL_U} and abs(v) < {FIDUCIAL_V} and w >= 0"}
"""Cuts that can be used by name inside an expression."""

VIEW_FORMAT = "xec-view/1"

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": lambda a: a.abs(),
    "sqrt": lambda a: a.sqrt(),
    "exp": lambda a: a.exp(),
    "log": lambda a: a.log(),
    "log10": lambda a: a.log(10.0),
    "sin": lambda a: a.sin(),
    "cos": lambda a: a.cos(),
    "tan": lambda a: a.tan(),
    "floor": lambda a: a.floor(),
}
_ALLOWED = "comparisons, and, or, not, + - * / % **, in [...], isnan() and " + ", ".join(f"{f}()" for f in _FUNCTIONS)


def evaluate(expression: str, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows of `table` pass, bool (rows,).

    Raises:
        ConfigError: the expression is not understood, names an unknown column, or is not a condition.
    """
    condition = _Translator(expression, table.columns).condition()
    mask = table.with_columns(condition.alias("mask"))["mask"]
    return np.asarray(mask.to_numpy(), dtype=np.bool_)


def columns_of(expression: str, known: Iterable[str]) -> list[str]:
    """Which of the `known` columns the expression needs, in their order; raises as `evaluate` does."""
    translator = _Translator(expression, known)
    translator.condition()
    return [name for name in translator.known if name in translator.used]


def select_rows(dataset: Dataset, select: str) -> npt.NDArray[np.int64]:
    """Global rows of `dataset` that pass an expression, or those of a view file (a name ending in ".json")."""
    if select.endswith(".json"):
        return SavedView.read(select).rows(dataset)
    columns = columns_of(select, dataset.table_columns) or ["entry"]
    found = [np.zeros(0, np.int64)]
    for shard, start in enumerate(dataset.starts[:-1].tolist()):
        found.append(start + np.flatnonzero(evaluate(select, dataset.shard_table(shard, columns))))
    return np.concatenate(found).astype(np.int64)


@dataclass(frozen=True)
class SavedView:
    """A selection made of a certain dataset, as kept in a view file: an expression, no copy of anything."""

    expression: str
    fingerprint: str
    """Of the dataset that it was made of."""
    count: int
    """Events that passed."""

    @classmethod
    def of(cls, dataset: Dataset, expression: str) -> SavedView:
        """Evaluate `expression` on `dataset`."""
        return cls(expression, dataset.fingerprint, len(select_rows(dataset, expression)))

    def write(self, path: Path | str) -> None:
        """Publish the view file."""
        publish_json(
            path,
            {
                "format": VIEW_FORMAT,
                "expression": self.expression,
                "fingerprint": self.fingerprint,
                "count": self.count,
            },
        )

    @classmethod
    def read(cls, path: Path | str) -> SavedView:
        """Read a view file.

        Raises:
            InputError: there is none.
            CorruptError: it is not a view file.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError("there is no such view file", file=path) from None
        except ValueError as error:
            raise CorruptError(f"is not a view file: {error}", file=path) from error
        if not isinstance(value, dict) or value.get("format") != VIEW_FORMAT:
            raise CorruptError("is not a view file", file=path, expected=VIEW_FORMAT)
        return cls(str(value["expression"]), str(value["fingerprint"]), int(value["count"]))

    def rows(self, dataset: Dataset) -> npt.NDArray[np.int64]:
        """Global rows of the view.

        Raises:
            InputError: the dataset is not the one that the view was made of.
        """
        if dataset.fingerprint != self.fingerprint:
            raise InputError(
                "the view belongs to another dataset",
                file=dataset.path,
                found=dataset.fingerprint[:12],
                expected=self.fingerprint[:12],
                remedy=f"make it again: xec shards select {dataset.path} {self.expression!r}",
            )
        rows = select_rows(dataset, self.expression)
        if len(rows) != self.count:
            raise CorruptError(
                "the view's count does not hold", file=dataset.path, found=len(rows), expected=self.count
            )
        return rows


class _Translator:
    """One expression on its way to Polars. Numbers are float64, missing ones NaN; conditions are never missing."""

    def __init__(self, expression: str, known: Iterable[str]) -> None:
        self.expression, self.known = expression, list(known)
        self.used: set[str] = set()

    def condition(self) -> pl.Expr:
        """The whole expression as a boolean Polars expression."""
        try:
            tree = ast.parse(self.expression.strip(), mode="eval")
        except (SyntaxError, ValueError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise ConfigError(f"is not an expression: {reason}", item=self._name) from None
        except (RecursionError, MemoryError):
            raise ConfigError("is too deeply nested", item=self._name[:100]) from None
        return self._boolean(tree.body)

    @property
    def _name(self) -> str:
        return f"selection {self.expression!r}"

    def _refused(self, node: ast.AST) -> ConfigError:
        return ConfigError(f"does not allow {ast.unparse(node)!r}", item=self._name, expected=_ALLOWED)

    def _boolean(self, node: ast.expr) -> pl.Expr:
        match node:
            case ast.BoolOp(op=op, values=values):
                return self._joined([self._boolean(v) for v in values], isinstance(op, ast.And))
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as op, right=right):
                return self._joined([self._boolean(left), self._boolean(right)], isinstance(op, ast.BitAnd))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return ~self._boolean(operand)
            case ast.Compare():
                return self._comparison(node)
            case ast.Call(func=ast.Name(id="isnan"), args=[argument], keywords=[]):
                return self._number(argument).is_nan()
            case ast.Name(id=name) if name in NAMED_CUTS and name not in self.known:
                return self._named(name)
            case ast.Name(id=name) if name not in self.known:
                raise self._unknown(name)
        if isinstance(node, ast.Name | ast.Constant | ast.BinOp | ast.UnaryOp | ast.Call):
            self._number(node)  # what is wrong inside comes first
            raise ConfigError(
                f"{ast.unparse(node)!r} is a number, not a condition",
                item=self._name,
                remedy="compare it with something",
            )
        raise self._refused(node)

    def _named(self, name: str) -> pl.Expr:
        inner = _Translator(NAMED_CUTS[name], self.known)
        condition = inner.condition()
        self.used |= inner.used
        return condition

    @staticmethod
    def _joined(parts: list[pl.Expr], conjunction: bool) -> pl.Expr:
        whole = parts[0]
        for part in parts[1:]:
            whole = whole & part if conjunction else whole | part
        return whole

    def _comparison(self, node: ast.Compare) -> pl.Expr:
        parts: list[pl.Expr] = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
                    raise self._refused(node)
                equal = [self._compared(ast.Eq(), left, choice) for choice in right.elts]
                among = self._joined(equal, conjunction=False)
                parts.append(among if isinstance(op, ast.In) else ~among & self._known(left))
            elif type(op) in _COMPARISONS:
                parts.append(self._compared(op, left, right))
            else:
                raise self._refused(node)
            left = right
        return self._joined(parts, conjunction=True)

    def _compared(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> pl.Expr:
        """Polars takes NaN for the largest number; here a comparison with it is false."""
        a, b = self._number(left), self._number(right)
        condition: pl.Expr = _COMPARISONS[type(op)](a, b)
        return condition & self._known(left) & self._known(right)

    def _known(self, node: ast.expr) -> pl.Expr:
        return ~self._number(node).is_nan()

    def _number(self, node: ast.expr) -> pl.Expr:
        import polars as pl

        match node:
            case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
                return pl.lit(float(value), dtype=pl.Float64)
            case ast.Name(id=name):
                if name not in self.known:
                    raise self._unknown(name)
                self.used.add(name)
                return pl.col(name).cast(pl.Float64).fill_null(float("nan"))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                result: pl.Expr = _ARITHMETIC[type(op)](self._number(left), self._number(right))
                return result
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                value_of: pl.Expr = _FUNCTIONS[name](self._number(argument))
                return value_of
            case ast.Call(func=ast.Name(id=name)) if name not in _FUNCTIONS:
                remedy = nearest(name, [*_FUNCTIONS, "isnan"])
                raise ConfigError(f"unknown function {name!r}", item=self._name, remedy=remedy)
        raise self._refused(node)

    def _unknown(self, name: str) -> ConfigError:
        remedy = nearest(name, [*self.known, *NAMED_CUTS])
        return ConfigError(f"unknown column {name!r}", item=self._name, remedy=remedy)
