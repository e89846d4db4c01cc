"""Angles from scalar products of noisy gradients, with their errors.

A cosine of two noisy vectors is small whatever the angle. Products of independent estimates are not: their noise
averages out. So a gradient is kept as J parts, one for each block of actions, and each part is estimated twice; the
products that make an angle are then free of noise in the mean. How sure they are says the jackknife with two replicates
a stratum: what changes when one of the two estimates of one part is left out. Products of several looks add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CLEAR = 2.0
"""A squared norm that is fewer standard errors above zero than this is noise, and so is the angle made of it."""

Kind = Literal["exact", "estimate"]


@dataclass(frozen=True)
class Alignment:
    """How the estimator's gradient g = Σ_i A_i ∇proxy_i stands to the policy gradient h = Σ_i A_i ∇log π_i.

    Both sums are over the same actions and weigh them alike: the angle is that of this batch, and its errors are those
    of masks, noise samples and decoding orders. u = g + β Σ_i ∇ELBO_i is the direction of the update as it is made,
    before clipping, the optimiser's scaling and a KL penalty.

    Attributes:
        cosine: of the angle between g and h; NaN where a gradient vanishes or is below noise.
        drift_share: ‖g - h‖ / ‖h‖, the gap's part over the likelihood's; NaN likewise, and where g is not in nats.
        kind: "exact" or "estimate".
        cosine_error: standard error of `cosine`; 0 where it is exact.
        share_error: that of `drift_share`.
        update_cosine: of the angle between u and h; `cosine` where β is 0.
        update_error: its standard error.
        below_noise: whether a squared norm is within two standard errors of zero, so that there is no angle to tell.
        products: what angles of several looks are pooled from.
    """

    cosine: float
    drift_share: float
    kind: Kind
    cosine_error: float = 0.0
    share_error: float = 0.0
    update_cosine: float = math.nan
    update_error: float = math.nan
    below_noise: bool = False
    products: Products | None = None

    def numbers(self) -> dict[str, float | int | str]:
        """What a line of metrics says of it: what there is to say, and of what kind it is."""
        kind = "below noise" if self.below_noise else self.kind
        named = {"cosine": self.cosine, "drift_share": self.drift_share, "update_cosine": self.update_cosine}
        if self.kind == "estimate":
            errors = (self.cosine_error, self.share_error, self.update_error)
            named |= {f"{name}_error": error for name, error in zip(list(named), errors, strict=True)}
        return {"cosine_kind": kind, **{name: value for name, value in named.items() if not math.isnan(value)}}


@dataclass(frozen=True)
class Parts:
    """A gradient as a sum over J blocks of actions, estimated twice with independent noise: [J, P] float64 each.

    An exact one is the same tensor twice.
    """

    one: Tensor
    other: Tensor

    def __add__(self, more: Parts) -> Parts:
        return Parts(self.one + more.one, self.other + more.other)

    def times(self, factor: float) -> Parts:
        """Scaled."""
        return Parts(factor * self.one, factor * self.other)

    @property
    def mean(self) -> Tensor:
        """Of the two estimates, [J, P]."""
        return (self.one + self.other) / 2

    @property
    def noise(self) -> Tensor:
        """Half their difference, [J, P]: as large as the noise of `mean`, and independent of it where it is normal."""
        return (self.one - self.other) / 2

    def squared(self) -> Tensor:
        """‖sum over the blocks‖² without the noise's own square: a block meets itself in its other estimate."""
        return self.mean.sum(0).square().sum() - self.noise.square().sum()


