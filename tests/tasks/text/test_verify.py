"""The parser `verify`: right answers however they are written, wrong ones however they look; and rewards that agree."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dipod.recipes import load
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.generators import random_expression
from dipod.tasks.text.grading import Grade, grade
from dipod.tasks.text.parsers import PARSERS
from dipod.tasks.text.rewards import REWARDS
from dipod.tasks.text.subject import build_subject, total_reward
from dipod.tasks.text.task import COUNTDOWN_WORDS
from dipod.tasks.text.verify import verified_answer

PUZZLE, SOLUTION = "0234341221434321", "1234341221434321"
BOARD = {"puzzle": PUZZLE, "solution": SOLUTION}
SUM = {"numbers": [3, 7, 12], "target": 33}

MATH = r"""
5 == 5 | \boxed{5}. | $\boxed{5}$. | The answer is $\boxed{5}$ | x=5 | x = 2+3 | (5) | 5.0
5 == \fbox{5} | **5** | \text{5} | 10/2 | \$5 | 5 cm
5 != 5x | 5! | -5 | \pm 5 | 5, 6 | 3x=5 | 2+2=5 | 5 \approx 6 | 5_6 | five | 5 or 6 | 50 | 5^2 | 5\text{ or }6 | (5,5)
\frac{1}{2} == \frac12 | 1/2 | 0.5 | .50 | \dfrac{1}{2} | \displaystyle\frac{1}{2} | 50\% | ½ | \frac{2}{4} | 2^{-1}
\frac{1}{2} != 2 | \frac{2}{1} | 1/20 | 12 | 0.05 | 50
\frac{5}{2} == 2\frac{1}{2} | 2 1/2 | 2.5 | 2½ | 5/2 | \frac52
-\frac{1}{2} == -1/2 | \frac{-1}{2} | \frac{1}{-2} | −0.5 | -.5
20\% == 20 | 0.2 | \frac15 | 20 percent | 20\%
20 == 2000\%
20 != 0.2 | 2
\frac{1}{3} == 0.333333 | 0.33333333 | 1/3
\frac{1}{3} != 0.33 | 0.333334 | 3
10,\!080 == 10080 | 10,080 | 10{,}080 | 10\,080 | 10 080
18 \text{ cm} == 18 | 18\text{ cm} | 18\,\mathrm{cm} | 18 centimeters | 18cm
18 \text{ cm} != 18 \text{ m} | 18 \text{ cm}^2 | 1.8 cm
90^\circ == 90 | 90° | 90 degrees | 90^{\circ} | \frac{180}{2}
4\sqrt{2} == 4\sqrt2 | 4√2 | 4*sqrt(2) | \sqrt{32} | \frac{8}{\sqrt{2}} | 4\sqrt{2}\text{ cm}
4\sqrt{2} != 4 | 4\sqrt(3) | 4\sqrt{3} | 5.66
\frac{\pi}{2} == pi/2 | π/2 | 0.5\pi | \pi/2
\frac{\pi}{2} != 1.57 | \pi | \pi^2
(1,\frac{9}{2}) == (1,4.5) | \left(1, 4.5\right) | (1, 9/2)
(1,2) != (2,1) | [1,2] | (1,2,3) | (1,2] | 1
[0,1) == \left[0,1\right) | [0, 1.0) | 0\le x<1
[0,1) != (0,1) | [0,1] | [0,2) | 0<x<1
(-\infty,2)\cup(3,\infty) == (3,\infty)\cup(-\infty,2) | (-∞, 2) ∪ (3, ∞)
(-\infty,2)\cup(3,\infty) != (-\infty,2) | (-\infty,2]\cup(3,\infty)
1, -2 == -2, 1 | x=1 or x=-2 | \{1,-2\} | 1 \text{ and } -2 | \boxed{1}, \boxed{-2}
1, -2 != 1 | 1,2 | 1,-2,3 | 1,1
\pm 3 == 3,-3 | ±3 | -3 \text{ and } 3
\pm 3 != 3 | -3 | 3, 3
\{1\pm\sqrt{5},-2\} == 1\pm\sqrt{5}, -2 | -2, 1+\sqrt{5}, 1-\sqrt{5}
x \in [-2,7] == [-2,7] | -2\le x\le 7
\text{Evelyn} == Evelyn | evelyn | \textbf{Evelyn}. | "Evelyn"
\text{Evelyn} != Eve | Evelyn and Bob | 6
\text{(A)} == A | (A) | \textbf{A}
\text{(A)} != B | (B) | AB
6 != banana | \text{six} | 6 apples or 7
12:00 == 12:00
12:00 != 1:00 | 12
\frac{1}{2004!} != \frac{1}{2006!}
\frac{1}{2^{99}} != \frac{1}{2^{98}}
1-\frac{1}{\mathrm{e}} == 1-1/e | \frac{e-1}{e}
1-\frac{1}{\mathrm{e}} != 1+\frac{1}{\mathrm{e}}
n=1, 2, 3 == 1, 2, 3
n=1, 2, 3 != n=2, 3, 4
D=(0,1) == (0,1)
D=(0,1) != D=(0,1.5)
1, 2, \ldots, n != 1, 3, 5, \ldots, 2n-1
x^2+2x+1 == (x+1)^2 | x²+2x+1 | 1+2x+x^2
x^2-1 != x^2+1 | (x-1)^2
\sqrt{x^2} != x
3x+4y+14=0 == 6x+8y+28=0 | 3x+4y=-14
3x+4y+14=0 != 3x-y+13=0 | 14
y=2x+3 == 2x+3 | 3+2x=y
y=2x+3 != y=2x+4 | 2x
x>2 == 2<x | (2,\infty)
2516_8 == 2516_{8} | 2516
2516_8 != 2516_9
\begin{pmatrix}1\\2\end{pmatrix} == \begin{pmatrix} 1 \\ 2.0 \end{pmatrix} | \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} != \begin{pmatrix} 1 & 2 \end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
\emptyset == \varnothing | \{\} | ∅
\mathbb{R} == (-\infty,\infty) | ℝ
\frac{1}{6} == 0.1\overline{6}
\frac{1}{6} != 0.16 | 0.1\overline{7}
(x,y)=(2,3) == (2,3)
(x,y)=(2,3) != (3,2)
\{1,2,3\} == \{1,3\}\cup\{2,3\}
\frac{3}{2} == 3:2
1331 and 1728 == 1728, 1331
1331 and 1728 != 1728
10 != 4 10/3
10^6 == 1,000,000 | 1\,000\,000
8\pi == 8\pi\text{ cm}^2 | 8\pi cm
3\cdot 10^5 == 3 \times 10^5 | 300000 | 3e5
"""
GSM8K = r"""
18 == 18 | $18 | $18.00 | \$18 | 18 dollars | 18. | **18** | 18 USD | €18 | x = 18 | 3*6 = 18 | She has 18 eggs left. | $18 per day | 18.0 | The answer is 18. | \boxed{18} eggs
18 != 180 | 1.8 | -18 | 18 or 20 | half of 18 | 18 dozen | 18 and a half | 18:00 | 18-20 | 17.9999999 | 18% of 50 | 1 8 | 18!
70000 == $70,000 | 70 thousand | 70,000.00 | 70 000
100 != 1,00 | 1 | 10
-7 == $-7 | -$7 | −7
0.5 == \frac{1}{2} | 1/2 | 50%
20 == 20% | 20 percent
"""  # noqa: E501
REACHES = r"""3*7+12 | = 3*7+12 | 33 = 3*7+12 | 3*7+12=33 | 3 × 7 + 12 | 3·7+12. | 3 x 7 + 12
`3*7+12` | [3*7]+12 | {3*7}+12
\left(3 \times 7\right) + 12 = 33 | 3*7+12=21+12=33 | **3*7+12** | \boxed{3*7+12} | $12+3*7$ | Answer: 12 + 7 \cdot 3"""
MISSES = (
    r"""3*7+12=34 | 3**7 | 33 | 33=33 | 3*7+12+0 | 03*7+12 | 37+12 | 3*7 | 3*7+12 ≈ 33 | 12 | 12-3+7 | 3*7+12+3-3"""
)


def cases(table: str) -> list[tuple[str, str, bool]]:
    """(answer, reference, right) of "reference == answer | answer" and "reference != answer | answer"."""
    found = []
    for line in filter(None, table.splitlines()):
        sign = " == " if " == " in line else " != "
        reference, _, answers = line.partition(sign)
        found += [(answer.strip(), reference, sign == " == ") for answer in answers.split(" | ")]
    return found


def solved(task: str, answer: str, reference: Any) -> bool:
    return grade(task, "verify", f"<answer>\n{answer}\n</answer><|eot_id|>", reference).solved


def test_mathematics() -> None:
    wrong = [case for case in cases(MATH) if solved("math", *case[:2]) != case[2]]
    assert wrong == []


def test_numbers() -> None:
    wrong = [(a, r) for a, r, right in cases(GSM8K) if solved("gsm8k", a, float(r)) != right]
    assert wrong == []
    same = [(a, r) for a, r, right in cases(GSM8K) if "." not in r and solved("math", a, r) != right and "*" not in a]
    assert same == [], "MATH's numbers are read in the same way"


def test_countdown() -> None:
    right, wrong = (text.replace("\n", " | ").split(" | ") for text in (REACHES, MISSES))
    assert [answer for answer in right if not solved("countdown", answer, SUM)] == []
    assert [answer for answer in wrong if solved("countdown", answer, SUM)] == []
    assert solved("countdown", "\\frac{12}{3} + 7", {"numbers": [3, 7, 12], "target": 11})
    assert solved("countdown", "12 \u2212 3 \u2013 7", {"numbers": [3, 7, 12], "target": 2})
    assert not solved("countdown", "7//2", {"numbers": [7, 2], "target": 3})


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("1234\n3412\n2143\n4321", True),
        ("|1|2|3|4|\n|3|4|1|2|\n|2|1|4|3|\n|4|3|2|1|", True),
        ("Row 1: 1234\nRow 2: 3412\nRow 3: 2143\nRow 4: 4321", True),
        ("R1 1 2 3 4, R2 3 4 1 2, R3 2 1 4 3, R4 4 3 2 1", True),
        ("1. 1234\n2. 3412\n3. 2143\n4. 4321", True),
        (f"\\boxed{{{SOLUTION}}}", True),
        ("\\begin{bmatrix}1&2&3&4\\\\3&4&1&2\\\\2&1&4&3\\\\4&3&2&1\\end{bmatrix}", True),
        (f"{SOLUTION}99", False),
        (SOLUTION[:15], False),
        (f"1{SOLUTION}", False),
        ("1234\n3412\n2143\n4312", False),
    ],
)
def test_sudoku(answer: str, right: bool) -> None:
    assert solved("sudoku", answer, BOARD) == right


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer><answer> 2 </answer>", "2"),
        ("so \\boxed{1}, no \\boxed{2}", "2"),  # without tags, the last one
        ("\\boxed{1} <answer>2</answer>", "2"),
        ("<answer>\\boxed{1}, then \\boxed{2}</answer>", "1, 2"),  # both are claimed
        ("<answer>\\boxed{\\boxed{1}}</answer>", "1"),
        ("<answer>x = \\boxed 5$ so</answer>", "5"),
        ("<answer>\\boxed{5</answer>", "\\boxed{5"),
        ("<answer>1", None),
        ("1", None),
        ("<answer></answer>", None),
        ("<|eot_id|><answer>1</answer>", None),
    ],
)
def test_what_the_answer_is(text: str, answer: str | None) -> None:
    assert verified_answer(text) == answer


def test_the_public_cases() -> None:
    path = Path(__file__).parents[4] / "shared" / "cases" / "grading.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    for line in path.read_text().splitlines():
        case = json.loads(line)
        found = grade(case["task"], "verify", case["generation"], case["reference"]).solved
        assert found == case["right"], case


def columns(reference: Any) -> dict[str, Any]:
    return reference if isinstance(reference, dict) else {"answer": reference}


FULL = {"gsm8k": 2.0, "math": 2.0, "countdown": 1.0, "sudoku": 1.0}


@pytest.mark.parametrize("task", FULL)
def test_a_full_reward_is_solved_and_solved_is_a_full_reward(task: str) -> None:
    """With default settings: on every case above and on what earned a reward and was not solved before."""
    answers: dict[str, list[tuple[str, Any]]] = {
        "gsm8k": [(a, float(r)) for a, r, _ in cases(GSM8K)],
        "math": [(a, r) for a, r, _ in cases(MATH)],
        "countdown": [(a, SUM) for a in f"{REACHES} | {MISSES}".replace("\n", " | ").split(" | ")],
        "sudoku": [(a, BOARD) for a in (SOLUTION, f"4{SOLUTION[1:]}", f"{SOLUTION}9", "", "1234\n3412\n2143\n4321")],
    }
    subject = build_subject(TextConfig(name=task, train_source="x", test_source="x"))  # type: ignore[arg-type]
    by_tags = {"xml_count", "soft_format", "strict_format", "integer", "boxed_and_answer_tags"}
    deciding = [f for f in subject.rewards if f.__name__ not in by_tags]
    for answer, reference in answers[task]:
        text, row = f"<answer>\n{answer}\n</answer>", columns(reference)
        (reward,) = total_reward(deciding, [""], [text], [row])
        found = subject.grade(text, row)
        assert found is not None
        assert (reward == FULL[task]) == found.solved, answer


@pytest.mark.parametrize("rewards", ["verify", "numeric_answer", "exact_answer"])
def test_a_custom_task_too(rewards: str) -> None:
    settings = {"name": "custom", "train_source": "x", "test_source": "x", "rewards": rewards}
    subject = build_subject(TextConfig(**settings))  # type: ignore[arg-type]
    for answer in ("42.0", "42.", "$42", "42", "forty", "41.9999999", "1,250"):
        text, row = f"<answer>{answer}</answer>", {"answer": "42"}
        (reward,) = total_reward(subject.rewards, [""], [text], [row])
        assert not reward or subject.grade(text, row) == Grade(1, 1, True), answer
    assert subject.grade("<answer>$42</answer>", {"answer": "42"}) == Grade(1, 1, True)


def tiny_texts() -> list[tuple[str, dict[str, Any]]]:
    """What countdown-tiny's vocabulary can say: answers in form, in form with a word changed, and at random."""
    rng, found = random.Random(0), []
    import torch

    generator = torch.Generator().manual_seed(0)
    words = [*COUNTDOWN_WORDS, *map(str, range(31))]
    for _ in range(300):
        numbers = [rng.randint(1, 9) for _ in range(3)]
        right = random_expression(numbers, generator)
        tokens = ["<answer>", *"".join(f" {c} " if c in "+-*/()" else c for c in right).split(), "</answer>"]
        changed = [*tokens]
        changed[rng.randrange(len(changed))] = rng.choice(words)
        drawn = [rng.choice(words) for _ in range(8)]
        target = rng.randint(1, 30)
        for said in (tokens, changed, ["<answer>", *drawn, "</answer>"], [*drawn, *tokens]):
            found.append((" ".join(said), {"numbers": numbers, "target": target}))
        value = PARSERS["countdown"]["strict"]
        assert value.read(" ".join(tokens)) is not None
    return found


