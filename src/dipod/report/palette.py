"""Colours that people with any colour vision tell apart, on white and on black; dashes tell apart what they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dipod.report.labels import Label, swept

LIGHT = ("#f66506", "#003aa9", "#53a485", "#56295b", "#845600", "#067689", "#8d63ed", "#79000a")
DARK = ("#e74d13", "#36b1ff", "#0f966b", "#e96cb5", "#f9dc6b", "#7bf1fd", "#9066f0", "#fda59f")
"""For white and for near-black paper: contrast of at least 3 to it, and at least 0.11 apart in OKLab, also as seen with
protanopia, deuteranopia and tritanopia."""
LIGHT_RAMP = ("#2b1160", "#2d5f9a", "#279182", "#7f9a1c")
DARK_RAMP = ("#8f7bf0", "#49a2e8", "#3fcfa0", "#f3e55c")
"""For the values of a swept setting, in order."""
DASHES = ("", "6 3", "2 2.5", "9 3 2 3")


@dataclass(frozen=True)
class Look:
    """How a label's lines look.

    Attributes:
        light: colour on white.
        dark: colour on near-black.
        dash: lengths of strokes and spaces, as in SVG; empty for a solid line.
    """

    light: str
    dark: str
    dash: str


def looks(labels: Sequence[Label]) -> list[Look]:
    """A look for each label: shades of a ramp for one algorithm's sweep, else hues.

    A bare estimator next to its tightened self is dashed.
    """
    if len({label.algorithm for label in labels}) == 1 and len(labels) > 2 and swept(labels) is not None:
        shares = [i / (len(labels) - 1) for i in range(len(labels))]
        return [
            Look(_between(LIGHT_RAMP, share), _between(DARK_RAMP, share), DASHES[i % 2])
            for i, share in enumerate(shares)
        ]
    names = [label.text for label in labels]
    found = []
    for i, name in enumerate(names):
        algorithm, space, settings = name.partition(" ")
        tight = [n for n in names if n.startswith(f"{algorithm}+") and n.endswith(space + settings)]
        bare = "+" not in algorithm and bool(tight)
        dash = DASHES[(i // len(LIGHT) + bare) % len(DASHES)]
        found.append(Look(LIGHT[i % len(LIGHT)], DARK[i % len(DARK)], dash))
    return found


def _between(ramp: Sequence[str], share: float) -> str:
    """The colour at ``share`` of the way along ``ramp``."""
    place = share * (len(ramp) - 1)
    first = min(int(place), len(ramp) - 2)
    ends = [[int(ramp[first + k][i : i + 2], 16) for i in (1, 3, 5)] for k in (0, 1)]
    mixed = [round(a + (b - a) * (place - first)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)
