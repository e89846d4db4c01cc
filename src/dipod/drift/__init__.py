"""How far the bound has drifted from the likelihood, and the proxy gradient from the policy gradient."""

from dipod.drift.cosine import cosine, gradient_cosine
from dipod.drift.gap import Gap, gap_lower_bound, measure_gap

__all__ = ["Gap", "cosine", "gap_lower_bound", "gradient_cosine", "measure_gap"]