def test_nothing_that_the_tiny_models_say_is_rewarded_otherwise_than_before() -> None:
    """`verify` and `paper` agree on the vocabulary of countdown-tiny, so committed runs would run the same."""
    config = load("countdown-tiny").task
    assert isinstance(config, TextConfig)
    assert (config.rewards, config.parser) == ("verify", "verify")
    texts, rows = zip(*tiny_texts(), strict=True)
    new, old = (total_reward(REWARDS["countdown"][how], [""] * len(texts), texts, rows) for how in ("verify", "paper"))
    assert new == old
    assert {0.0, 0.1, 1.0} <= set(new)
    for text, row in zip(texts, rows, strict=True):
        reference = {"numbers": row["numbers"], "target": row["target"]}
        assert grade("countdown", "verify", text, reference) == grade("countdown", "strict", text, reference)


def test_well_formed_boards_are_rewarded_as_before_unless_a_clue_is_changed() -> None:
    rng = random.Random(0)
    texts = []
    for _ in range(200):
        digits = list(SOLUTION)
        for _ in range(rng.randrange(4)):
            digits[rng.randrange(16)] = rng.choice("1234")
        texts.append(f"<answer>{''.join(digits)[: rng.choice((16, 16, 9))]}</answer>")
    rows = [{"puzzle": "0030000221400020", "solution": SOLUTION}] * len(texts)
    new, old = (total_reward(REWARDS["sudoku"][how], [""] * len(texts), texts, rows) for how in ("verify", "paper"))
    for text, ours, before, row in zip(texts, new, old, rows, strict=True):
        whole = grade("sudoku", "verify", text, row).solved
        assert ours == before or (before == 1.0 and not whole), text
        assert (ours == 1.0) == whole
