"""Arithmetic that a model wrote, evaluated exactly and without `eval`.

Text is checked for its alphabet, length, nesting and literals before it is parsed, and the parsed tree is walked
over a table of four operations, so that whatever a model writes either has a value or is refused at once.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

Value = Fraction | float

MAX_LENGTH = 200
"""Characters of an expression."""
MAX_NESTING = 30
"""Parentheses inside one another."""
MAX_DIGITS = 20
"""Digits of one number."""
MAX_NODES = 100
"""Numbers and operations of an expression."""
MAX_POWER_BITS = 4096
"""Size of a power, where powers are allowed."""
TOLERANCE = Fraction(1, 100_000)
"""An expression reaches a target within this."""

_ALPHABET = frozenset("0123456789+-*/(). \t\n\r\f")
_NUMBER = re.compile(r"([+-]?)(?:\\?\$)?([0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


class ArithmeticRefused(ValueError):  # noqa: N818
    """An expression without a value: not arithmetic, too large, or a division by zero."""


def _power(base: Value, exponent: Value) -> Value:
    """Python's ``**`` within `MAX_POWER_BITS`; a float for a broken exponent."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
        if bits > MAX_POWER_BITS:
            raise ArithmeticRefused("a power that is too large")
        return Fraction(base**exponent.numerator)
    power: float | complex = float(base) ** float(exponent)
    if isinstance(power, complex):
        raise ArithmeticRefused("a power that is not a real number")
    return power


_Operation = Callable[[Value, Value], Value]
_OPERATIONS: Mapping[type[ast.operator], _Operation] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_RELEASED_OPERATIONS: Mapping[type[ast.operator], _Operation] = {
    **_OPERATIONS,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Pow: _power,
}


def evaluate(expression: str, *, as_released: bool = False) -> Value:
    """The value of an expression in ``+ - * /``, signs, parentheses, whole numbers and decimals.

    Args:
        expression: text of any origin.
        as_released: also take ``//`` and ``**``, which the published evaluators let through because they called
            `eval` on anything made of digits, dots, parentheses and operators. Powers are bounded all the same.

    Returns:
        The exact fraction; a float only after a power with a broken exponent.

    Raises:
        ArithmeticRefused: anything else than such an expression, one beyond the limits of this module, or a
            division by zero.
    """
    operations = _RELEASED_OPERATIONS if as_released else _OPERATIONS
    try:
        value = _walk(_parse(expression), expression.strip(), operations)
    except (ArithmeticError, ValueError, RecursionError) as error:
        raise ArithmeticRefused(str(error)) from error
    if isinstance(value, float) and value - value != 0:
        raise ArithmeticRefused("not a finite number")
    return value


def numbers_used(expression: str) -> list[Fraction]:
    """The numbers written in an expression that `evaluate` can read, in order.

    Raises:
        ArithmeticRefused: as in `evaluate`, a division by zero apart.
    """
    tree = _parse(expression)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and type(node.op) not in _OPERATIONS:
            raise ArithmeticRefused(f"the operation {type(node.op).__name__}")
    literals = sorted(
        (node for node in ast.walk(tree) if isinstance(node, ast.Constant)), key=lambda n: (n.lineno, n.col_offset)
    )
    return [_literal(node, expression.strip()) for node in literals]


def uses_numbers(expression: str, numbers: Iterable[int]) -> bool:
    """Whether an expression can be read and its numbers are ``numbers`` in some order."""
    try:
        return sorted(numbers_used(expression)) == sorted(numbers)
    except ArithmeticRefused:
        return False


def reaches(expression: str, target: Fraction, *, as_released: bool = False) -> bool:
    """Whether an expression has a value (see `evaluate`) within 1e-5 of ``target``."""
    try:
        return abs(Fraction(evaluate(expression, as_released=as_released)) - target) < TOLERANCE
    except ArithmeticRefused:
        return False


def read_number(text: str) -> Fraction | None:
    """The number that a text is as a whole, or None.

    A sign, a dollar sign, commas between groups of three digits and decimals are accepted, words are not.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or len(match[0]) > MAX_LENGTH:
        return None
    return Fraction(match[1] + match[2].replace(",", ""))


def _parse(expression: str) -> ast.expr:
    """The tree of an expression whose every node is a number, a sign or a binary operation."""
    text = expression.strip()
    if not text or len(text) > MAX_LENGTH:
        raise ArithmeticRefused(f"give 1 to {MAX_LENGTH} characters")
    if not _ALPHABET.issuperset(text):
        raise ArithmeticRefused("a character that arithmetic does not use")
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING or max(map(len, re.findall("[0-9.]+", text)), default=0) > MAX_DIGITS + 1:
        raise ArithmeticRefused("too deep, or a number that is too long")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArithmeticRefused("not an expression") from error
    nodes = [node for node in ast.walk(tree) if not isinstance(node, (ast.operator, ast.unaryop))]
    if len(nodes) > MAX_NODES:
        raise ArithmeticRefused(f"more than {MAX_NODES} numbers and operations")
    for node in nodes:
        signed = isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub))
        number = isinstance(node, ast.Constant) and type(node.value) in {int, float}
        if not (signed or number or isinstance(node, ast.BinOp)):
            raise ArithmeticRefused(type(node).__name__)
    return tree


def _walk(node: ast.expr, source: str, operations: Mapping[type[ast.operator], _Operation]) -> Value:
    if isinstance(node, ast.Constant):
        return _literal(node, source)
    if isinstance(node, ast.UnaryOp):
        operand = _walk(node.operand, source, operations)
        return -operand if isinstance(node.op, ast.USub) else operand
    assert isinstance(node, ast.BinOp)
    operation = operations.get(type(node.op))
    if operation is None:
        raise ArithmeticRefused(f"the operation {type(node.op).__name__}")
    return operation(_walk(node.left, source, operations), _walk(node.right, source, operations))


def _literal(node: ast.Constant, source: str) -> Fraction:
    """The number as it is written: 0.1 is one tenth."""
    segment = ast.get_source_segment(source, node)
    assert segment is not None
    return Fraction(segment)
