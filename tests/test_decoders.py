"""Decoders: what fits a completion, how they are typed, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dipod.decoders import AS_TRAINED, HOWS, NAMED, Decoder, parse_decoder, plan, usual_decoders
from dipod.errors import UserError
from dipod.policies.sampling import SamplerConfig


@pytest.mark.parametrize("length", [1, 2, 7, 8, 10, 256])
def test_the_usual_decoders_fit_and_can_be_typed(length: int) -> None:
    usual = usual_decoders(length, known=True)
    assert len({decoder.name for decoder in usual}) == len(usual)
    assert len({decoder.label for decoder in usual}) == len(usual)
    for decoder in usual:
        assert parse_decoder(decoder.name, length) == decoder
        blocks, steps = decoder.sampler(SamplerConfig(), length, 1.0).blocks_of(length)
        assert blocks * steps * decoder.tokens == length
    assert set(NAMED) <= {decoder.name for decoder in usual}
    assert not any(decoder.given != "nothing" for decoder in usual_decoders(length, known=False))


def test_blocks_and_tokens_a_step_are_divisors() -> None:
    of = {length: {decoder.name for decoder in usual_decoders(length, known=False)} for length in (7, 8, 10, 256)}
    assert {name for name in of[7] if "/" in name} == set()
    assert {name for name in of[10] if name.startswith("random/")} == {
        "random/block2",
        "random/block5",
        "random/tokens2",
    }
    assert {"random/tokens2", "random/tokens4", "random/tokens8", "random/block4"} <= of[8]
    assert {name for name in of[256] if "block" in name} == {"random/block2", "random/block16", "random/block128"}


def test_a_decoder_changes_nothing_but_order_blocks_steps_and_temperature() -> None:
    trained = SamplerConfig(0.9, "margin", 4, 4, noise="float64", cfg_scale=1.0, eos_stop=True, max_rows=3)
    for decoder in usual_decoders(8, known=True):
        changed = decoder.sampler(trained, 8, 0.0)
        same = {name: getattr(trained, name) for name in ("remasking", "block_length", "steps", "temperature")}
        assert changed.temperature == 0
        assert replace(changed, **same) == trained


@pytest.mark.parametrize(
    ("trained", "name"),
    [
        (SamplerConfig(), "random"),
        (SamplerConfig(block_length=8, steps=8), "random"),
        (SamplerConfig(remasking="low_confidence", steps=4), "low_confidence/tokens2"),
        (SamplerConfig(noise="float64"), "random"),
        (SamplerConfig(temperature=0.9), AS_TRAINED),
        (SamplerConfig(remasking="margin", block_length=4), AS_TRAINED),
    ],
)
def test_the_row_of_training_is_known_or_added(trained: SamplerConfig, name: str) -> None:
    usual = usual_decoders(8, known=True)
    found, plans = plan(trained, usual, 8)
    assert found == name
    assert [row.name for row in plans] == ([AS_TRAINED] if name == AS_TRAINED else []) + [d.name for d in usual]
    own = next(row for row in plans if row.name == name)
    assert own.samplers["sampled"].blocks_of(8) == trained.blocks_of(8)
    assert own.samplers["sampled"].temperature == trained.temperature
    assert all(row.samplers["greedy"].temperature == 0 for row in plans)
    assert all(tuple(row.samplers) == HOWS for row in plans)


def test_cost() -> None:
    rows = {row.name: row.forward_rows(8, 5) for row in plan(SamplerConfig(), usual_decoders(8, known=True), 8)[1]}
    assert rows["random"] == rows["left_to_right"] == rows["random/block4"] == 2 * 5 * 8
    assert rows["random/tokens2"] == 2 * 5 * 4
    assert rows["random/tokens8"] == 2 * 5
    assert rows["infill_suffix"] == 2 * 5 * 4
    guided = plan(SamplerConfig(cfg_scale=1.0), [Decoder()], 8)[1]
    assert guided[0].forward_rows(8, 5) == 2 * rows["random"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("best", "choose from random, low_confidence, entropy, margin, left_to_right, infill_random, infill_suffix"),
        ("random/tokens", "choose from random"),
        ("random/tokens0", "choose from random"),
        ("", "choose from random"),
        ("random/tokens3", "give tokens a step that divide the completion: 1, 2, 4, 8"),
        ("left_to_right/tokens3", "give tokens a step that divide the completion: 1, 2, 4, 8"),
        ("random/block3", "give a block that divides the completion: 1, 2, 4, 8"),
        ("random/block2/tokens4", "give tokens a step that divide the block: 1, 2"),
        ("left_to_right/block2", "left to right has no blocks"),
        ("infill_suffix/tokens2", "give infill_suffix, which has neither"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match="decoders = ") as error:
        parse_decoder(text, 8)
    assert complaint in str(error.value)
