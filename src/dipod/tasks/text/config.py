"""Settings of a text task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dipod.errors import at_least, require, shares

Examples = tuple[tuple[str, str], ...]
"""Questions with their answers."""


@dataclass(frozen=True)
class TextConfig:
    """Questions in, answers out, as text.

    Attributes:
        name: "gsm8k", "math", "countdown", "sudoku", or "custom" for a file and rewards of your own.
        train_source: a local file, or a dataset on the hub; "generate" makes problems (countdown, sudoku); empty takes
            the published dataset, or makes problems where there is none. Several with weights are a mixture:
            "a.jsonl*3, b.jsonl*1", in YAML {a.jsonl: 3, b.jsonl: 1}.
        test_source: likewise for evaluations; several sets are evaluated by name: "easy=a.jsonl, hard=b.jsonl", in
            YAML {easy: a.jsonl, hard: b.jsonl}.
        held_back: training problems of a countdown or sudoku file that are set aside, the last ones in the published
            order; the published runs set 500 aside.
        style: "chat", the instructions and the model's chat layout; "short", the bare problem, for small vocabularies.
        system: the system's turn, before all others; empty for none.
        examples: questions and answers that come before the problem as turns, [{question: .., answer: ..}].
        instruction: what a custom task says before the question.
        shots: worked examples before the question (sudoku: up to 3).
        prefill: text that an answer begins with in training; it belongs to the prompt.
        eval_prefill: likewise in evaluations ("<reasoning>" in the published ones).
        rewards: "verify", right however it is written; "paper", the same rewards for one way of writing it (that of
            the parser "strict"); "released" for what the published code measures; functions by name, or by place as
            file.py:function or module:function. Several are separated by commas and added up.
        reward_weights: one number for each name in ``rewards``, separated by commas; empty for 1 each.
        completions: what reward functions are given: "text"; "messages", [{"role": .., "content": ..}]; or "auto",
            messages for problems that come as such.
        solved_at: the reward from which a problem without a right answer counts as solved (custom tasks).
        parser: how "solved" is judged: "verify" as the rewards of that name do, "strict", or "d1" or "spg" as these
            systems do.
        max_prompt: longest prompt in tokens.
        overlong: what happens to a longer one: "error", "drop" its problem, or "truncate-left" (keeps the end).
        completion_length: tokens of an answer.
        end_rule: which tokens are the action: up to the first end token, "inclusive" or "exclusive" of it (at least
            one token), or the whole "canvas", end tokens that fill it included.
        after_end: how the model sees what comes after the end: as "mask" tokens, "keep" as it was decoded, or "drop".
        tokenizer: "model" for the one beside the model, "bytes", or "words" (countdown in the short style).
        numbers: how many numbers a countdown problem has, generated or taken from a training file; 0 takes all of a
            file.
        low: the smallest of them.
        high: the largest of them.
        target_high: the largest target of a generated countdown problem.
        solution_share: share of right answers in the pre-training of a small model; the rest has only the form.
    """

    name: Literal["gsm8k", "math", "countdown", "sudoku", "custom"] = "gsm8k"
    train_source: str = ""
    test_source: str = ""
    held_back: int = 500
    style: Literal["chat", "short"] = "chat"
    system: str = ""
    examples: Examples = ()
    instruction: str = ""
    shots: int = 0
    prefill: str = ""
    eval_prefill: str = ""
    rewards: str = "verify"
    reward_weights: str = ""
    completions: Literal["auto", "text", "messages"] = "auto"
    solved_at: float = 1.0
    parser: Literal["verify", "strict", "d1", "spg"] = "verify"
    max_prompt: int = 200
    overlong: Literal["error", "drop", "truncate-left"] = "error"
    completion_length: int = 256
    end_rule: Literal["inclusive", "exclusive", "canvas"] = "inclusive"
    after_end: Literal["mask", "keep", "drop"] = "mask"
    tokenizer: Literal["model", "bytes", "words"] = "model"
    numbers: int = 3
    low: int = 1
    high: int = 99
    target_high: int = 99
    solution_share: float = 0.0

    def __post_init__(self) -> None:
        at_least(self, "task", 1, "max_prompt", "completion_length", "low", "target_high")
        at_least(self, "task", 0, "held_back", "numbers")
        require(self.high >= self.low, "task.high", self.high, f"give at least task.low ({self.low})")
        allowed = range(4) if self.name == "sudoku" else range(1)
        require(self.shots in allowed, "task.shots", self.shots, f"{self.name} has {len(allowed) - 1} worked examples")
        shares(self, "task", "solution_share")
        spoken = not (self.system or self.examples) or self.style == "chat"
        require(spoken, "task.style", self.style, "choose chat: a system's turn and examples are turns")
