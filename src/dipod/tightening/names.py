"""From ``base+tightening``, as it is typed, to the tightening."""

from __future__ import annotations

from dipod.errors import UserError
from dipod.tightening.adaptive import Adaptive, AdaptiveConfig
from dipod.tightening.schedules import Initial, Interleave, Off, Regularise, Stage, Tightening, Tolerance


def parse_tightening(
    algorithm: str, beta: float, ramp: int, every: int, stage: Stage, adaptive: AdaptiveConfig
) -> Tightening[Stage]:
    """The tightening of an algorithm typed as ``base`` or ``base+tightening``.

    Args:
        algorithm: "fpo", "fpo+dipod" (Algorithm 2), "fpo+interleave" (Algorithm 1), "fpo+initial" (Algorithm 3),
            "fpo+adaptive" (Algorithm 2 with a β that holds the gap), "fpo+tolerance" (Algorithm 1 where the gap asks
            for it).
        beta: β of Algorithm 2, at first if it is adaptive.
        ramp: updates over which it grows, if it is not.
        every: n of Algorithm 1.
        stage: of Algorithms 1 and 3.
        adaptive: what follows the measured gap.

    Raises:
        UserError: a tightening that does not exist.
    """
    base, plus, name = algorithm.partition("+")
    known: dict[str, Tightening[Stage]] = {
        "": Off(),
        "dipod": Regularise(beta, ramp),
        "interleave": Interleave(stage, every),
        "initial": Initial(stage),
        "adaptive": Adaptive(beta, adaptive),
        "tolerance": Tolerance(stage, adaptive.target, adaptive.every),
    }
    if name not in known or (plus and not name):
        choices = ", ".join(f"{base}+{other}" for other in known if other)
        raise UserError("algorithm", algorithm, f"choose {base}, {choices}")
    return known[name]
