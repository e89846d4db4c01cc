"""Groups whose rollouts all have one reward: their advantages are zero, so they teach an estimator nothing."""

from __future__ import annotations

from torch import Tensor

UPDATES = 20
"""A warning comes after so many updates in a row with mostly idle groups, then after twice as many, and so on."""


def idle(reward: Tensor, group_size: int) -> Tensor:
    """Which groups have one reward throughout: [B] rewards, a group's next to each other → [B / G] bool."""
    groups = reward.view(-1, group_size)
    return (groups == groups[:, :1]).all(-1)


def warning(updates: int, reward: float) -> str:
    """What a reader should know after so many updates in a row with more than half of the groups idle; mostly nothing.

    Args:
        updates: how many there were.
        reward: the mean reward of the last one.
    """
    times, rest = divmod(updates, UPDATES)
    if rest or times & (times - 1) or not times:
        return ""
    said = f"for {updates} updates more than half of the groups have had equal rewards (mean {reward:.3g})"
    return f"{said} and taught nothing; give other problems, a larger trainer.group_size, or trainer.resample_idle"
