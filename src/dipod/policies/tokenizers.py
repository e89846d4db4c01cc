"""Tokenizers: the hub's through transformers, and two plain ones that need no library."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import make_folder, write_json
from dipod.policies.hub import CONFIG_FILE, HUB_NAME, fetch, located, read_json
from dipod.policies.lora import ADAPTER_CONFIG
from dipod.policies.plain_tokenizers import END_TOKENS, PLAIN_FILE, ByteTokenizer, Messages, WordTokenizer

__all__ = ["ByteTokenizer", "HubTokenizer", "Messages", "Tokenizer", "WordTokenizer", "load_tokenizer"]

SETTINGS_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    SETTINGS_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
)
MASK_IDS = {"llada": 126336, "dream": 151666}
"""For folders that name the mask neither in the tokenizer nor in the model's configuration."""


class Tokenizer(Protocol):
    """Between text and token ids."""

    vocab_size: int
    mask_id: int
    eos_id: int
    pad_id: int
    end_ids: frozenset[int]
    gaps: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is put before or behind it."""
        ...

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of ids, without special tokens unless they are to be kept."""
        ...

    def chat(self, messages: Messages, prefill: str = "") -> list[int]:
        """A conversation in the model's layout, up to the header of the assistant's turn, then ``prefill``."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the tokenizer beside a model."""
        ...


class HubTokenizer:
    """A tokenizer of transformers.

    Args:
        tokenizer: what ``AutoTokenizer`` gave.
        mask_id: the token that hides another.
        folder: the files it was read from, which `save` copies.
        repository: where its code stands, for other programs, if it needs any.

    Attributes:
        vocab_size: one more than the largest id.
        mask_id: the token that hides another.
        eos_id: end of text.
        pad_id: padding; the end of text where the tokenizer has none.
        end_ids: the tokens that end a generation: the end of text, and ends of a turn that are known by name.
        gaps: ids below ``vocab_size`` that are no token.

    Raises:
        UserError: the tokenizer has no end of text.
    """

    def __init__(self, tokenizer: Any, mask_id: int, folder: Path, repository: str = "") -> None:
        self.tokenizer, self.mask_id = tokenizer, mask_id
        self._folder, self._repository = folder, repository
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
        self.gaps = tuple(sorted(set(range(self.vocab_size)) - set(vocabulary.values())))
        eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        require(eos is not None, "tokenizer", str(folder), "it names neither an eos_token nor a sep_token")
        self.eos_id = int(eos)
        self.pad_id = self.eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        named = [vocabulary[token] for token in END_TOKENS if token in vocabulary]
        self.end_ids = frozenset([self.eos_id, *named])

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is put before or behind it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of ids, without special tokens unless they are to be kept."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=not keep_special, clean_up_tokenization_spaces=False)
        )

    def chat(self, messages: Messages, prefill: str = "") -> list[int]:
        """A conversation by the tokenizer's template, up to the header of the assistant's turn, then ``prefill``.

        Raises:
            UserError: there is no template, or it refuses the conversation.
        """
        require(bool(self.tokenizer.chat_template), "tokenizer", str(self._folder), "it has no chat template")
        template_error = load_extra("jinja2").TemplateError
        try:
            text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except template_error as error:
            raise UserError("messages", list(messages), f"the chat template refuses them ({error})") from error
        return self.encode(text + prefill)

    def save(self, folder: Path | str) -> None:
        """Copy the tokenizer's files."""
        folder = make_folder(Path(folder))
        if folder.resolve() == self._folder.resolve():
            return
        for name in TOKENIZER_FILES:
            if (self._folder / name).exists():
                shutil.copyfile(self._folder / name, folder / name)
        if self._repository and (folder / SETTINGS_FILE).exists():
            settings = read_json(folder / SETTINGS_FILE, "tokenizer")
            code = located(settings.get("auto_map", {}), self._repository)
            write_json(folder / SETTINGS_FILE, settings | ({"auto_map": code} if code else {}))


def load_tokenizer(name: str | Path, vocab_size: int | None = None, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, from its folder or the hub. No code of the folder is executed.

    Args:
        name: a folder, or a name on the hub.
        vocab_size: the number of the model's logits; by default what ``config.json`` beside the tokenizer says.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: none there, it cannot be read, its mask token is unknown, or it has ids that the model has not.
    """
    folder = fetch(name, revision, weights=False)
    settings = read_json(folder / CONFIG_FILE, "model") if (folder / CONFIG_FILE).exists() else {}
    if (folder / PLAIN_FILE).exists():
        tokenizer = _plain(read_json(folder / PLAIN_FILE, "tokenizer"), folder)
    else:
        tokenizer = _from_hub(folder, settings, str(name) if HUB_NAME.fullmatch(str(name)) else "")
    logits = vocab_size or settings.get("embedding_size") or settings.get("vocab_size")
    if logits is not None:
        mend = f"its ids reach {tokenizer.vocab_size - 1}, but the model's vocabulary has {logits}"
        require(tokenizer.vocab_size <= logits, "tokenizer", str(folder), mend)
        mend = f"the model's vocabulary has {logits} tokens; name the right one"
        require(tokenizer.mask_id < logits, f"{folder}, mask token", tokenizer.mask_id, mend)
    return tokenizer


def _plain(saved: dict[str, Any], folder: Path) -> Tokenizer:
    kind, words = saved.get("kind"), saved.get("words")
    if kind == "words" and isinstance(words, list):
        return WordTokenizer(words)
    require(kind == "bytes", "tokenizer", str(folder / PLAIN_FILE), "give kind bytes, or words with their list")
    return ByteTokenizer()


def _from_hub(folder: Path, model: dict[str, Any], repository: str) -> HubTokenizer:
    transformers = load_extra("transformers")
    adapters = (folder / ADAPTER_CONFIG).exists()
    mend = "these are adapters without a model; `dipod merge` makes one of a run" if adapters else "no tokenizer there"
    there = any((folder / name).exists() for name in TOKENIZER_FILES)
    require(there, "tokenizer", str(folder), f"{mend} (none of {', '.join(TOKENIZER_FILES[:2])}, ...)")
    about = read_json(folder / SETTINGS_FILE, "tokenizer") if (folder / SETTINGS_FILE).exists() else {}
    kind = str(model.get("model_type", "")).lower()
    try:
        if about.get("tokenizer_class") == "DreamTokenizer":  # Qwen2's under another name, with code of its own
            tokenizer = transformers.Qwen2Tokenizer.from_pretrained(folder)
            repository = repository or "Dream-org/Dream-v0-Instruct-7B"
        else:
            config = transformers.PreTrainedConfig() if kind in MASK_IDS else None
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, config=config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("tokenizer", str(folder), f"cannot be read ({str(error).splitlines()[0]})") from error
    named = (tokenizer.mask_token_id, model.get("mask_token_id"), MASK_IDS.get(kind))
    mask_id = next((token for token in named if token is not None), None)
    if mask_id is None:
        raise UserError("tokenizer", str(folder), f"name the mask: mask_token in {SETTINGS_FILE}")
    return HubTokenizer(tokenizer, int(mask_id), folder, repository)
