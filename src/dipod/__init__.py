"""dipod: reinforcement-learning post-training of diffusion and flow policies with a bound that stays tight.

The rooms: `dipod.likelihood` (bounds and exact likelihoods), `dipod.objectives` (surrogates, baselines),
`dipod.tightening` (Algorithms 1 and 2), `dipod.drift` (gap, gradient cosine), `dipod.policies`, `dipod.tasks`; around
them `dipod.algorithms` (the table), `dipod.trainer` (the loop) and `dipod.two_token` (where everything is exact).
"""

from importlib.metadata import version

from dipod import launch, two_token  # launch before anything loads torch
from dipod.algorithms import ALGORITHMS, Algorithm
from dipod.errors import UserError
from dipod.tightening import Distillation, Initial, Interleave, Off, Regularise
from dipod.trainer import Trainer

__version__ = version("dipod")

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Distillation",
    "Initial",
    "Interleave",
    "Off",
    "Regularise",
    "Trainer",
    "UserError",
    "__version__",
    "launch",
    "two_token",
]
