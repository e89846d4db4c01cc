r"""Numbers with what people write around them: commas, currency, percent, mixed numbers, powers of ten, units."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from dipod.tasks.text.arithmetic import MAX_DIGITS
from dipod.tasks.text.spelling import bare, spell

PLACES = 6
"""Significant digits from which on a decimal may stand for the fraction that it is rounded from."""

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]{1,3}(?: [0-9]{3})+(?![0-9])|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_SIGN = r"[+-]?\s*"
_FRACTION = rf"\\frac\s*(?:\{{\s*({_SIGN}{_PLAIN})\s*\}}|([0-9]))\s*(?:\{{\s*({_SIGN}{_PLAIN})\s*\}}|([0-9]))"
_CURRENCY = r"(?:\\?\$|[€£¥₹]|USD|US\$|Rs\.?)\s*"
_NUMBER = re.compile(
    rf"(?:{_CURRENCY})?(?P<sign>{_SIGN})(?:{_CURRENCY})?(?:"
    rf"(?:(?P<whole>[0-9]+)(?:\s*|\s+and\s+))?(?P<latex>{_FRACTION})"
    rf"|(?:(?P<whole2>[0-9]+)(?:\s+|-|\s+and\s+))?(?P<above>[0-9]+)\s*/\s*(?P<below>[+-]?[0-9]+)(?![0-9.,])"
    rf"|(?P<plain>{_PLAIN})(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{{\s*(?P<tens>[+-]?[0-9]{{1,3}})\s*\}}|(?P<ten>[0-9]))"
    rf"|[eE](?P<exponent>[+-]?[0-9]{{1,3}})(?![A-Za-z0-9]))?"
    rf")"
)
_RUN = re.compile(r"[0-9][0-9.,:/]*")
_REPEATING = re.compile(r"([+-]?) ?([0-9]{0,9})\.([0-9]{0,9})\\overline\{([0-9]{1,9})\}")
_PERCENT = re.compile(
    r"\s*(?:\\?%|\\text\{\s*(?:\\?%|percent)\s*\}|per ?cent\b|percentage points?\b|pct\b)\s*", re.IGNORECASE
)
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALE = re.compile(rf"\s*(?:\\text\{{\s*)?({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9]))?"
_MARKED, _BARE = rf"\\text\{{[^{{}}]*\}}{_POWER}", rf"[A-Za-z][A-Za-z.'-]*{_POWER}"
_UNIT = re.compile(rf" ?(?:\^\\circ ?[CF]?|{_MARKED}(?: ?/? ?{_MARKED})*|{_BARE}(?:[ /]{_BARE})*) ?")
_SHORT_UNITS = frozenset(["m", "g", "s", "h", "L", "l"])
_UNITS_AT_ONCE = "cm mm km nm ft in yd mi kg mg lb lbs oz ml mL cl dl hr hrs min mins sec secs ms mph kph cents ct USD"
_ATTACHED = frozenset(_UNITS_AT_ONCE.split())
_NO_UNIT = """
pi e i sqrt sin cos tan cot sec csc log ln exp inf infinity oo mod
or and to not no nor minus negative plus times half halves third thirds quarter quarters fifth fifths double twice
triple more less than over under between except without dozen hundred thousand million billion trillion
one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety
divided multiplied squared cubed
"""
_NOT_UNITS = frozenset(_NO_UNIT.split())
_WORD = re.compile(r"[A-Za-z]+")
_HEAD = re.compile(r"(?:(?:[A-Za-z][A-Za-z'-]+|[aAI])[,:]? )*(?:[A-Za-z]{2,}:|=|is:)? ?")
_TAIL = re.compile(r"%?\.?(?: (?:[A-Za-z][A-Za-z'-]+|a)[.,!]?)*")
_ALIASES = {
    name: word
    for word, names in {
        "centimeter": "cm centimetre", "millimeter": "mm millimetre", "kilometer": "km kilometre", "meter": "m metre",
        "inch": "in inche", "foot": "ft feet", "yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "pound": "lb",
        "ounce": "oz", "liter": "l litre", "milliliter": "ml", "second": "s sec", "minute": "min", "hour": "h hr",
        "degree": "deg", "dollar": "usd", "cent": "ct",
    }.items()
    for name in names.split()
}  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """A number as it was written.

    Attributes:
        value: before a percent sign, which it is not divided by.
        percent: whether there is one.
        unit: what follows, in lower case and the singular; empty for nothing.
        places: digits after the point; 0 for a whole number or a fraction.
        digits: significant digits of a decimal.
    """

    value: Fraction
    percent: bool = False
    unit: str = ""
    places: int = 0
    digits: int = 0

    def latex(self) -> str:
        """The number alone, in LaTeX."""
        value = self.value / 100 if self.percent else self.value
        if value.denominator == 1:
            return str(value.numerator)
        return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"

    def same(self, reference: Quantity) -> bool:
        """Whether it is another, with or without the percent sign and the unit, but not with another unit.

        20% is 20, as the graders of MATH have it, and 0.2; a decimal of six digits or more is also the fraction that
        rounds to it.
        """
        if self.unit and reference.unit and self.unit != reference.unit:
            return False
        if _close(self, self.value, reference, reference.value):
            return True
        if self.percent == reference.percent:
            return False
        ours, theirs = (q.value / 100 if q.percent else q.value for q in (self, reference))
        return ours == theirs


def read_quantity(text: str) -> Quantity | None:
    """The number that a text is, with a unit or without; None if it is anything else.

    Args:
        text: spelled as in `dipod.tasks.text.spelling`.
    """
    text = _out_of_parentheses(text)
    repeating = _REPEATING.match(text)
    if repeating:
        return _with_unit(_repeated(*repeating.groups()), text[repeating.end() :])
    found = _NUMBER.match(text)
    if found is None or len(found[0]) > 3 * MAX_DIGITS:
        return None
    number = _value(found)
    return None if number is None else _with_unit(number, text[found.end() :])


def only_quantity(text: str) -> Quantity | None:
    """The one number in a sentence, as in "She has 18 eggs left"; None where words may change it: "half of 18"."""
    runs = list(_RUN.finditer(text))
    if (
        len(runs) != 1
        or not _NOT_UNITS.isdisjoint(word.lower() for word in _WORD.findall(text))
        or "\\" in text.replace("\\$", "")
    ):
        return None
    start = runs[0].start()
    head, tail = text[:start].rstrip("$€£¥₹\\"), text[runs[0].end() :]
    number = read_quantity(runs[0][0].rstrip(".,:/"))
    if number is None or not _HEAD.fullmatch(head) or not _TAIL.fullmatch(tail):
        return None
    return Quantity(number.value, tail.lstrip().startswith("%"), "", number.places, number.digits)


def spelled_quantity(text: str) -> Quantity | None:
    """`read_quantity` of an answer as a model wrote it."""
    return read_quantity(bare(spell(bare(text))))


def _repeated(sign: str, whole: str, start: str, period: str) -> Quantity:
    r"""The value of ``0.1\overline{6}``."""
    once, twice = int(f"{whole}{start}" or 0), int(f"{whole}{start}{period}")
    value = Fraction(twice - once, 10 ** len(start) * (10 ** len(period) - 1))
    return Quantity(-value if sign == "-" else value)


def _value(found: re.Match[str]) -> Quantity | None:
    sign = -1 if "-" in found["sign"] else 1
    if found["plain"] is not None:
        digits = re.sub("[, ]", "", found["plain"])
        if len(digits) > MAX_DIGITS:
            return None
        value = sign * Fraction(f"{digits}0" if digits.endswith(".") else digits)
        tens = next((found[name] for name in ("tens", "ten", "exponent") if found[name] is not None), None)
        places = len(digits.partition(".")[2])
        significant = len(digits.replace(".", "").lstrip("0")) if places else 0
        return Quantity(value * Fraction(10) ** int(tens or 0), False, "", places if tens is None else 0, significant)
    if found["latex"] is not None:
        groups = [group for group in found.groups()[found.re.groupindex["latex"] :][:4] if group is not None]
        above, below = (Fraction(re.sub(r"[, ]", "", group)) for group in groups)
        whole = found["whole"]
    else:
        above, below, whole = Fraction(found["above"]), Fraction(found["below"]), found["whole2"]
    if below == 0:
        return None
    part = above / below
    if whole is not None:
        if not 0 < part < 1:
            return None
        part += int(whole)
    return Quantity(sign * part)


def _with_unit(number: Quantity, rest: str) -> Quantity | None:
    scale = _SCALE.match(rest)
    if scale:
        number = Quantity(number.value * _SCALES[scale[1].lower()])
        rest = rest[scale.end() :].lstrip("}")
    percent = _PERCENT.match(rest)
    if percent:
        number = Quantity(number.value, True, "", number.places, number.digits)
        rest = rest[percent.end() :]
    if not rest.strip():
        return number
    if len(rest) > 60 or _UNIT.fullmatch(rest) is None:
        return None
    words = _WORD.findall(rest.replace("\\text", "").replace("\\circ", ""))
    if not _NOT_UNITS.isdisjoint(word.lower() for word in words):
        return None
    marked = "\\" in rest
    if not marked and not rest.startswith(" ") and words[0] not in _ATTACHED:
        return None
    if not marked and any(len(word) == 1 and word not in _SHORT_UNITS for word in words):
        return None
    return Quantity(
        number.value, number.percent, "" if number.percent else _singular(rest), number.places, number.digits
    )


def _singular(unit: str) -> str:
    unit = unit.replace("^\\circ", " degree ").replace("\\text", "").lower()
    return " ".join(_names(unit)) + "".join(re.findall("[0-9]", unit))


def _names(unit: str) -> Iterator[str]:
    for word in _WORD.findall(unit):
        name = word if word in _ALIASES else word.removesuffix("s") or word
        yield _ALIASES.get(name, name)


def _close(a: Quantity, ours: Fraction, b: Quantity, theirs: Fraction) -> bool:
    if ours == theirs:
        return True
    return any(
        q.digits >= PLACES
        and abs(ours - theirs) * 2 <= Fraction(1, 10**q.places)
        and abs(other) * 10**q.places >= 10 ** (PLACES - 1)
        for q, other in ((a, theirs), (b, ours))
    )


def _out_of_parentheses(text: str) -> str:
    inside = text[1:-1]
    return inside.strip() if text.startswith("(") and text.endswith(")") and not set("(),") & set(inside) else text
