"""MATH answers: the rules of equivalence one by one, and the last box."""

from __future__ import annotations

import json

import pytest

from dipod.tasks.text.mathematics import is_equivalent, last_boxed, normalise
from tests.tasks.text.data import shared

EQUIVALENT = [
    ("5", "5"),
    ("1\n0", "10"),
    ("\\frac12", "\\frac{1}{2}"),
    ("\\frac1{72}", "\\frac{1}{72}"),
    ("\\frac{3}{4}", "\\dfrac{3}{4}"),
    ("\\tfrac34", "\\frac{3}{4}"),
    ("\\frac 12", "\\frac{1}{2}"),
    ("a+\\frac12+\\frac34", "a+\\frac{1}{2}+\\frac{3}{4}"),
    ("3/4", "\\frac{3}{4}"),
    ("-3/4", "\\frac{-3}{4}"),
    ("0.5", "\\frac{1}{2}"),
    (".5", "\\frac{1}{2}"),
    ("1/2", "0.5"),
    ("\\sqrt3", "\\sqrt{3}"),
    ("2\\sqrt5+1", "2\\sqrt{5} + 1"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
    ("90^\\circ", "90"),
    ("90^{\\circ}", "90"),
    ("50\\%", "50"),
    ("\\$32", "32"),
    ("10\\text{ cm}", "10"),
    ("5.4 \\text{ cents}", "5.4"),
    ("x=5", "5"),
    ("x = 5", "5"),
    ("k=\\frac12", "1/2"),
    ("1{,}000\\!", "1{,}000"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\2\\end{pmatrix}"),
    ("{.5}", "{0.5}"),
    ("x/2", "x / 2"),
    ("", " "),
]
DIFFERENT = [
    ("5", "6"),
    ("2^3", "8"),
    ("1,000", "1000"),
    ("5.0", "5"),
    ("0.25", "\\frac{1}{4}"),
    ("50%", "50"),
    ("\\text{east}", "east"),
    ("abc=5", "5"),
    ("x=y=5", "5"),
    ("03/4", "\\frac{3}{4}"),
    ("1/2/3", "\\frac{1}{2}/3"),
    ("\\sqrt 3", "\\sqrt{3}"),
    ("\\text{ a}\\text{ b}", ""),
]


@pytest.mark.parametrize(("a", "b"), EQUIVALENT)
def test_one_answer_in_two_spellings(a: str, b: str) -> None:
    assert is_equivalent(a, b)
    assert is_equivalent(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_two_answers(a: str, b: str) -> None:
    assert not is_equivalent(a, b)
    assert not is_equivalent(b, a)


@pytest.mark.parametrize("broken", ["\\sqrt", "\\frac", "\\frac\\frac12", "\\sqrt\\sqrt3", "\\text{ a}\\text{ b}"])
def test_malformed_latex_equals_only_itself(broken: str) -> None:
    with pytest.raises(ValueError, match=r"nothing|two units"):
        normalise(broken)
    assert is_equivalent(broken, broken)
    assert not is_equivalent(broken, broken + " ")


def test_one_character_after_a_fraction_stops_the_rule() -> None:
    assert normalise("\\frac12+\\frac3") == "\\frac12+\\frac3"


def test_a_slash_between_letters_is_a_fault_of_the_released_rules_only() -> None:
    assert is_equivalent("x/2", "x /2")
    assert not is_equivalent("x/2", "x /2", as_released=True)
    assert is_equivalent("x/2", "x/2", as_released=True)
    assert is_equivalent("1/2", "\\frac12", as_released=True)
    assert is_equivalent("1/2/x", "1/2 /x", as_released=True), "only a single slash is read"


def test_floats_are_compared_within_a_millionth() -> None:
    assert is_equivalent(0.5, "0.5000001")
    assert is_equivalent("2", 2.0000009)
    assert not is_equivalent(0.5, "0.50001")
    assert not is_equivalent(0.5, "\\frac12")
    assert not is_equivalent(float("nan"), "nan")
    assert not is_equivalent(1.0, "9" * 5000)


def test_no_answer_is_not_an_answer() -> None:
    assert not is_equivalent(None, "5")
    assert not is_equivalent("5", None)
    assert is_equivalent(None, None)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}} {", "\\frac{1}{2}"),
        ("\\boxed{ \\{1, 2\\} }", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{ x : x > 0 \\right.}", "\\left\\{ x : x > 0 \\right."),
        ("\\boxed{a\\\\{b}}", "a\\\\{b}"),
        ("\\fbox{7}", "7"),
        ("\\boxed{1} or \\fbox{2}", "2"),
        ("$\\boxed 5$ is it", "5"),
        ("\\boxed 5\nnext", "5"),
        ("\\(\\boxed 5\\) it", "5"),
        ("\\boxed 5<|eot_id|>", "5"),
        ("\\boxed {5} it", "5"),
        ("\\boxed{}", ""),
        ("\\boxed{5", None),
        ("\\boxed{1} then \\boxed{5", None),
        ("\\boxed", None),
        ("\\boxedpage{5}", None),
        ("5", None),
        ("", None),
    ],
)
def test_the_last_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_hostile_text_is_read_in_linear_time() -> None:
    assert last_boxed("\\boxed{" * 50_000) is None
    assert not is_equivalent("\\frac" * 50_000, "\\sqrt" * 50_000)
    assert is_equivalent("{" * 100_000, "{" * 100_000)


def test_every_math500_answer_is_itself_in_a_box() -> None:
    answers = [json.loads(line)["answer"] for line in shared("math500_test.jsonl").read_bytes().splitlines()]
    assert len(answers) == 500
    for answer in answers:
        assert is_equivalent(answer, answer)
        assert is_equivalent(answer, answer, as_released=True)
        assert is_equivalent(last_boxed(f"Thus $\\boxed{{{answer}}}$."), answer)
    spellings = {answer: normalise(answer) for answer in answers}
    assert len(spellings) - len(set(spellings.values())) == 8, "301 texts are 293 answers: degrees, dollars, x=, spaces"
