"""Bounds over decoding orders: both sides of log π, for every way of decoding, against all orders enumerated."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.likelihood.exact import exact_likelihood, exact_path_eubo
from dipod.likelihood.paths import (
    importance_weighted_bound,
    order_log_weights,
    path_eubo,
    path_log_weights,
    random_orders,
)
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from tests.conftest import blank, build_policy, every_completion, noise, prompts


def test_path_weights_average_to_the_likelihood() -> None:
    policy = build_policy(4)
    valid = torch.arange(4) < torch.tensor([4, 2])[:, None]
    action = Tokens(every_completion(4)[[5, 60]], valid)
    score = policy.score(prompts(2), action)
    with torch.no_grad():
        weights = path_log_weights(score, valid, 3000, noise(len(valid)), rows_per_pass=5000)
        exact = exact_likelihood(score, valid)
        upper = exact_path_eubo(score, valid, 1.5)
    error = weights.exp().std(-1) / 3000**0.5
    assert ((weights.exp().mean(-1) - exact.log_prob.exp()).abs() <= 4 * error + 1e-9).all()
    error = weights.std(-1) / 3000**0.5
    assert ((weights.mean(-1) - exact.elbo).abs() <= 4 * error + 1e-9).all()
    torch.testing.assert_close(path_eubo(weights, 1.5), upper, atol=0.02, rtol=0.0)


def test_importance_weighted_bound_lies_between_elbo_and_log_prob() -> None:
    policy = build_policy(5)
    action = Tokens.full(every_completion(5)[[100]])
    score = policy.score(prompts(1), action)
    with torch.no_grad():
        exact = exact_likelihood(score, action.valid)
        weights = path_log_weights(score, action.valid, 4000, noise(len(action)))[0]
    means = [importance_weighted_bound(weights.reshape(-1, k)).mean() for k in (1, 4, 40)]
    assert exact.gap[0] > 0.1
    assert exact.elbo[0] - 0.05 < means[0] < means[1] < means[2] < exact.log_prob[0] + 0.01


def every_order(blocks: int, size: int, quotas: list[int]) -> Tensor:
    """All decoding orders, as steps of tokens, with ``quotas`` tokens at each step of a block; equally likely."""
    steps = [step for step, count in enumerate(quotas) for _ in range(count)]
    within = [torch.tensor([steps[rank] for rank in ranks]) for ranks in permutations(range(size))]
    parts = [[order + block * len(quotas) for order in within] for block in range(blocks)]
    return torch.stack([torch.cat(chosen) for chosen in product(*parts)])


@pytest.mark.parametrize(
    ("blocks", "steps", "quotas"), [(1, 0, [1, 1, 1, 1]), (2, 1, [2]), (2, 2, [1, 1]), (1, 3, [2, 1, 1])]
)
def test_the_orders_of_every_decoding_are_its_own_and_make_a_distribution(
    blocks: int, steps: int, quotas: list[int]
) -> None:
    policy, size = build_policy(4), 4 // blocks
    action = Tokens.full(every_completion(4))
    orders = every_order(blocks, size, quotas)
    drawn = random_orders(action.valid[:1], 3000, noise(1), blocks, steps)[0]
    known = {tuple(order.tolist()) for order in orders}
    counts = torch.tensor([int((drawn == torch.tensor(order)).all(-1).sum()) for order in known])
    assert counts.sum() == 3000
    assert (counts / 3000 - 1 / len(known)).abs().max() < 0.03
    with torch.no_grad():
        log_weights = order_log_weights(policy.score(prompts(81), action), orders.expand(81, -1, -1))
    assert float(importance_weighted_bound(log_weights).exp().sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("config", [SamplerConfig(), SamplerConfig(block_length=2, steps=2), SamplerConfig(steps=4)])
def test_orders_are_spread_as_the_samplers_are(config: SamplerConfig) -> None:
    policy = build_policy(6)
    valid = torch.arange(6) < torch.tensor([6, 5, 3] * 40)[:, None]
    if config.block_length:
        config = SamplerConfig(block_length=3, steps=4)
    sample = policy.sample(prompts(len(valid)), blank(valid), config, noise(len(valid)))
    blocks, steps = config.blocks_of(6)
    drawn = random_orders(valid, 1, noise(len(valid), seed=1), blocks, steps if config.steps else 0)[:, 0]
    assert (drawn.sort(-1).values == sample.order.sort(-1).values).all()
    blockwise = (drawn.unflatten(1, (blocks, -1)).amin(-1), sample.order.unflatten(1, (blocks, -1)).amin(-1))
    assert (blockwise[0] == blockwise[1]).all()


@pytest.mark.parametrize("decoding", [(1, 0), (2, 0), (1, 2)])
def test_with_a_samples_own_order_the_bound_is_from_above(decoding: tuple[int, int]) -> None:
    """E log-mean-exp of fresh orders ≤ E log π ≤ the same with one's own order among them; both close in."""
    policy, count, (blocks, steps) = build_policy(4, sharpness=60.0), 2000, decoding
    config = SamplerConfig(block_length=4 // blocks, steps=blocks * steps)
    valid = torch.ones(count, 4, dtype=torch.bool)
    sample = policy.sample(prompts(count), blank(valid), config, noise(count))
    score = policy.score(prompts(count), Tokens(sample.ids, valid))
    quotas = [4 // blocks // steps] * steps if steps else [1] * (4 // blocks)
    with torch.no_grad():
        every = order_log_weights(score, every_order(blocks, 4 // blocks, quotas).expand(count, -1, -1))
        exact = importance_weighted_bound(every)
        own = order_log_weights(score, sample.order[:, None])
        fresh = order_log_weights(score, random_orders(valid, 32, noise(count, seed=1), blocks, steps))
    for paths in (2, 8, 32):
        low = importance_weighted_bound(fresh[:, :paths]) - exact
        high = importance_weighted_bound(torch.cat([own, fresh[:, : paths - 1]], 1)) - exact
        error = torch.maximum(low.std(), high.std()) / count**0.5
        assert low.mean() < 3 * error
        assert high.mean() > -3 * error
    assert low.mean() > -0.05
    assert high.mean() < 0.05


def test_the_gradient_over_orders_is_unbiased_with_ones_own_among_them() -> None:
    """E over (own order ~ posterior, one fresh) of Σ w̃_k ∇log w_k = ∇log π, by enumeration."""
    policy = build_policy(3, sharpness=60.0)
    action = Tokens.full(torch.tensor([[0, 2, 1]]))
    orders = every_order(1, 3, [1, 1, 1])
    parameters = list(policy.network.parameters())
    log_weights = order_log_weights(policy.score(prompts(1), action), orders[None])[0]
    posterior = log_weights.detach().softmax(0)
    surrogate = torch.zeros((), dtype=torch.float64)
    for own, fresh in product(range(6), range(6)):
        pair = log_weights[[own, fresh]]
        surrogate = surrogate + posterior[own] / 6 * (pair.detach().softmax(0) * pair).sum()
    found = torch.autograd.grad(surrogate, parameters, retain_graph=True)
    exact = torch.autograd.grad(importance_weighted_bound(log_weights), parameters)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)


def test_padding_changes_no_order_and_no_later_number() -> None:
    valid = torch.arange(4) < torch.tensor([4, 2])[:, None]
    wide = torch.cat([valid, torch.zeros(2, 4, dtype=torch.bool)], 1)
    one, other = noise(2), noise(2)
    assert torch.equal(random_orders(wide, 3, other, blocks=2)[..., :4], random_orders(valid, 3, one))
    assert torch.equal(one.uniform(2), other.uniform(2))


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"order = 0\.5"):
        path_eubo(torch.zeros(1, 2), 0.5)
    with pytest.raises(UserError, match="paths = 0"):
        random_orders(torch.ones(1, 2, dtype=torch.bool), 0, noise(1))
