"""How the likelihood proxy is kept valid while the policy improves: Algorithms 1 and 2 of the paper, or nothing.

A tightening answers two questions at every step: which β weighs the on-policy ELBO in the loss, and whether a
stage of self-distillation comes first. Algorithm 3 (one stage before RL) and a β that follows the measured gap
are further answers to the same two questions.
"""

from dipod.tightening.distillation import Distillation, distil
from dipod.tightening.schedules import Interleave, Off, Regularise, Tightening

__all__ = ["Distillation", "Interleave", "Off", "Regularise", "Tightening", "distil"]
