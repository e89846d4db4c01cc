"""Tokenizers: texts come back, the chat layout is LLaDA's token by token, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dipod.errors import UserError
from dipod.policies.tokenizers import ByteTokenizer, HubTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from tests.checkpoints import llada_settings, write_tiny_dream, write_tiny_llada

TEXTS = ["", "2 + 2 = 4", "  spaces \n\n kept\t", "é ü 漢字 🙂", "<answer>\n5\n</answer>", "<|eot_id|>x<|endoftext|>"]
WORDS = ["1", "2", "12", "+", "=", "<answer>", "</answer>", "\n"]
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": " 1+1? \n"}]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text), keep_special=True) == text


def test_bytes_are_bytes_and_special_tokens_are_single() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé") == [97, 0xC3, 0xA9]
    assert tokenizer.encode("<|eot_id|>a<|mdm_mask|>") == [260, 97, tokenizer.mask_id]
    assert tokenizer.decode([97, 260, 98, tokenizer.eos_id]) == "ab"
    assert tokenizer.decode([0xC3, 97, 999]) == "\N{REPLACEMENT CHARACTER}a"
    assert (tokenizer.vocab_size, tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id) == (262, 261, 257, 257)


def test_the_chat_layout_token_by_token() -> None:
    """Begin, then for each turn: header, role, end of header, blank line, text, end of turn; then a header to go on."""
    bos, header, end_header, eot = 256, 258, 259, 260
    assert ByteTokenizer().chat(MESSAGES, "<think>") == [
        bos,
        *(header, *b"system", end_header, *b"\n\nbe brief", eot),
        *(header, *b"user", end_header, *b"\n\n1+1?", eot),
        *(header, *b"assistant", end_header, *b"\n\n<think>"),
    ]


def test_the_same_tokenizer_through_transformers(tmp_path: Path) -> None:
    """Written for the hub and read by ``AutoTokenizer`` it says the same; begin-of-text is there once."""
    pytest.importorskip("transformers")
    write_tiny_llada(tmp_path)
    ours, theirs = ByteTokenizer(), load_tokenizer(tmp_path)
    assert isinstance(theirs, HubTokenizer)
    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text)
        for keep in (False, True):
            assert theirs.decode(ours.encode(text), keep) == ours.decode(ours.encode(text), keep)
    assert theirs.chat(MESSAGES, "<think>") == ours.chat(MESSAGES, "<think>")
    assert theirs.chat(MESSAGES).count(256) == 1
    for name in ("vocab_size", "mask_id", "eos_id", "pad_id"):
        assert getattr(theirs, name) == getattr(ours, name)


def test_dream_needs_no_code_of_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_tiny_dream(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    start, end = 257, 258
    assert tokenizer.chat(MESSAGES[1:], "<think>") == [
        *(start, *b"user\n 1+1? \n", end, *b"\n"),
        *(start, *b"assistant\n<think>"),
    ]
    assert (tokenizer.vocab_size, tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id) == (261, 260, 256, 256)
    assert tokenizer.decode(tokenizer.encode("a é<|im_end|>  b ."), keep_special=True) == "a é<|im_end|>  b ."


@pytest.mark.parametrize("text", ["", "1 + 2 = 12", "<answer>\n12\n</answer>", "\n\n1\n", "<|user|> 1 <|eot_id|>"])
def test_words_round_trip(text: str) -> None:
    tokenizer = WordTokenizer(WORDS)
    assert tokenizer.decode(tokenizer.encode(text), keep_special=True) == text


def test_every_list_of_words_round_trips() -> None:
    tokenizer = WordTokenizer(WORDS)
    for first in range(tokenizer.vocab_size):
        for second in range(tokenizer.vocab_size):
            ids = [first, second, first]
            assert tokenizer.encode(tokenizer.decode(ids, keep_special=True)) == ids


def test_words_are_whole() -> None:
    tokenizer = WordTokenizer(WORDS)
    assert tokenizer.encode("12 + 1") == [2, 3, 0]
    assert tokenizer.decode([2, tokenizer.eos_id, 3, 999]) == "12 +"
    assert tokenizer.vocab_size == len(WORDS) + 7
    with pytest.raises(UserError, match="text = '21': not a word of this tokenizer"):
        tokenizer.encode("1 + 21")
    for text in ("1  + 2", " 1", "1 \n 2", "1\t2"):
        with pytest.raises(UserError, match="one space between two words"):
            tokenizer.encode(text)


def test_words_in_a_conversation() -> None:
    tokenizer = WordTokenizer(WORDS)
    bos, user, assistant, eot = (
        tokenizer.words.index(t) for t in ("<|startoftext|>", "<|user|>", "<|assistant|>", "<|eot_id|>")
    )
    assert tokenizer.chat([{"role": "user", "content": "1 + 2 "}], "<answer>\n") == [
        *(bos, user, 0, 3, 1, eot),
        *(assistant, 5, 7),
    ]
    with pytest.raises(UserError, match="role = 'tool'"):
        tokenizer.chat([{"role": "tool", "content": "1"}])


@pytest.mark.parametrize("words", [["a b"], [""], ["<|eot_id|>"], ["a\n"], ["a", "b", "a"]])
def test_words_that_cannot_be(words: list[str]) -> None:
    with pytest.raises(UserError, match="words = "):
        WordTokenizer(words)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), WordTokenizer(WORDS)])
def test_plain_tokenizers_lie_beside_the_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.encode("") == []
    assert (again.vocab_size, again.mask_id) == (tokenizer.vocab_size, tokenizer.mask_id)
    with pytest.raises(UserError, match=f"its ids reach {tokenizer.vocab_size - 1}, but the model's vocabulary has 5"):
        load_tokenizer(tmp_path, vocab_size=5)


def test_a_damaged_plain_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "dipod_tokenizer.json").write_text(json.dumps({"kind": "letters"}))
    with pytest.raises(UserError, match=r"dipod_tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_named(tmp_path: Path) -> None:
    """The model's vocabulary is what ``config.json`` beside the tokenizer says."""
    pytest.importorskip("transformers")
    write_tiny_llada(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(llada_settings(embedding_size=260, vocab_size=260)))
    with pytest.raises(UserError, match="its ids reach 261, but the model's vocabulary has 260"):
        load_tokenizer(tmp_path)


def test_the_mask_is_the_tokenizers_then_the_models_then_the_known_one(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_tiny_llada(tmp_path, mask_token_id=100)
    assert load_tokenizer(tmp_path).mask_id == 100
    ByteTokenizer().save_for_hub(tmp_path, mask_token=True)
    assert load_tokenizer(tmp_path).mask_id == 261
    ByteTokenizer().save_for_hub(tmp_path, mask_token=False)
    known = {k: v for k, v in llada_settings(embedding_size=126464).items() if k != "mask_token_id"}
    (tmp_path / "config.json").write_text(json.dumps(known))
    assert load_tokenizer(tmp_path).mask_id == 126336
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="name the mask"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"tokenizer = .*: no tokenizer there \(none of tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="these are adapters without a model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer = .*: cannot be read"):
        load_tokenizer(tmp_path)


def test_a_mask_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_tiny_llada(tmp_path, mask_token_id=264)
    with pytest.raises(UserError, match="mask token = 264: the model's vocabulary has 264 tokens"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_a_template_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_tiny_llada(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if "chat" not in k}))
    with pytest.raises(UserError, match="it has no chat template"):
        load_tokenizer(tmp_path).chat(MESSAGES)
    settings["chat_template"] = "{{ raise_exception('no system role') }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="refuses them"):
        load_tokenizer(tmp_path).chat(MESSAGES)
