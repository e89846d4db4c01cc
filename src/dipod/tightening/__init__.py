"""How the likelihood proxy is kept valid while the policy improves: Algorithms 1 to 3 of the paper, or nothing.

A tightening answers two questions at every step: which β weighs the on-policy ELBO in the loss, and whether a
stage of self-distillation comes first. What a stage is depends on the policy; a β that follows the measured gap
is a further answer to the same two questions.
"""

from dipod.tightening.distillation import Distillation, distil
from dipod.tightening.schedules import Initial, Interleave, Off, Regularise, Tightening, parse_tightening

__all__ = [
    "Distillation",
    "Initial",
    "Interleave",
    "Off",
    "Regularise",
    "Tightening",
    "distil",
    "parse_tightening",
]
