"""How the likelihood proxy is kept valid while the policy improves: Algorithms 1 to 3 of the paper, or nothing.

A tightening answers three questions at every step: whether the gap is to be measured, which β weighs the on-policy
ELBO in the loss, and whether a stage of self-distillation comes first. What a stage is depends on the policy.
"""

from dipod.tightening.adaptive import Adaptive, AdaptiveConfig
from dipod.tightening.distillation import Distillation, distil
from dipod.tightening.names import parse_tightening
from dipod.tightening.schedules import Initial, Interleave, Off, Regularise, Tightening, Tolerance

__all__ = [
    "Adaptive",
    "AdaptiveConfig",
    "Distillation",
    "Initial",
    "Interleave",
    "Off",
    "Regularise",
    "Tightening",
    "Tolerance",
    "distil",
    "parse_tightening",
]
