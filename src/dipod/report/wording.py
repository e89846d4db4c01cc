"""Words that go with every gap: how it was measured, and under which decoding."""

from __future__ import annotations

from collections.abc import Sequence

from dipod.config import RunConfig
from dipod.control.config import ControlConfig
from dipod.recipes import AnyConfig
from dipod.report.data import Run

KINDS = {
    "exact": "computed, not estimated",
    "lower_bound": "the true gap is larger: an importance-weighted bound of log π stands in for it",
    "bracket": "the true gap lies between two bounds from sampled decoding orders, the ends of the band, up to noise",
    "estimate": "estimated",
}
ORDERS = {
    "random": "in random order",
    "low_confidence": "the most confident token first",
    "entropy": "the place of lowest entropy first",
    "margin": "the place of largest margin first",
}


def kinds(found: Sequence[Run], key: str = "gap") -> list[str]:
    """How a gap was measured in these runs, as the metrics spell it."""
    return list(dict.fromkeys(kind for run in found for _, kind in run.words(f"{key}_kind")))


def kind_words(found: Sequence[Run], key: str = "gap") -> str:
    """How a gap was measured in these runs: "exact", "lower bound", "bracket", or several of them."""
    return " or ".join(kind.replace("_", " ") for kind in kinds(found, key)) or "kind not recorded"


def decoding(config: AnyConfig) -> str:
    """The law that actions are drawn from and that log π is about."""
    if isinstance(config, ControlConfig):
        steps, cutoff = config.policy.sampling_steps, config.objective.cutoff
        return f"perturbation aside; flows in {steps} steps, t0 = {cutoff:g}"
    sampler = config.sampler
    order = ORDERS.get(sampler.remasking, sampler.remasking.replace("_", " "))
    pace = f"in {sampler.steps} steps" if sampler.steps else "one token a step"
    blocks = f", in blocks of {sampler.block_length} from left to right" if sampler.block_length else ""
    guided = f", guidance {sampler.cfg_scale:g}" if sampler.cfg_scale else ""
    nucleus = f", top-p {sampler.top_p:g}" if sampler.top_p < 1 else ""
    return f"decoded {order}, {pace}{blocks}, temperature {sampler.temperature:g}{nucleus}{guided}"


def gap_note(found: Sequence[Run], key: str = "gap") -> str:
    """What a figure or a table must say about the gap that it shows: kind, decoding, unit."""
    ways = list(dict.fromkeys(decoding(run.config) for run in found))
    how = ways[0] if len(ways) == 1 else "each run under its own decoding (see the settings)"
    meant = [f"{kind.replace('_', ' ')}: {KINDS.get(kind, kind)}" for kind in kinds(found, key)] or [
        "kind not recorded"
    ]
    where = "on the rollouts" if key.startswith("monitor") else "on held-out problems"
    where = where if isinstance(found[0].config, RunConfig) else "on the policy's own actions"
    return f"{'; '.join(meant)}. {where[:1].upper()}{where[1:]}, {how}; nats an action{_length(found)}."


def _length(found: Sequence[Run]) -> str:
    lengths = sorted({round(run.tokens, 1) for run in found if run.tokens})
    if not lengths:
        return ""
    return f" of {lengths[0]:g} tokens" if len(lengths) == 1 else f" of {lengths[0]:g} to {lengths[-1]:g} tokens"


def per_token(run: Run, key: str = "gap") -> float | None:
    """The last gap in nats a token, where the length of an action is known."""
    gap, tokens = run.last(key), run.tokens
    return None if gap is None or not tokens else gap / tokens
