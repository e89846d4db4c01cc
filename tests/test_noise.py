"""Noise is keyed: by what it is for, not by where or when it is drawn."""

from __future__ import annotations

import torch

from dipod.noise import Noise, derive, keyed_generator


def test_equal_keys_give_equal_numbers_and_others_do_not() -> None:
    first = torch.rand(4, generator=keyed_generator(0, "rollout", 3))
    assert torch.equal(first, torch.rand(4, generator=keyed_generator(0, "rollout", 3)))
    for key in ((1, "rollout", 3), (0, "corruption", 3), (0, "rollout", 4), (0, "rollout", 3, 0)):
        assert not torch.equal(first, torch.rand(4, generator=keyed_generator(*key)))


def test_keys_do_not_run_into_each_other() -> None:
    assert derive(1, 23) != derive(12, 3)


def test_a_row_has_its_own_stream_in_any_batch() -> None:
    whole = Noise.keyed(7, examples=range(5))
    numbers = [whole.uniform(3), whole.uniform(2, 2)]
    part = Noise.keyed(7, examples=[4, 1])
    assert torch.equal(part.uniform(3), numbers[0][[4, 1]])
    later = part[[1]]
    assert torch.equal(later.uniform(2, 2), numbers[1][[1]])


def test_padding_changes_neither_a_row_s_numbers_nor_later_ones() -> None:
    places = torch.tensor([[True, True, True], [False, True, True]])
    wide = torch.cat([torch.zeros(2, 2, dtype=torch.bool), places], 1)
    one, other = Noise.keyed(7, examples=range(2)), Noise.keyed(7, examples=range(2))
    narrow, padded = one.uniform_at(places, 4), other.uniform_at(wide, 4)
    assert torch.equal(padded[..., 2:], narrow)
    assert not padded[~wide[:, None].expand(-1, 4, -1)].any()
    assert torch.equal(one.uniform(2), other.uniform(2))
    assert torch.equal(narrow[0], Noise.keyed(7, examples=[0]).uniform(4, 3)[0]), "a full row draws as ever"


def test_numbers_are_uniform() -> None:
    numbers = Noise.keyed(0, examples=range(4000)).uniform(5)
    assert abs(float(numbers.mean()) - 0.5) < 4 * (1 / 12 / 20000) ** 0.5
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    between = torch.corrcoef(numbers.T) - torch.eye(5)
    assert float(between.abs().max()) < 5 / 4000**0.5