@dataclass(frozen=True)
class Products:
    """Products of one look, g·g, h·h, g·h, u·u and u·h, free of noise in the mean.

    Attributes:
        whole: [5] float64.
        covariance: [5, 5], by the jackknife.
        kind: whether any of them is an estimate.
    """

    whole: Tensor
    covariance: Tensor
    kind: Kind

    @classmethod
    def of(cls, proxy: Parts, likelihood: Parts, update: Parts, kind: Kind) -> Products:
        """From g, h and u. Estimates of g and u may share their noise; those of h have their own."""
        g, h, u = (part.mean.sum(0) for part in (proxy, likelihood, update))
        whole = torch.stack([proxy.squared(), likelihood.squared(), g @ h, update.squared(), u @ h])
        of_g, of_h, of_u = proxy.noise, likelihood.noise, update.noise
        none = torch.zeros(len(of_g), dtype=whole.dtype, device=whole.device)
        masks = torch.stack([2 * of_g @ g, none, of_g @ h, 2 * of_u @ u, of_u @ h], -1)
        orders = torch.stack([none, 2 * of_h @ h, of_h @ g, none, of_h @ u], -1)
        return cls(whole.cpu(), (masks.T @ masks + orders.T @ orders).cpu(), kind)

    def alignment(self) -> Alignment:
        """What this look alone says."""
        return pooled([self])

    def numbers(self) -> list[float]:
        """All of it, for a file of JSON."""
        return [float(self.kind == "estimate"), *self.whole.tolist(), *self.covariance.flatten().tolist()]

    @staticmethod
    def read(numbers: Sequence[float]) -> Products:
        """From what `numbers` gave."""
        estimate, *rest = numbers
        every = torch.tensor(rest, dtype=torch.float64)
        return Products(every[:5], every[5:].reshape(5, 5), "estimate" if estimate else "exact")


def pooled(looks: Sequence[Products]) -> Alignment:
    """The angle that several looks give together, from the sums of their products; errors by the delta method.

    Args:
        looks: at least one.
    """
    kind: Kind = "exact" if all(each.kind == "exact" for each in looks) else "estimate"
    whole = torch.stack([each.whole for each in looks]).sum(0)
    covariance = torch.stack([each.covariance for each in looks]).sum(0)
    joined, error = Products(whole, covariance, kind), covariance.diagonal().sqrt()
    if bool((whole[:2] <= CLEAR * error[:2]).any()):
        nothing, noisy = math.nan, bool((error[:2] > 0).any())
        return Alignment(nothing, nothing, kind, nothing, nothing, nothing, nothing, noisy, joined)
    slopes = _slopes(whole)
    errors = ((slopes @ covariance) * slopes).sum(-1).clamp_min(0).sqrt().tolist()
    cosine, share, update = angles(whole).tolist()
    cosine, update = max(-1.0, min(1.0, cosine)), max(-1.0, min(1.0, update))
    if bool(whole[3] <= CLEAR * error[3]):
        update = errors[2] = math.nan
    share = max(share, 0.0)
    root = math.sqrt(share + errors[1]) - math.sqrt(share)  # of a square that may be zero
    return Alignment(cosine, math.sqrt(share), kind, errors[0], root, update, errors[2], False, joined)


def angles(products: Tensor) -> Tensor:
    """Cosine, squared drift share and the update's cosine, [..., 5] → [..., 3]; noise may take them out of range."""
    proxy, likelihood, across, update, made = products.unbind(-1)
    share = (proxy + likelihood - 2 * across) / likelihood
    return torch.stack([across / (proxy * likelihood).sqrt(), share, made / (update * likelihood).sqrt()], -1)


def _slopes(products: Tensor) -> Tensor:
    """The derivatives of `angles`, [5] → [3, 5]."""
    proxy, likelihood, across, update, made = products.tolist()
    cosine, share = across / math.sqrt(proxy * likelihood), (proxy + likelihood - 2 * across) / likelihood
    update = update if update > 0 else math.nan
    turned = made / math.sqrt(update * likelihood)
    rows = [
        [-cosine / (2 * proxy), -cosine / (2 * likelihood), 1 / math.sqrt(proxy * likelihood), 0.0, 0.0],
        [1 / likelihood, (1 - share) / likelihood, -2 / likelihood, 0.0, 0.0],
        [0.0, -turned / (2 * likelihood), 0.0, -turned / (2 * update), 1 / math.sqrt(update * likelihood)],
    ]
    return products.new_tensor(rows)


def blocks_of(count: int, most: int = 16) -> Tensor:
    """In which of at most ``most`` blocks each of ``count`` actions is, as even as can be: [count] int64."""
    return torch.arange(count) * min(count, most) // max(count, 1)
