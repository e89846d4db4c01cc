"""Rewards: every score table value by value, as the papers have it and as the code had it."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.tasks.text import released_rewards as released
from dipod.tasks.text import rewards
from dipod.tasks.text.rewards import REWARDS, RewardFunction

THOUGHT = "First 9.\nThen twice that."
PERFECT = f"<reasoning>\n{THOUGHT}\n</reasoning>\n<answer>\n18\n</answer>\n"
ONE_LINE = "<reasoning>\nTwice nine.\n</reasoning>\n<answer>\n18\n</answer>\n"
INLINE = "<reasoning>nine, twice</reasoning> <answer>18</answer>"
PUZZLE, SOLUTION = "1200340201400001", "1234341221434321"


def score(function: RewardFunction, text: str, **columns: Any) -> float | None:
    """One completion's reward; columns are given as single values."""
    return function(["question"], [text], **{name: [value] for name, value in columns.items()})[0]


def total(task: str, variant: str, text: str, **columns: Any) -> float:
    return sum(score(function, text, **columns) or 0.0 for function in REWARDS[task][variant])


@pytest.mark.parametrize(
    ("text", "paper", "d1", "spg"),
    [
        (PERFECT, 0.5, 0.5, 0.5 - 0.001 * len("18\n</answer>\n")),
        (PERFECT[:-1], 0.5, 0.5 - 0.001 * len(PERFECT[:-1]) + 0.001, 0.5 - 0.001 * len("18\n</answer>") + 0.001),
        (PERFECT + "more", 0.5 - 0.004, 0.5 - 0.004 - 0.004, 0.5 - 0.001 * len("18\n</answer>\nmore") - 0.004),
        ("<reasoning>\nabc\n</reasoning>\n<answer>\n1\n</answer>", 0.5, 0.452, 0.5 - 0.001 * 11 + 0.001),  # 49 long
        (PERFECT.replace("<answer>\n", "<answer>"), 0.375, 0.375, 0.375),
        (PERFECT.replace("<reasoning>\n", ""), 0.375, 0.375, 0.375 - 0.001 * len("18\n</answer>\n")),
        (PERFECT.replace("\n</answer>\n", ""), 0.375, 0.375 - 0.001 * len(PERFECT[:-11]), 0.375 - 0.002),
        (PERFECT + PERFECT, 0.0, 0.0, 0.0),
        (  # two tags that share a line break are one to the code
            ONE_LINE.replace("\n<answer>\n", "\n<answer>\n<answer>\n"),
            0.5,
            0.5,
            0.5 - 0.001 * len("<answer>\n18\n</answer>\n"),
        ),
        (INLINE, 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_gsm8k_xml_count(text: str, paper: float, d1: float, spg: float) -> None:
    functions = (rewards.xml_count, released.released_xml_count, released.released_spg_xml_count)
    assert [score(f, text) for f in functions] == pytest.approx([paper, d1, spg])


@pytest.mark.parametrize(
    ("text", "soft", "released_soft", "strict", "released_strict"),
    [
        (PERFECT, 0.5, 0.0, 0.5, 0.0),  # two lines of reasoning
        (ONE_LINE, 0.5, 0.0, 0.5, 0.5),
        (ONE_LINE[:-1], 0.5, 0.0, 0.0, 0.0),
        (ONE_LINE + "\n", 0.5, 0.0, 0.5, 0.5),
        (ONE_LINE + "more", 0.5, 0.0, 0.0, 0.0),
        ("\n" + ONE_LINE, 0.0, 0.0, 0.0, 0.0),
        (INLINE, 0.5, 0.5, 0.0, 0.0),
        (INLINE + " more", 0.5, 0.5, 0.0, 0.0),
        ("<reasoning>a\nb</reasoning><answer>5</answer>", 0.5, 0.0, 0.0, 0.0),
        ("<reasoning>a</reasoning>\n\n<answer>5</answer>", 0.5, 0.5, 0.0, 0.0),
        ("<reasoning>a</reasoning>, so <answer>5</answer>", 0.0, 0.0, 0.0, 0.0),
        ("<reasoning>a</reasoning><answer>5", 0.0, 0.0, 0.0, 0.0),
        ("<answer>5</answer>", 0.0, 0.0, 0.0, 0.0),
        ("<reasoning>\n</reasoning>\n<answer>\n</answer>\n", 0.5, 0.0, 0.0, 0.0),
        ("<reasoning>\n\n</reasoning>\n<answer>\n\n</answer>\n", 0.5, 0.0, 0.5, 0.5),
    ],
)
def test_gsm8k_formats(text: str, soft: float, released_soft: float, strict: float, released_strict: float) -> None:
    assert score(rewards.soft_format, text) == soft
    assert score(released.released_soft_format, text) == released_soft
    assert score(rewards.strict_format, text) == strict
    assert score(released.released_strict_format, text) == released_strict
    assert score(rewards.format_tags, text) == 2 * soft


@pytest.mark.parametrize(
    ("text", "paper", "as_released"),
    [
        ("<answer>5</answer>", 0.5, 0.5),
        ("<answer>\n-5\n</answer>", 0.5, 0.0),
        ("<answer>1,000</answer>", 0.5, 0.0),
        ("<answer>5.0</answer>", 0.5, 0.0),
        ("<answer>5.5</answer>", 0.0, 0.0),
        ("<answer>five</answer>", 0.0, 0.0),
        ("<answer>²</answer>", 0.0, 0.5),
        ("<answer>5", 0.0, 0.5),
        ("5", 0.0, 0.5),
        ("it is 5", 0.0, 0.0),
        ("<answer></answer>", 0.0, 0.0),
        ("<answer>5</answer><answer>x</answer>", 0.0, 0.0),
    ],
)
def test_gsm8k_integer(text: str, paper: float, as_released: float) -> None:
    assert score(rewards.integer, text) == paper
    assert score(released.released_integer, text) == as_released


@pytest.mark.parametrize(
    ("text", "answer", "paper", "as_released"),
    [
        ("<answer>18</answer>", "18", 2.0, 2.0),
        ("<answer>\n 18 \n</answer>", "18", 2.0, 2.0),
        ("<answer>19</answer>", "18", 0.0, 0.0),
        ("<answer>1000</answer>", "1,000", 2.0, 0.0),
        ("<answer>1,000</answer>", "1,000", 2.0, 2.0),
        ("<answer>18.0</answer>", "18", 2.0, 0.0),
        ("<answer>\\boxed{18}</answer>", "18", 2.0, 0.0),
        ("<answer>18 eggs</answer>", "18", 0.0, 0.0),
        ("18", "18", 0.0, 2.0),
        ("<answer>18", "18", 0.0, 2.0),
    ],
)
def test_gsm8k_correctness(text: str, answer: str, paper: float, as_released: float) -> None:
    assert score(rewards.gsm8k_correctness, text, answer=answer) == paper
    assert score(released.released_gsm8k_correctness, text, answer=answer) == as_released


def test_gsm8k_totals() -> None:
    assert total("gsm8k", "paper", PERFECT, answer="18") == pytest.approx(4.0), "the largest, as documented"
    assert total("gsm8k", "released", PERFECT, answer="18") == pytest.approx(3.0), "no format reward for two lines"
    assert total("gsm8k", "released", ONE_LINE, answer="18") == pytest.approx(3.5)
    assert total("gsm8k", "released_spg", ONE_LINE, answer="18") == pytest.approx(3.5 - 0.013)


@pytest.mark.parametrize(
    ("text", "paper", "as_released"),
    [
        ("<answer>\\boxed{\\frac12}</answer>", 2.0, 2.0),
        ("\\boxed{0.5}", 2.0, 2.0),
        ("\\boxed{1} no, \\boxed{1/2}", 2.0, 2.0),
        ("\\boxed{1/2} no, \\boxed{1}", 0.0, 0.0),
        ("\\fbox{1/2}", 2.0, 0.0),
        ("1/2", 0.0, 2.0),
        ("<answer>1/2</answer>", 0.0, 0.0),
        ("\\boxed{1/2", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("answer", ["\\frac{1}{2}", "Half of it is $\\boxed{\\frac{1}{2}}$."])
def test_math_correctness(text: str, answer: str, paper: float, as_released: float) -> None:
    assert score(rewards.math_correctness, text, answer=answer) == paper
    assert score(released.released_math_correctness, text, answer=answer) == as_released


@pytest.mark.parametrize(
    ("text", "paper", "as_released"),
    [
        ("<answer>\\boxed{5}</answer>", 1.0, 0.75),
        ("<answer>5</answer>", 0.75, 0.75),
        ("<answer>5</answer> \\boxed{5}", 0.75, 0.75),
        ("\\boxed{5}", 0.5, 0.25),
        ("5", 0.25, 0.25),
        ("<answer>\\boxed{5}", 0.5, 0.75),
        ("<answer>\boxed{5}</answer>", 0.75, 1.0),
        ("\boxed{5}", 0.25, 0.5),
    ],
)
def test_boxed_and_answer_tags(text: str, paper: float, as_released: float) -> None:
    assert score(rewards.boxed_and_answer_tags, text) == paper
    assert score(released.released_boxed_and_answer_tags, text) == as_released


def test_math_totals() -> None:
    text = "<reasoning>\nhalve it\n</reasoning>\n<answer>\n\\boxed{\\frac12}\n</answer>"
    assert total("math", "paper", text, answer="1/2") == 3.0
    assert total("math", "released", text, answer="1/2") == 2.75, "the largest that was ever given"


@pytest.mark.parametrize(
    ("text", "paper", "as_released"),
    [
        ("<answer>2*4-3</answer>", 1.0, 1.0),
        ("<answer>\n(2 * 4) - 3\n</answer>", 1.0, 1.0),
        ("<answer>2\\times4-3</answer>", 1.0, 0.1),
        ("<answer>\\boxed{2*4-3}</answer>", 1.0, 0.1),
        ("<answer>2+4-3</answer>", 0.1, 0.1),
        ("<answer>2*4-3=5</answer>", 0.0, 0.1),
        ("<answer>2*4</answer>", 0.0, 0.1),
        ("<answer>2*4-3*1</answer>", 0.0, 0.1),
        ("<answer>5</answer>", 0.0, 0.1),
        ("<answer></answer>", 0.0, 0.1),
        ("<answer>who knows</answer>", 0.0, 0.1),
        ("<answer>3/(4-2*2)</answer>", 0.0, 0.1),
        ("<answer>9**9**9**9</answer>", 0.0, 0.1),
        ("<answer>2*4-3", 0.0, 0.0),
        ("2*4-3", 0.0, 0.0),
        ("<answer>2+4-3</answer><answer>2*4-3</answer>", 1.0, 1.0),
        ("<answer>2*4-3</answer><answer>2+4-3</answer>", 0.1, 0.1),
    ],
)
def test_countdown(text: str, paper: float, as_released: float) -> None:
    columns = {"numbers": [2, 3, 4], "target": 5}
    assert total("countdown", "paper", text, **columns) == paper
    assert total("countdown", "released", text, **columns) == as_released


def test_countdown_with_the_right_numbers_and_no_value() -> None:
    assert score(rewards.countdown, "<answer>1/(2-2)</answer>", numbers=[1, 2, 2], target=5) == 0.1
    power = "<answer>2**3</answer>"
    assert score(released.released_countdown, power, numbers=[2, 3], target=8) == 1.0
    assert score(rewards.countdown, power, numbers=[2, 3], target=8) == 0.0


@pytest.mark.parametrize("variant", ["paper", "released", "released_spg"])
@pytest.mark.parametrize(
    ("text", "share"),
    [
        (f"<answer>{SOLUTION}</answer>", 1.0),
        ("<answer>1234 3412\n2143 4321</answer>", 1.0),
        (f"<answer>R: {SOLUTION}99</answer>", 1.0),
        (f"<answer>44{SOLUTION[2:]}</answer>", 1.0),  # clues are not scored
        (f"<answer>{SOLUTION[:4]}</answer>", 2 / 8),
        ("<answer>1111111111111111</answer>", 1 / 8),
        (f"<answer>{SOLUTION[1:]}</answer>", 0.0),
        (f"<answer>0</answer><answer>{SOLUTION}</answer>", 1.0),
        ("<answer></answer>", 0.0),
        ("<answer>none</answer>", 0.0),
        (f"<answer>{SOLUTION}", 0.0),
        (SOLUTION, 0.0),
    ],
)
def test_sudoku(text: str, share: float, variant: str) -> None:
    assert total("sudoku", variant, text, puzzle=PUZZLE, solution=SOLUTION) == pytest.approx(share)


def test_generic_rewards() -> None:
    assert score(rewards.exact_answer, "<answer> blue </answer>", answer="blue") == 1.0
    assert score(rewards.exact_answer, "<answer>\\boxed{blue}</answer>", answer="blue") == 1.0
    assert score(rewards.exact_answer, "<answer>Blue</answer>", answer="blue") == 0.0
    assert score(rewards.exact_answer, "blue", answer="blue") == 0.0
    assert score(rewards.numeric_answer, "<answer>1,000.0</answer>", answer=1000) == 1.0
    assert score(rewards.numeric_answer, "<answer>0.3333333</answer>", answer=0.33333333) == 1.0
    assert score(rewards.numeric_answer, "<answer>0.3333</answer>", answer="0.33333333") == 0.0
    assert score(rewards.numeric_answer, "<answer>about 7</answer>", answer=7) == 0.0
    assert score(rewards.numeric_answer, "<answer>.0000001</answer>", answer=1e-7) == 1.0
    assert score(rewards.numeric_answer, "<answer>7</answer>", answer=np.int64(7)) == 1.0
    with pytest.raises(UserError, match="column answer = 'seven': give a number"):
        score(rewards.numeric_answer, "<answer>7</answer>", answer="seven")


def every_function() -> list[RewardFunction]:
    listed = [f for variants in REWARDS.values() for functions in variants.values() for f in functions]
    return list(
        {f.__name__: f for f in [*listed, rewards.verify, rewards.exact_answer, rewards.numeric_answer]}.values()
    )


COLUMNS = {"answer": "7", "numbers": [2, 3, 4], "target": 5, "puzzle": PUZZLE, "solution": SOLUTION, "other": None}


@pytest.mark.parametrize("function", every_function(), ids=lambda f: f.__name__)
def test_every_reward_keeps_the_contract_of_trl(function: RewardFunction) -> None:
    texts = ["", PERFECT, "<answer>7</answer>"]
    columns = {name: [value] * 3 for name, value in COLUMNS.items()}
    plain = function(prompts=["q"] * 3, completions=texts, **columns)
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert function(prompts=[[{"role": "user", "content": "q"}]] * 3, completions=chats, **columns) == plain
    assert all(type(reward) is float for reward in plain)
    assert function([], [], **{name: [] for name in COLUMNS}) == []
    decoded_with_special_tokens = [f"<|startoftext|>{text}<|eot_id|><|endoftext|>" for text in texts]
    assert function(["q"] * 3, decoded_with_special_tokens, **columns) == plain
    assert function.__doc__


def test_variants_have_functions_of_different_names() -> None:
    for variants in REWARDS.values():
        assert set(variants) == {"verify", "paper", "released", "released_spg"}
        for functions in variants.values():
            assert len({f.__name__ for f in functions}) == len(functions)


def test_a_row_of_another_task_has_no_reward() -> None:
    texts = ["<answer>7</answer>"] * 2
    assert rewards.exact_answer(["q"] * 2, texts, answer=["7", None]) == [1.0, None]
    assert rewards.countdown(["q"] * 2, texts, numbers=[None, [7]], target=[None, 7]) == [None, 1.0]


def test_mistakes_of_the_caller_are_named() -> None:
    with pytest.raises(UserError, match=r"columns = \['target'\]: add the column 'numbers'"):
        rewards.countdown(["q"], ["x"], target=[5])
    with pytest.raises(UserError, match="column answer = 2: give one value for each of 1 completions"):
        rewards.exact_answer(["q"], ["x"], answer=["1", "2"])
    with pytest.raises(UserError, match="completions = 'int': give strings or conversations"):
        rewards.xml_count(["q"], [5])
    with pytest.raises(UserError, match="completions = 'list'"):
        rewards.xml_count(["q"], [[]])


@pytest.mark.parametrize(
    "piece", ["<answer>", "</answer>", "\\boxed{", "</reasoning><answer>", "12+", "((((", "²", "\n"]
)
def test_hostile_completions_are_scored(piece: str) -> None:
    texts = [piece * 1000, f"<reasoning>{piece * 1000}", f"<answer>{piece * 1000}</answer>"]
    for function in every_function():
        rewards_of_texts = function(["q"] * 3, texts, **{name: [value] * 3 for name, value in COLUMNS.items()})
        assert len(rewards_of_texts) == 3


def test_the_released_soft_format_is_its_pattern_in_linear_time() -> None:
    pattern = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>")
    tags = ["</reasoning>", "<answer>", "</answer>"]
    pieces = [*tags, *tags, "<reasoning>", "\n", " ", "x", "\u2028", "\u00a0", "\r"]
    rng = random.Random(0)
    matched = 0
    for _ in range(20_000):
        text = rng.choice(("<reasoning>", "")) + "".join(rng.choices(pieces, k=rng.randrange(9)))
        expected = 0.5 if pattern.match(text) else 0.0
        matched += expected > 0
        assert score(released.released_soft_format, text) == expected, text
    assert matched > 200
    for piece in ("</reasoning>", "</reasoning><answer>", "</reasoning> ", " ", "</reasoning>\n<answer>"):
        assert score(released.released_soft_format, "<reasoning>" + piece * 200_000) == 0.0
