"""How far the bound has drifted from the likelihood, and the proxy gradient from the policy gradient."""

from dipod.drift.alignment import Estimator, cosine, exact_alignment
from dipod.drift.gap import Bounds, Decoding, Gap, bounds, gap_lower_bound, measure_gap
from dipod.drift.products import Alignment, Parts, Products, pooled
from dipod.drift.sampled import sampled_alignment

__all__ = [
    "Alignment",
    "Bounds",
    "Decoding",
    "Estimator",
    "Gap",
    "Parts",
    "Products",
    "bounds",
    "cosine",
    "exact_alignment",
    "gap_lower_bound",
    "measure_gap",
    "pooled",
    "sampled_alignment",
]
