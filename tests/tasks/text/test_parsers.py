"""Parsers: texts that tell d1, SPG and strict reading apart, rule by rule."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dipod.errors import UserError
from dipod.tasks.text.parsers import PARSERS, find_parser, strict_answer
from dipod.tasks.text.references import Board, Countdown
from dipod.tasks.text.rows import TASKS

END = "<|eot_id|><|endoftext|><|endoftext|>"
NAMES = ("d1", "spg", "strict")
""""verify" has tests of its own."""
PUZZLE, SOLUTION, OTHER = "1200340201400001", "1234341221434321", "2143432112343412"

GSM8K = [
    # text, d1, spg, strict
    (f"18 it is\n</reasoning>\n<answer>\n\\boxed{{18}}\n</answer>{END}", 18, 18, 18),
    (f"<answer>\n18\n</answer>{END}", 18, 18, 18),
    ("<answer>1,250</answer>", 250, 250, 1250),  # a comma ends a number; the last one counts
    ("<answer>\\boxed{1,250}</answer>", 1, 1, 1250),  # the first one counts
    ("<answer>$18</answer>", 18, 18, 18),
    ("<answer>18 eggs</answer>", 18, 18, None),
    ("<answer>3 and 4</answer>", 4, 4, None),
    ("<answer>\\boxed{3 and 4}</answer>", 3, 3, None),
    ("\\boxed{5}", 5, 5, None),
    ("\\boxed{1} \\boxed{2}", 1, 1, None),  # the first box counts
    ("\\boxed{...} \\boxed{ } \\boxed{.} \\boxed{x} \\boxed{2}", 2, 2, None),
    ("\\boxed{...}<answer>4</answer>", 4, 4, 4),
    ("\\boxed{\\text{7}}", 7, 7, None),
    ("\\boxed{\\frac{3}{4}}", 3, 3, None),  # the box ends at the first brace
    ("\\boxed{\n7\n}<answer>8</answer>", 8, 8, 8),  # a box on several lines is not seen
    ("<answer>18", None, 18, None),  # not closed
    (f"<answer>\\boxed{{18{END}", None, 18, None),
    ("<answer></answer> then <answer>7", None, 7, None),
    ("first 3, then 42 in all", None, 42, None),  # no tag at all
    ("<answer>none</answer> 42", None, None, None),
    ("<answer>1</answer><answer>2</answer>", 1, 1, 2),
    ("<answer>1_000</answer>", 1000, 1000, None),
    ("<answer>-3.50</answer>", -3.5, -3.5, Fraction(-7, 2)),
    (f"18{END}<answer>18</answer>", 18, 18, None),  # after the end
    ("<answer>1<|mdm_mask|>8</answer>", 8, 8, None),
    ("<|startoftext|><answer>18</answer>", 18, 18, 18),
    ("", None, None, None),
]


@pytest.mark.parametrize(("text", "d1", "spg", "strict"), GSM8K, ids=range(len(GSM8K)))
def test_gsm8k(text: str, d1: float | None, spg: float | None, strict: Fraction | None) -> None:
    assert [PARSERS["gsm8k"][name].read(text) for name in NAMES] == [d1, spg, strict]


def test_gsm8k_accepts_the_same_number() -> None:
    for name in NAMES:
        parser = PARSERS["gsm8k"][name]
        assert parser.accepts(parser.read("<answer>0.1</answer>"), Fraction(1, 10))
        assert not parser.accepts(parser.read("<answer>0.1</answer>"), Fraction(1, 5))
        assert not parser.accepts(None, Fraction(0))
    big = Fraction(2**53 + 1)
    assert not PARSERS["gsm8k"]["strict"].accepts(Fraction(2**53), big)
    assert PARSERS["gsm8k"]["d1"].accepts(float(2**53), big), "floats are what the published code compares"


MATH = [
    # text, published reading, strict reading
    (f"<answer>\n\\boxed{{\\frac12}}\n</answer>{END}", "\\frac12", "\\frac12"),
    ("\\boxed{1} \\boxed{2}", "2", None),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", None),
    ("<answer>5</answer>", "<answer>5</answer>", "5"),  # no box: the text as a whole
    ("5", "5", None),
    ("\\boxed{}<answer>5</answer>", "5", "5"),
    ("\\boxed{}", "", None),
    ("\\boxed{5<answer>6</answer>", "6", "6"),  # a brace that is never closed
    ("\\boxed{5", None, None),
    ("\\fbox{5}", "\\fbox{5}", None),  # found, not taken off
    ("<answer>\\fbox{5}</answer>", "\\fbox{5}", "5"),
    ("$\\boxed 5$ so", "5", None),
    ("\\boxed{6} and \\boxed 5$ so", "5", None),
    (f"\\boxed 5{END}", f"5{END}", None),  # special tokens are text
    ("<answer>$\\boxed 5$</answer>", "5", "5"),
    ("<answer>\\(x+1\\)</answer>", "<answer>\\(x+1\\)</answer>", "x+1"),
    ("<answer>$1$ or $2$</answer>", "<answer>$1$ or $2$</answer>", "$1$ or $2$"),
    ("<answer>\\boxed{5} cm</answer>", "5", "\\boxed{5} cm"),
    ("<answer>\\boxed{1}\\boxed{2}</answer>", "2", "\\boxed{1}\\boxed{2}"),
]


@pytest.mark.parametrize(("text", "published", "strict"), MATH, ids=range(len(MATH)))
def test_math(text: str, published: str | None, strict: str | None) -> None:
    assert [PARSERS["math"][name].read(text) for name in NAMES] == [published, published, strict]


def test_math_accepts_equivalent_answers_and_keeps_the_published_fault() -> None:
    for name in NAMES:
        assert PARSERS["math"][name].accepts("\\dfrac12", "0.5")
        assert not PARSERS["math"][name].accepts(None, "0.5")
    assert PARSERS["math"]["strict"].accepts("x/2", "x / 2")
    assert not PARSERS["math"]["d1"].accepts("x/2", "x / 2")


TASK = Countdown((2, 3, 8), Fraction(10))
COUNTDOWN = [
    # text, right for d1 and spg, right for strict
    (f"<answer>\n\\boxed{{8*3/2-2}}\n</answer>{END}", False, False),  # 2 twice
    (f"<answer>\n\\boxed{{(8-3)*2}}\n</answer>{END}", True, True),
    ("<answer>(8-3)*2</answer>", False, True),  # no box: the text as a whole, tags included
    ("(8-3)*2", True, False),
    ("<answer>\\boxed{(8-3)*2=10}</answer>", True, False),
    ("<answer>(8-3)*2=10</answer>", True, False),  # the pattern finds an equation in the whole text
    ("<answer>\\boxed{(8-3)*2=x}</answer>", False, False),
    ("<answer>\\boxed{(8-3) \\times 2}</answer>", True, True),
    ("<answer>\\boxed{(8-3) \\cdot 2}</answer>", True, True),
    ("<answer>(8-3)×2</answer>", False, True),
    ("\\boxed{never closed <answer>(8-3)*2</answer>", True, True),
    ("\\boxed{1} \\boxed{(8-3)*2}", True, False),
    (f"(8-3)*2{END}", False, False),  # special tokens are text
    ("<answer>\\boxed{(8-3)*2 is it}</answer>", False, False),
    ("<answer>\\boxed{2+8+3}</answer>", False, False),
    ("<answer>\\boxed{2+8}</answer>", False, False),
    ("<answer>\\boxed{2 8 3}</answer>", False, False),
    (f"<answer>\\boxed{{{'2' * 5000}}}</answer>", False, False),  # longer than Python reads
    ("<answer>\\boxed{8+2**(3-3)}</answer>", False, False),
    ("", False, False),
]


@pytest.mark.parametrize(("text", "published", "strict"), COUNTDOWN, ids=range(len(COUNTDOWN)))
def test_countdown(text: str, published: bool, strict: bool) -> None:
    parsers = [PARSERS["countdown"][name] for name in NAMES]
    assert [parser.accepts(parser.read(text), TASK) for parser in parsers] == [published, published, strict]


@pytest.mark.parametrize(
    ("expression", "task"),
    [
        ("1.5+3", Countdown((1, 5, 3), Fraction(9, 2))),
        ("2**3", Countdown((2, 3), Fraction(8))),
        ("7//2", Countdown((7, 2), Fraction(3))),
    ],
)
def test_countdown_faults_of_the_published_rules(expression: str, task: Countdown) -> None:
    text = f"<answer>\\boxed{{{expression}}}</answer>"
    results = [PARSERS["countdown"][name].accepts(PARSERS["countdown"][name].read(text), task) for name in NAMES]
    assert results == [True, True, False]


SUDOKU = [
    # text, published reading, strict reading
    (f"<answer>\n{SOLUTION}\n</answer>{END}", SOLUTION, SOLUTION),
    (f"<answer>\\boxed{{{SOLUTION}}}</answer>", f"\\boxed{{{SOLUTION}"[:16], SOLUTION),
    (f"<answer>{SOLUTION}{END}", SOLUTION, ""),  # not closed, but the turn ends
    (f"<answer>{SOLUTION}", SOLUTION, ""),
    (f"<answer>1234 3412\n2143 4321</answer>{END}", SOLUTION, ""),
    ("<answer>12343412</answer>", "1234341200000000", ""),
    (f"<answer>{SOLUTION}99</answer>", SOLUTION, ""),
    (f"<answer>Board {SOLUTION}</answer>", f"Board{SOLUTION[:11]}", ""),
    ("<answer>\n```\n1234\n3412\n2143\n4321\n```\n</answer>", SOLUTION, ""),
    (f"<answer>first</answer> then ```{SOLUTION}```", SOLUTION, ""),  # the fence may stand outside
    (f"<answer></answer> {SOLUTION} <|eot_id|> rest", SOLUTION, ""),  # what follows the closing tag
    (f"{SOLUTION}\n</answer>", SOLUTION, ""),
    (f"it is {SOLUTION}.", SOLUTION, ""),
    (f"it is {SOLUTION}0.", "", ""),
    (f"<answer>{OTHER}</answer><answer>{SOLUTION}</answer>", OTHER, SOLUTION),
    (f"<answer>{SOLUTION[:8]}<|mdm_mask|>{SOLUTION[8:]}</answer>", f"{SOLUTION[:8]}<|mdm_ma", ""),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "published", "strict"), SUDOKU, ids=range(len(SUDOKU)))
def test_sudoku(text: str, published: str, strict: str) -> None:
    assert [PARSERS["sudoku"][name].read(text) for name in NAMES] == [published, published, strict]


def test_sudoku_accepts_the_whole_board() -> None:
    for name in NAMES:
        assert PARSERS["sudoku"][name].accepts(SOLUTION, Board(PUZZLE, SOLUTION))
        assert not PARSERS["sudoku"][name].accepts("2" + SOLUTION[1:], Board(PUZZLE, SOLUTION))


@pytest.mark.parametrize(
    "token", ["<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>" * 50, "<|eot_id|><|endoftext|>"]
)
def test_tokens_after_a_complete_answer_change_nothing(token: str) -> None:
    for task, answer in (
        ("gsm8k", "\\boxed{18}"),
        ("math", "\\boxed{x}"),
        ("countdown", "\\boxed{3}"),
        ("sudoku", SOLUTION),
    ):
        text = f"because\n</reasoning>\n<answer>\n{answer}\n</answer>"
        for name in NAMES:
            parser = PARSERS[task][name]
            assert parser.read(f"{text}{token}") == parser.read(text)
            assert parser.read(f"<|startoftext|>{text}{token}") == parser.read(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>a<answer>b</answer>", "b"),
        ("<answer>a</answer></answer>", "a"),
        ("</answer><answer>", None),
        ("<answer>  </answer>", None),
        ("<answer>\\[ \\boxed{ 7 } \\]</answer>", "7"),
        ("<answer>$$7$$</answer>", "7"),
        ("<answer>$</answer>", "$"),
        ("<answer>$18</answer>", "$18"),
        ("<answer>7</answer><|im_end|><answer>8</answer>", "7"),
        ("<answer>\\boxed{7</answer>", "\\boxed{7"),
    ],
)
def test_a_strict_answer_is_the_content_of_the_last_complete_tags(text: str, answer: str | None) -> None:
    assert strict_answer(text) == answer


HOSTILE = [
    "<answer>",
    "</answer>",
    "\\boxed{",
    "\\boxed ",
    "}{",
    "<answer>```1",
    "1 ",
    "12+",
    "<|endoftext|>",
    "$",
    "<|",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_is_read_in_linear_time(piece: str) -> None:
    references = {"gsm8k": Fraction(1), "math": "1", "countdown": TASK, "sudoku": Board(PUZZLE, SOLUTION)}
    for text in (piece * 20_000, piece * 20_000 + "</answer>", "<answer>" + piece * 20_000):
        for task in TASKS:
            for parser in PARSERS[task].values():
                parser.accepts(parser.read(text), references[task])


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(UserError, match="task = 'chess': choose one of gsm8k, math, countdown, sudoku"):
        find_parser("chess", "d1")
    with pytest.raises(UserError, match="parser = 'd2': choose one of verify, strict, d1, spg"):
        find_parser("math", "d2")
