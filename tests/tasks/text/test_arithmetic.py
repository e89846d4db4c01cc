"""Arithmetic: exact values for what is arithmetic, a refusal for everything else."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from dipod.tasks.text.arithmetic import (
    MAX_NESTING,
    ArithmeticRefused,
    evaluate,
    numbers_used,
    reaches,
    read_number,
    uses_numbers,
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+2*3", Fraction(7)),
        (" ( 1 + 2 ) * 3 ", Fraction(9)),
        ("2-3-4", Fraction(-5)),
        ("1/3+1/3+1/3", Fraction(1)),
        ("8/4/2", Fraction(1)),
        ("-3*-(2+1)", Fraction(9)),
        ("+5", Fraction(5)),
        ("0.1+.2", Fraction(3, 10)),
        ("5.", Fraction(5)),
        ("(1+\n2)", Fraction(3)),
        ("12345678901234567890*3-1", Fraction(37037036703703703669)),
    ],
)
def test_values_are_exact(expression: str, value: Fraction) -> None:
    assert evaluate(expression) == value


def test_random_trees_have_the_value_that_building_them_gives() -> None:
    generator = random.Random(0)

    def build(depth: int) -> tuple[str, Fraction]:
        if depth == 0:
            number = generator.randint(1, 99)
            return str(number), Fraction(number)
        (left, a), (right, b) = build(depth - 1), build(generator.randrange(depth))
        sign = generator.choice("+-*/") if b else "+"
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
        return f"({left}){sign}(-({right}))", {"+": a - b, "-": a + b, "*": -a * b, "/": -value}[sign]

    for _ in range(200):
        expression, value = build(3)
        assert evaluate(expression) == value, expression


HOSTILE = [
    "9**9**9**9",
    "2**3",
    "7//2",
    "7%2",
    "1<<9",
    "__import__('os').system('true')",
    "(lambda: 0)()",
    "[].__class__",
    "1 if 1 else 2",
    "a",
    "1e9",
    "0x10",
    "1_000",
    "1j",
    "True",
    "...",
    "3(4)",
    "(1,2)",
    "1 2",
    "007",
    "1+",
    "1+\n2",
    "()",
    "",
    "   ",
    "1.2.3",
    "1;2",
    "1#2",
    "5!",
    "٣+٤",
    "１+１",
    "²",
    "−3",
    "1\u00a0+1",
    "1\0+1",
    "\ud800",
    "\\frac{1}{2}",
    "1/0",
    "1/(2-2)",
    "(" * 10_000,
    "(" * 5000 + "1" + ")" * 5000,
    "(" * 40 + "1" + ")" * 40,
    "-" * 199 + "1",
    "-" * 10_000 + "1",
    "+".join("1" * 99),
    "1" * 150,
    "9" * 100_000,
    "1+" * 50_000 + "1",
]


@pytest.mark.parametrize("expression", HOSTILE, ids=range(len(HOSTILE)))
def test_everything_else_is_refused(expression: str) -> None:
    with pytest.raises(ArithmeticRefused):
        evaluate(expression)


def test_nesting_is_allowed_up_to_its_limit() -> None:
    assert evaluate("(" * MAX_NESTING + "1" + ")" * MAX_NESTING) == 1
    with pytest.raises(ArithmeticRefused):
        evaluate("(" * (MAX_NESTING + 1) + "1" + ")" * (MAX_NESTING + 1))


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2**3", 8), ("7//2", 3), ("-7//2", -4), ("2**-1", Fraction(1, 2)), ("64**(2/3)", 16), ("(-2)**2", 4)],
)
def test_released_evaluators_also_had_powers_and_floors(expression: str, value: Fraction) -> None:
    assert evaluate(expression, as_released=True) == pytest.approx(float(value))


@pytest.mark.parametrize(
    "expression", ["9**9**9**9", "99**9999", "0**-1", "(-8)**(1/3)", "99.5**(9999/2)", "1e5", "5%2", "1/0", "7//0"]
)
def test_released_evaluation_is_bounded_too(expression: str) -> None:
    with pytest.raises(ArithmeticRefused):
        evaluate(expression, as_released=True)


def test_what_overflows_a_float_is_refused() -> None:
    big = "99999999999999999999**7.5"
    with pytest.raises(ArithmeticRefused):
        evaluate(f"{big}*{big}*{big}", as_released=True)
    with pytest.raises(ArithmeticRefused):
        evaluate(f"({big}*{big}*{big}-{big}*{big}*{big})//1", as_released=True)


def test_numbers_are_those_that_are_written() -> None:
    assert numbers_used("(3+0.5)*3/-2") == [3, Fraction(1, 2), 3, 2]
    assert numbers_used("1/0") == [1, 0], "a division by zero has numbers, if no value"
    assert uses_numbers("7*(3-3)", [3, 7, 3])
    assert not uses_numbers("7*(3-3)", [3, 7])
    assert not uses_numbers("1.5+2", [1, 5, 2])
    assert not uses_numbers("2**3", [2, 3])
    assert not uses_numbers("2 3", [2, 3])


def test_a_target_is_reached_within_a_hundred_thousandth() -> None:
    assert reaches("1/3", Fraction("0.333333"))
    assert not reaches("1/3", Fraction("0.33332"))
    assert not reaches("1/0", Fraction(0))
    assert not reaches("2**3", Fraction(8))
    assert reaches("2**3", Fraction(8), as_released=True)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        (" 18\n", 18),
        ("-3", -3),
        ("+3", 3),
        ("1,250", 1250),
        ("12,345,678.5", Fraction(24691357, 2)),
        ("$18", 18),
        ("\\$18.50", Fraction(37, 2)),
        ("-$5", -5),
        (".5", Fraction(1, 2)),
        ("7.", 7),
    ],
)
def test_a_number_may_have_commas_and_a_dollar_sign(text: str, number: Fraction) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "18 eggs", "1,2", "1,2345", "1,,000", "1 000", "1e3", "--1", "1/2", "٣", "inf", "nan", "5%", "9" * 300]
)
def test_what_is_not_a_number_as_a_whole_is_none(text: str) -> None:
    assert read_number(text) is None
