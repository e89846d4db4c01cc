"""A text task as the trainer sees it: prompts and completions are tokens, rewards are taken on their text."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dipod.errors import UserError, require
from dipod.noise import keyed_generator
from dipod.policies.tokenizers import ByteTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from dipod.policies.tokens import Tokens
from dipod.tasks.protocol import Split, Vocabulary
from dipod.tasks.text.calling import RESERVED, Prompt, missing
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.mixtures import Rows, Source, places
from dipod.tasks.text.parsers import PUBLISHED_NAMES
from dipod.tasks.text.prompts import with_context
from dipod.tasks.text.questions import EXAMPLES, Questions, short_question
from dipod.tasks.text.rewards import REWARDS
from dipod.tasks.text.rows import DataNote, Row
from dipod.tasks.text.subject import Subject, build_subject, total_reward
from dipod.tasks.text.tags import spoken

COUNTDOWN_WORDS = ("numbers", "target", "<answer>", "</answer>", "+", "-", "*", "/", "(", ")")


class OverlongPrompts(DataNote):
    """Problems are left out, or cut, because their prompts are too long."""


@dataclass
class TextTask:
    """Questions in, answers out; see `dipod.tasks.protocol.Task`.

    Args:
        config: lengths, rules and sources.
        tokenizer: between text and tokens.
        subject: what it is about.

    Attributes:
        notes: what was done to problems of a split whose prompts are too long, in words; known once they were read.
    """

    config: TextConfig
    tokenizer: Tokenizer
    subject: Subject
    notes: dict[Split, str] = field(default_factory=dict, repr=False)
    _last: tuple[Questions, Tensor, Tensor] | None = field(default=None, repr=False)
    _rows: dict[Split, Sequence[Row] | None] = field(default_factory=dict, repr=False)
    _kept: dict[Split, Questions | None] = field(default_factory=dict, repr=False)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's; completions hold no padding (unless it ends the text too) and no ids without a token."""
        tokenizer, config = self.tokenizer, self.config
        padding = () if tokenizer.pad_id == tokenizer.eos_id else (tokenizer.pad_id,)
        axes = (config.max_prompt + config.completion_length,)
        return Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, (*padding, *tokenizer.gaps), axes)

    @property
    def completion_length(self) -> int:
        """Tokens of the canvas that an answer is decoded on."""
        return self.config.completion_length

    @property
    def eos_id(self) -> int | None:
        """The end of the text."""
        return self.tokenizer.eos_id

    def draw(self, count: int, split: Split, seed: int, step: int) -> Questions:
        """Problems of one step: the next ones of a shuffled file, every epoch in another order, or new ones."""
        kept = self._file(split)
        if kept is None:
            return self._made(count, split, keyed_generator(seed, "problems", step))
        wanted = range(step * count, (step + 1) * count)
        weights = [source.weight for source in self._sources(split) if source.weight is not None]
        return kept.pick(places(kept.parts or [0] * len(kept), weights, seed, wanted))

    def held_out(self, count: int) -> Questions:
        """The first ``count`` problems of each test set, or new ones that depend on the settings alone."""
        kept = self._file("test")
        if kept is None:
            return self._made(count, "test", keyed_generator("held out"))
        if not kept.parts:
            return kept[:count]
        return kept.pick(i for i, part in enumerate(kept.parts) if i - kept.parts.index(part) < count)

    def sets(self, problems: Questions) -> list[str]:
        """Of each problem of `held_out`, the name of its test set; nothing where there is one set."""
        names = [source.name for source in self._sources("test")]
        return [names[part] for part in problems.parts]

    def size(self) -> int | None:
        """How many training problems there are; None where they are made without end."""
        kept = self._file("train")
        return None if kept is None else len(kept)

    def _sources(self, split: Split) -> Sequence[Source]:
        """The several sources of a split; none where there is one."""
        rows = self.rows(split)
        return rows.sources if isinstance(rows, Rows) else ()

    def example(self) -> Questions:
        """A made-up problem, for showing a prompt where no data can be read."""
        if self.subject.make is not None:
            return self._made(1, "train", keyed_generator("example"))
        return self._ask([EXAMPLES[self.config.name]], "train")

    def _file(self, split: Split) -> Questions | None:
        """The problems of a file or dataset, read once; None where problems are made."""
        if split not in self._kept:
            rows = self.rows(split)
            self._kept[split] = None if rows is None else self._ask(rows, split)
        return self._kept[split]

    def rows(self, split: Split) -> Sequence[Row] | None:
        """The problems of a file or dataset, every one with every column (None where it has none), read once.

        None where problems are made. Columns that rewards want and only the training problems have are there as well.

        Raises:
            UserError: a source that cannot be read, or no row with a column that a reward function wants.
        """
        if split not in self._rows:
            found = self.subject.rows(split)
            if found is None and self.subject.make is not None:  # one problem shows what can be wrong with them
                self._completed(self.subject.make(1, split, keyed_generator("example")), split)
            self._rows[split] = None if found is None else self._completed(found, split)
        return self._rows[split]

    def _completed(self, rows: Sequence[Row], split: Split) -> Sequence[Row]:
        names = list(dict.fromkeys(name for row in rows for name in row))
        if split == "test" and missing(self.subject.rewards, names) is not None:
            names = list(dict.fromkeys([*names, *(name for row in (self.rows("train") or [])[:1] for name in row)]))
        problem = missing(self.subject.rewards, [name for name in names if name not in RESERVED])
        if problem is not None:
            raise problem
        for name in sorted(set(RESERVED).intersection(names)):
            said = f"reward functions are not given the column {name!r}: they have an argument of that name"
            warnings.warn(said, DataNote, stacklevel=2)
        filled = [{name: row.get(name) for name in names} for row in rows]
        return replace(rows, rows=filled) if isinstance(rows, Rows) else filled

    def _made(self, count: int, split: Split, generator: torch.Generator) -> Questions:
        if self.subject.make is None:
            raise UserError("task", self.subject.name, "it has no problems; name a source")
        return self._ask(self.subject.make(count, split, generator), split, made=True)

    def _ask(self, rows: Sequence[Row], split: Split, made: bool = False) -> Questions:
        """Problems with their prompts, none longer than the limit.

        Args:
            rows: the problems.
            split: that they are of.
            made: they were asked for by number, so that none may be left out.

        Raises:
            UserError: a longer one, unless the settings say what to do with it; or no problem that is short enough.
        """
        config, prompts = self.config, [self._prompt(row, split) for row in rows]
        limit, sizes = config.max_prompt, [len(prompt) for prompt in prompts]
        kept = [i for i, size in enumerate(sizes) if size <= limit]
        many = f"{len(rows) - len(kept)} of {len(rows)} {split} prompts are longer"
        if len(kept) < len(rows) and (config.overlong == "error" or (made and config.overlong == "drop")):
            ways = "truncate-left" if made else "drop or truncate-left"
            mend = f"{many}, up to {max(sizes)} tokens; raise it, or set task.overlong to {ways}"
            raise UserError("task.max_prompt", limit, mend)
        if config.overlong == "truncate-left":
            kept = list(range(len(rows)))
        require(len(kept) > 0, "task.max_prompt", limit, f"every {split} prompt is longer, from {min(sizes)} tokens on")
        if max(sizes) > limit:
            fate = "left out" if config.overlong == "drop" else "cut at their beginning"
            self.notes[split] = f"{many} than task.max_prompt ({limit} tokens) and {fate}"
            warnings.warn(self.notes[split], OverlongPrompts, stacklevel=2)
        parts = tuple(rows.parts[i] for i in kept) if isinstance(rows, Rows) else ()
        sources = rows.sources if isinstance(rows, Rows) else ()
        lost = next((source.place for part, source in enumerate(sources) if part not in parts), None)
        mend = f"all its prompts are longer than task.max_prompt ({limit} tokens)"
        require(lost is None, f"task.{split}_source", lost, mend)
        return Questions(tuple(dict(rows[i]) for i in kept), tuple(tuple(prompts[i][-limit:]) for i in kept), parts)

    def _prompt(self, row: Row, split: Split) -> list[int]:
        prefill = self.config.prefill if split == "train" else self.config.eval_prefill
        if self.config.style == "short":
            return self.tokenizer.encode(short_question(row) + prefill)
        return self.tokenizer.chat(self._conversation(row, split), prefill)

    def _conversation(self, row: Row, split: Split) -> list[dict[str, str]]:
        """A problem as the model is asked, with the system's turn and the examples."""
        ask, config = self.subject.messages, self.config
        examples = [(ask({"question": question}, split), answer) for question, answer in config.examples]
        return with_context(ask(row, split), config.system, examples)

    def observe(self, problems: Questions) -> Tokens:
        """The prompts, padded on the left, [B, P]."""
        width = max(map(len, problems.prompts))
        ids = torch.full((len(problems), width), self.tokenizer.pad_id)
        valid = torch.zeros(ids.shape, dtype=torch.bool)
        for row, prompt in enumerate(problems.prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            valid[row, width - len(prompt) :] = True
        return Tokens(ids, valid)

    def blank(self, problems: Questions) -> Tokens:
        """An empty canvas for each problem, [B, L]."""
        return Tokens.full(torch.full((len(problems), self.completion_length), self.tokenizer.mask_id))

    def complete(self, problems: Questions, completion: Tensor) -> tuple[Tokens, Tensor]:
        """Which tokens are the action, and what the model sees behind its end (``end_rule``, ``after_end``)."""
        del problems
        length = completion.shape[1]
        ends = completion == self.tokenizer.eos_id
        first = torch.where(ends.any(-1), ends.int().argmax(-1), length)
        counts = {"inclusive": (first + 1).clamp_max(length), "exclusive": first.clamp_min(1)}
        count = counts.get(self.config.end_rule, torch.full_like(first, length))
        counted = torch.arange(length) < count[:, None]
        if self.config.after_end == "mask":
            return Tokens.full(completion.masked_fill(~counted, self.tokenizer.mask_id)), counted
        if self.config.after_end == "drop":
            return Tokens(completion, counted), counted
        return Tokens.full(completion), counted

    def texts(self, completion: Tensor) -> list[str]:
        """Completions as text up to their first end of text or of a turn; special tokens before it stay as they are."""
        ends = self.tokenizer.end_ids
        return [spoken(self.tokenizer.decode(_until(ids, ends), keep_special=True)) for ids in completion.tolist()]

    def reward(self, problems: Questions, completion: Tensor) -> Tensor:
        """The weighted sum of the reward functions on the completions' text, [B].

        The released code read on behind the end of a turn, up to the end of the text, and so do its rewards.
        """
        return self._rewarded(problems, completion).clone()

    def _rewarded(self, problems: Questions, completion: Tensor) -> Tensor:
        """The same; asked again for the same batch, no function is called again."""
        if self._last is None or self._last[0] is not problems or self._last[1] is not completion:
            self._last = (problems, completion, self._called(problems, completion))
        return self._last[2]

    def _called(self, problems: Questions, completion: Tensor) -> Tensor:
        prompts = [self._asked(*asked) for asked in zip(problems.prompts, problems.rows, strict=True)]
        texts, subject, ends = self.texts(completion), self.subject, self.tokenizer.end_ids
        if self.config.name in REWARDS and self.config.rewards.startswith("released"):
            ends = frozenset({self.tokenizer.eos_id})
            texts = [self.tokenizer.decode(_until(ids, ends)) for ids in completion.tolist()]
        ids = [row[: len(_until(row, ends)) + 1] for row in completion.tolist()]
        return torch.tensor(total_reward(subject.rewards, prompts, texts, problems.rows, subject.weights, ids))

    def _asked(self, prompt: Sequence[int], row: Row) -> Prompt:
        """A prompt as reward functions are given it."""
        form = self.config.completions
        if form == "messages" or (form == "auto" and row.get("messages") is not None):
            return self._conversation(row, "train")
        return self.tokenizer.decode(prompt)

    def solved(self, problems: Questions, completion: Tensor) -> Tensor:
        """[B] bool: the answer is right as a whole, by the parser of the settings.

        The published parsers get the whole canvas with its special tokens, as the published evaluations gave it. Where
        a problem has no right answer, its reward decides.
        """
        texts = self.texts(completion)
        if self.config.name in REWARDS and self.config.parser in PUBLISHED_NAMES:
            texts = [self.tokenizer.decode(ids, keep_special=True) for ids in completion.tolist()]
        grades = [self.subject.grade(text, row) for text, row in zip(texts, problems.rows, strict=True)]
        by_reward = torch.zeros(len(grades)) if None not in grades else self._rewarded(problems, completion)
        high = (by_reward >= self.subject.solved_at).tolist()
        return torch.tensor([h if grade is None else grade.solved for grade, h in zip(grades, high, strict=True)])

    def show(self, problems: Questions, completion: Tensor) -> list[dict[str, Any]]:
        """Prompts, right answers and completions."""
        rows = zip(problems.prompts, problems.rows, self.texts(completion), strict=True)
        return [
            {"prompt": self.tokenizer.decode(p), "reference": self.subject.reference(row), "completion": text}
            for p, row, text in rows
        ]

    def prior(self, count: int, generator: torch.Generator) -> tuple[Tokens, Tokens, Tensor]:
        """Prompts and answers that pre-training imitates, filled up with end tokens, and the tokens that count.

        Raises:
            UserError: the task has none, or an answer is longer than the canvas.
        """
        imitate = self.subject.imitate
        if imitate is None:
            raise UserError("model.path", "", f"{self.subject.name} has no small base model of its own; name a model")
        problems = self._made(count, "train", generator)
        length, end = self.completion_length, self.tokenizer.eos_id
        texts = [imitate(row, generator) for row in problems.rows]
        answers = [[*self.tokenizer.encode(text), end] for text in texts]
        most = max(map(len, answers))
        require(most <= length, "task.completion_length", length, f"answers need up to {most} tokens; raise it")
        ids = torch.tensor([answer + [end] * (length - len(answer)) for answer in answers])
        return self.observe(problems), *self.complete(problems, ids)


def _until(ids: Sequence[int], ends: Collection[int]) -> Sequence[int]:
    return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]


def build_text_task(config: TextConfig, model: str = "", revision: str = "") -> TextTask:
    """The task with its tokenizer: that of the model, at its revision on the hub, or one of the small ones.

    Raises:
        UserError: no tokenizer there, or settings that do not go together.
    """
    if config.tokenizer == "words":
        fits = config.name == "countdown" and config.style == "short"
        require(fits, "task.tokenizer", "words", "its words are those of countdown in the short style")
        largest = max(config.high, config.target_high)
        tokenizer: Tokenizer = WordTokenizer([*COUNTDOWN_WORDS, *map(str, range(largest + 1))])
    elif config.tokenizer == "bytes":
        tokenizer = ByteTokenizer()
    else:
        require(bool(model), "model.path", model, "name the model whose tokenizer is used, or choose task.tokenizer")
        tokenizer = load_tokenizer(model, revision=revision or None)
    return TextTask(config, tokenizer, build_subject(config))
