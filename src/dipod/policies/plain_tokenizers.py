"""Tokenizers without a library: bytes, and the words of a small fixed vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import make_folder, write_json

PLAIN_FILE = "dipod_tokenizer.json"
BOS, EOS, EOT, MASK = "<|startoftext|>", "<|endoftext|>", "<|eot_id|>", "<|mdm_mask|>"
END_TOKENS = (EOS, EOT, "<|im_end|>", "<|end_of_text|>")
"""What ends a generation: LLaDA's end of text and end of turn, Dream's end of turn, Llama's end of text."""
HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '" + HEADER + "' + message['role'] + '" + END_HEADER + "\\n\\n' + message['content'] | trim + '" + EOT + "' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '" + HEADER + "assistant" + END_HEADER + "\\n\\n' }}{% endif %}"
)

Messages = Sequence[Mapping[str, str]]
"""A conversation: ``role`` and ``content`` of each turn."""


class ByteTokenizer:
    """256 bytes of UTF-8 and LLaDA's special tokens, with LLaDA's chat layout; special tokens in a text count as such.

    Attributes:
        vocab_size: number of ids.
        mask_id: the token that hides another.
        eos_id: end of text.
        pad_id: padding, the same token.
        end_ids: the tokens that end a generation.
        gaps: ids below ``vocab_size`` that are no token: none.
    """

    gaps: tuple[int, ...] = ()
    SPECIAL = (BOS, EOS, HEADER, END_HEADER, EOT, MASK)

    def __init__(self) -> None:
        self._ids = {token: 256 + index for index, token in enumerate(self.SPECIAL)}
        self._split = re.compile("(" + "|".join(map(re.escape, self.SPECIAL)) + ")")
        self.vocab_size = 256 + len(self.SPECIAL)
        self.mask_id, self.eos_id, self.pad_id = self._ids[MASK], self._ids[EOS], self._ids[EOS]
        self.end_ids = frozenset(self._ids[token] for token in (EOS, EOT))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is put before or behind it."""
        ids: list[int] = []
        for part in self._split.split(text):
            ids.extend([self._ids[part]] if part in self._ids else part.encode())
        return ids

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become the replacement character, ids beyond the vocabulary nothing."""
        parts = bytearray()
        for token in ids:
            if token < 256:
                parts.append(token)
            elif keep_special and token < self.vocab_size:
                parts.extend(self.SPECIAL[token - 256].encode())
        return parts.decode(errors="replace")

    def chat(self, messages: Messages, prefill: str = "") -> list[int]:
        """A conversation up to the header of the assistant's turn, which ``prefill`` begins."""
        turns = [f"{HEADER}{turn['role']}{END_HEADER}\n\n{turn['content'].strip()}{EOT}" for turn in messages]
        begin = BOS if messages else ""
        return self.encode(f"{begin}{''.join(turns)}{HEADER}assistant{END_HEADER}\n\n{prefill}")

    def save(self, folder: Path | str) -> None:
        """Write ``dipod_tokenizer.json``."""
        write_json(make_folder(Path(folder)) / PLAIN_FILE, {"kind": "bytes"})

    def save_for_hub(self, folder: Path | str, mask_token: bool = True) -> None:
        """Write the same tokenizer as ``AutoTokenizer`` of transformers reads it.

        Args:
            folder: made if need be.
            mask_token: say which token is the mask; LLaDA's own files leave it to the model's configuration.

        Raises:
            UserError: the tokenizers library is not installed.
        """
        library, folder = load_extra("tokenizers"), make_folder(Path(folder))
        vocabulary = {letter: byte for byte, letter in enumerate(byte_letters())}
        tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        tokenizer.add_special_tokens([library.AddedToken(token, normalized=False) for token in self.SPECIAL])
        tokenizer.save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {
            "add_bos_token": False,
            "bos_token": BOS,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": EOS,
            "model_max_length": 4096,
            "pad_token": EOS,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        write_json(folder / "tokenizer_config.json", settings | ({"mask_token": MASK} if mask_token else {}))


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself where it can be seen."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(hidden)) for byte in range(256)]


class WordTokenizer:
    r"""Whole words of a fixed vocabulary; between two words stands one space, beside a line break none.

    Texts and ids are the same thing said twice: every text that `encode` takes comes back from `decode`, and every
    list of ids from `encode`. A line break is the word ``"\n"``. A turn of a conversation is its role's token, its
    words and the end of the turn.

    Args:
        words: the vocabulary in the order of its ids, special tokens come behind it.

    Attributes:
        vocab_size: number of ids.
        mask_id: the token that hides another.
        eos_id: end of text.
        pad_id: padding, the same token.
        end_ids: the tokens that end a generation.
        gaps: ids below ``vocab_size`` that are no token: none.
    """

    gaps: tuple[int, ...] = ()
    SPECIAL = (BOS, EOS, "<|system|>", "<|user|>", "<|assistant|>", EOT, MASK)

    def __init__(self, words: Sequence[str]) -> None:
        for word in words:
            plain = isinstance(word, str) and (word == "\n" or re.fullmatch(r"\S+", word) is not None)
            require(plain and word not in self.SPECIAL, "words", word, "give a word without spaces, not a special one")
        self.words = (*words, *self.SPECIAL)
        self._ids = {word: index for index, word in enumerate(self.words)}
        twice = sorted({word for word in words if words.count(word) > 1})
        require(not twice, "words", twice, "give each word once")
        self.vocab_size = len(self.words)
        self.mask_id, self.eos_id, self.pad_id = self._ids[MASK], self._ids[EOS], self._ids[EOS]
        self.end_ids = frozenset(self._ids[token] for token in (EOS, EOT))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is put before or behind it.

        Raises:
            UserError: a word is not in the vocabulary, or spaces stand where `decode` would not put them.
        """
        words = re.findall(r"\n|[^\s]+", text)
        unknown = [word for word in words if word not in self._ids]
        if unknown:
            raise UserError("text", unknown[0], "not a word of this tokenizer")
        ids = [self._ids[word] for word in words]
        same = self.decode(ids, keep_special=True) == text
        require(same, "text", text, "put one space between two words and none beside a line break")
        return ids

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of ids; ids beyond the vocabulary become nothing."""
        text = ""
        for token in ids:
            if token < (self.vocab_size if keep_special else self.vocab_size - len(self.SPECIAL)):
                word = self.words[token]
                text += word if not text or word == "\n" or text.endswith("\n") else f" {word}"
        return text

    def chat(self, messages: Messages, prefill: str = "") -> list[int]:
        """A conversation up to the token of the assistant's turn, which ``prefill`` begins.

        Raises:
            UserError: a role other than system, user and assistant, or a text that `encode` refuses.
        """
        ids = [self._ids[BOS]] if messages else []
        for turn in messages:
            role = self._ids.get(f"<|{turn['role']}|>")
            if role is None or turn["role"] not in {"system", "user", "assistant"}:
                raise UserError("role", turn["role"], "choose from system, user and assistant")
            ids += [role, *self.encode(turn["content"].strip()), self._ids[EOT]]
        return [*ids, self._ids["<|assistant|>"], *self.encode(prefill)]

    def save(self, folder: Path | str) -> None:
        """Write ``dipod_tokenizer.json``."""
        words = self.words[: -len(self.SPECIAL)]
        write_json(make_folder(Path(folder)) / PLAIN_FILE, {"kind": "words", "words": list(words)})
