"""How far the bound has drifted from the likelihood, and the proxy gradient from the policy gradient."""

from dipod.drift.alignment import Alignment, cosine, exact_alignment, sampled_alignment
from dipod.drift.gap import Bounds, Decoding, Gap, bounds, gap_lower_bound, measure_gap

__all__ = [
    "Alignment",
    "Bounds",
    "Decoding",
    "Gap",
    "bounds",
    "cosine",
    "exact_alignment",
    "gap_lower_bound",
    "measure_gap",
    "sampled_alignment",
]
