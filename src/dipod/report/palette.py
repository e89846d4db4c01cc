"""Colours that people with any colour vision tell apart, on white and on black; dashes tell apart what they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from dipod.report.labels import Label, swept, without

LIGHT = ("#f66506", "#003aa9", "#53a485", "#56295b", "#845600", "#067689", "#8d63ed", "#79000a")
DARK = ("#e74d13", "#36b1ff", "#0f966b", "#e96cb5", "#f9dc6b", "#7bf1fd", "#9066f0", "#fda59f")
"""For white and for near-black paper: contrast of at least 3 to it, and at least 0.11 apart in OKLab, also as seen with
protanopia, deuteranopia and tritanopia."""
LIGHT_RAMP = ("#2b1160", "#2d5f9a", "#279182", "#7f9a1c")
DARK_RAMP = ("#8f7bf0", "#49a2e8", "#3fcfa0", "#f3e55c")
"""For the values of a swept setting, in order."""
DASHES = ("", "6 3", "2 2.5", "9 3 2 3")
PLACES = {
    "fpo": 0,
    "fpo+dipod": 1,
    "spg": 2,
    "spg+dipod": 3,
    "d1": 4,
    "wd1": 5,
    "fpo+adaptive": 6,
    "fpo+interleave": 7,
    "spg+adaptive": 6,
    "spg+interleave": 7,
    "fpopp": 2,
    "fpopp+dipod": 3,
    "fpopp+initial": 4,
    "ppo": 5,
    "fpopp+adaptive": 6,
    "fpopp+interleave": 7,
    "ddpo": 0,
}
"""The hue that an algorithm has on every page where it is free; those of other algorithms follow from their names."""


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

    An algorithm's hue is the same on every page, but where two want one, the later label takes the next that is free. A
    bare estimator next to its tightened self is dashed.
    """
    if len({label.algorithm for label in labels}) == 1 and len(labels) > 2 and swept(labels) is not None:
        shares = [i / (len(labels) - 1) for i in range(len(labels))]
        return [
            Look(_between(LIGHT_RAMP, share), _between(DARK_RAMP, share), DASHES[i % 2])
            for i, share in enumerate(shares)
        ]
    names = [label.text for label in labels]
    hues = _hues([label.algorithm for label in labels])
    found = []
    for i, name in enumerate(names):
        algorithm, space, settings = name.partition(" ")
        tight = [n for n in names if n.startswith(f"{algorithm}+") and n.endswith(space + settings)]
        bare = "+" not in algorithm and bool(tight)
        first = i // len(LIGHT) + bare
        choices = [Look(LIGHT[hues[i]], DARK[hues[i]], DASHES[(first + k) % len(DASHES)]) for k in range(len(DASHES))]
        found.append(next((look for look in choices if look not in found), choices[0]))
    return found


def sweep_looks(labels: Sequence[Label]) -> list[Look]:
    """Of what a sweep joins by lines: the labels without the setting that is swept."""
    name = swept(labels)
    return looks(list(dict.fromkeys(label if name is None else without(label, name) for label in labels)))


def _hues(algorithms: Sequence[str]) -> list[int]:
    """A place among the hues for each label: its algorithm's own, where that is free among eight labels in a row."""
    found: dict[int, int] = {}
    for start in range(0, len(algorithms), len(LIGHT)):
        free = list(range(len(LIGHT)))
        here = list(enumerate(algorithms))[start : start + len(LIGHT)]
        for i, name in sorted(here, key=lambda pair: pair[1] not in PLACES):
            wanted = PLACES.get(name, crc32(name.encode()) % len(LIGHT))
            found[i] = min(free, key=lambda hue: (hue - wanted) % len(LIGHT))
            free.remove(found[i])
    return [found[i] for i in range(len(algorithms))]


def _between(ramp: Sequence[str], share: float) -> str:
    """The colour at ``share`` of the way along ``ramp``."""
    place = share * (len(ramp) - 1)
    first = min(int(place), len(ramp) - 2)
    ends = [[int(ramp[first + k][i : i + 2], 16) for i in (1, 3, 5)] for k in (0, 1)]
    mixed = [round(a + (b - a) * (place - first)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)
