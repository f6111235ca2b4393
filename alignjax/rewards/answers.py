r"""Answers taken out of texts: numbers as exact fractions, boxed expressions.

A number is digits with at most one decimal point (12, .5, 3.50), groups of three digits divided by
a comma, a thin or unbreakable space, an apostrophe, an underscore, `\,`, `{,}` or `,\!` (1,234,567;
12,34,567 as in India too), a power of ten behind it (1e3, 1.5 \times 10^{3}), a fraction (3/4,
\frac{3}{4}) or a whole number and a proper fraction (1 1/2). A hyphen, the minus sign and the en
dash are signs where nothing stands before them that they could join: in "10-12" is no -12.
Currency, percent signs and units are passed over: 50% is 50. Not numbers: digits behind a letter
or underscore (H2O), exponents and indices (cm^2, x_1), the third part of 1.2.3.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

DIGITS = 400  # at most so many in a number: more are none, or a text could take all memory
LENGTH = 1000  # at most so many characters around a number and its unit
WINDOW = (
    2 * LENGTH + 200
)  # characters before a text's last digit in which its last number is looked for
_DIGIT = "0123456789０１２３４５６７８９"
_MARKS = str.maketrans(
    "−–﹣－０１２３４５６７８９．，％＄", "----0123456789.,%$"  # minus signs, and full width
)  # fmt: skip
_PLAIN = (
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"\\times(?![A-Za-z])"), "×"),
    (re.compile(r"\\cdot(?![A-Za-z])"), "·"),
    (re.compile(r"\^\{?\\circ\}?"), "°"),
)
_GROUP = r"(?:,|_|'|’|\u00a0|\u2009|\u202f|\\,)"
_WHOLE = (
    r"(?:[0-9]{1,2}(?:,[0-9]{2}){1,99},[0-9]{3}(?![0-9])"
    rf"|[0-9]{{1,3}}(?:(?P<group>{_GROUP})[0-9]{{3}})(?:(?P=group)[0-9]{{3}}){{0,99}}(?![0-9])|[0-9]+)"
)
# Not after a letter, an underscore, digits and a point, or the ^ of an exponent.
_FREE = r"(?<![A-Za-z0-9_^])(?<![0-9]\.)(?<!\^\{)(?<!\^-)(?<!\^\{-)(?<!_\{)"
_UNSIGNED = re.compile(
    rf"(?P<whole>{_WHOLE})(?P<decimals>\.[0-9]+)?|(?P<point>(?<!\.)\.[0-9]+)"
)  # fmt: skip
_EXPONENT = re.compile(
    r"[eE](?P<e>[+-]?[0-9]{1,3})(?![0-9A-Za-z])"
    r"|\s{0,2}[×x*·]\s{0,2}10\^(?:\{(?P<braced>[+-]?[0-9]{1,3})\}|(?P<bare>[+-]?[0-9]{1,3})(?![0-9]))"
)
_SIGN = re.compile(r"(?:(?<![A-Za-z0-9_)\]}.%\-])(?P<sign>[+-])[$€£¥]?|[$€£¥](?P<after>[+-]))$")
_START = re.compile(rf"{_FREE}(?=[0-9]|\.[0-9])|(?=\\frac)")
_FRAC = re.compile(r"\\frac\s*(?:\{(?P<top>[^{}]*)\}|(?P<t>[0-9]))\s*(?:\{(?P<low>[^{}]*)\}|(?P<l>[0-9]))")  # fmt: skip # noqa: E501
_SLASH = re.compile(r"\s?/\s?(?=[0-9.])")
_MORE = re.compile(r"\s?/|[0-9]|\.[0-9]")
_WRAPPED = (
    re.compile(r"\$\$?(.*?)\$?\$"), re.compile(r"\\\((.*)\\\)"), re.compile(r"\\\[(.*)\\\]"),
    re.compile(r"\*\*(.*)\*\*"), re.compile(r"\*(.*)\*"), re.compile(r"`(.*)`"),
    re.compile(r"\{(.*)\}"), re.compile(r'"(.*)"'),
)  # fmt: skip
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z]\w*\s*=\s*")
_UNIT = re.compile(r"\s*[%°]?\s*(?:[A-Za-z°²³€£¥$][A-Za-z°²³ .\-/]*(?:\^\{?-?[0-9]\}?)?)?[.,;:!]*")


class Number(NamedTuple):
    """A number in a text: its value and where it ends."""

    value: Fraction
    end: int


def _plain(text: str) -> str:
    text = text.translate(_MARKS)
    for pattern, plain in _PLAIN:
        text = pattern.sub(plain, text)
    return text


def _decimal(text: str, start: int) -> Number | None:
    """The unsigned number without a fraction at a place."""
    match = _UNSIGNED.match(text, start)
    if match is None or match.end() - start > DIGITS:
        return None
    digits = "".join(re.findall("[0-9]", match["whole"] or "")) or "0"
    point = match["decimals"] or match["point"]
    value = Fraction(digits + point) if point else Fraction(int(digits))
    exponent = _EXPONENT.match(text, match.end())
    if exponent is None:
        return Number(value, match.end())
    power = int(exponent["e"] or exponent["braced"] or exponent["bare"])
    if abs(power) > DIGITS:
        return None
    return Number(value * Fraction(10) ** power, exponent.end())


def _frac(text: str, start: int) -> Number | None:
    r"""The \frac at a place, of two numbers."""
    match = _FRAC.match(text, start)
    if match is None:
        return None
    top, low = (number(match[a] or match[b] or "") for a, b in (("top", "t"), ("low", "l")))
    return None if top is None or not low else Number(top / low, match.end())


def _unsigned(text: str, start: int) -> Number | None:
    """The unsigned number at a place, with its fraction."""
    if text.startswith("\\frac", start):
        return _frac(text, start)
    first = _decimal(text, start)
    if first is None:
        return None
    low = _over(text, start, first)
    if low is not None:
        return Number(first.value / low.value, low.end)
    if first.value.denominator != 1:
        return first
    # A whole number, one blank at most, a proper fraction.
    space = first.end + text.startswith(" ", first.end)
    part = None
    if text.startswith("\\frac", space):
        part = _frac(text, space)
    elif space > first.end:
        top = _decimal(text, space)
        low = None if top is None else _over(text, space, top)
        part = Number(top.value / low.value, low.end) if top and low else None
    proper = part is not None and 0 < part.value < 1
    return Number(first.value + part.value, part.end) if part and proper else first


def _over(text: str, start: int, top: Number) -> Number | None:
    """The denominator behind a number; None where there is none, or another slash (a date)."""
    slash = _SLASH.match(text, top.end)
    if slash is None or text[start - 1 : start] == "/":
        return None
    low = _decimal(text, slash.end())
    if low is None or not low.value or _MORE.match(text, low.end):
        return None
    return low


def number(text: str) -> Fraction | None:
    r"""The number that a whole text is, or None.

    Around it may stand: $..$, \(..\), **..**, \text{..}, a name with = before it, currency, a
    percent or degree sign, a unit in letters, a full stop. Two numbers are none.
    """
    if len(text) > LENGTH:
        return None
    text = _WORDS.sub(r" \1 ", _plain(text)).replace("\\ ", " ").replace("~", " ").strip()
    changed = True
    while changed:
        changed = False
        for pattern in _WRAPPED:
            match = pattern.fullmatch(text.rstrip(".,;:! "))
            if match is not None and match[1].strip():
                text, changed = match[1].strip(), True
    name = _NAME.match(text)
    rest = text[name.end() :] if name else text
    sign = re.match(r"[$€£¥]?\s*(?P<sign>[+-]?)\s*[$€£¥]?\s*", rest)
    assert sign is not None
    found = _unsigned(rest, sign.end())
    if found is None or _UNIT.fullmatch(rest, found.end) is None:
        return None
    return -found.value if sign["sign"] == "-" else found.value


def last_number(text: str) -> Fraction | None:
    """The last number of a text, or None; see the head of this file for what is one."""
    end = max(map(text.rfind, _DIGIT))
    if end < 0:
        return None
    # No number is as long as what is read before the last digit: long texts cost no more.
    start = max(text.rfind(blank, 0, max(end - WINDOW, 0)) for blank in " \n")
    found = _last(text[start + 1 :])
    return found if found is not None or start < 0 else _last(text)


def _last(text: str) -> Fraction | None:
    text = _plain(text)
    last, place = None, 0
    while match := _START.search(text, place):
        found = _unsigned(text, match.start())
        if found is None:
            # Too long for a number, or a fraction of something else.
            place = match.start() + (len("\\frac") if text[match.start()] == "\\" else 1)
            while text[place : place + 1].isdigit():
                place += 1
            continue
        before = text[max(0, match.start() - 3) : match.start()]
        sign = _SIGN.search(before)
        minus = sign is not None and "-" in (sign["sign"], sign["after"])
        last, place = -found.value if minus else found.value, found.end
    return last


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{..} or \fbox{..} of a text; None where it isn't closed."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    opening = re.compile(r"\\(?:boxed|fbox)(?:\s*\{|\s+([^\s{}$\\]+))").match(text, start)
    if opening is None or opening[1]:
        return opening[1].rstrip(".,;") if opening else None
    depth = 1
    for place in range(opening.end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[opening.end() : place].strip()
    return None


def marked(text: str, marker: str) -> str | None:
    """The line behind the last marker of a text, or None."""
    _, found, rest = text.rpartition(marker)
    return rest.strip(" \t").partition("\n")[0].strip() if found else None


def gold_number(value: Any, marker: str) -> Fraction | None:
    """The number of a data set's answer: a number, its text, or a solution with a marker or box."""
    if isinstance(value, bool) or value is None:
        return None
    if not isinstance(value, str):
        try:
            return Fraction(str(value))  # 0.1 is a tenth
        except ValueError:
            return None
    behind = marked(value, marker) if marker else None
    return number(behind if behind is not None else value if (b := boxed(value)) is None else b)


_ERASED = re.compile(r"\n|\\[!,;: ]|~|\\left(?![A-Za-z])|\\right(?![A-Za-z])|\\?\$|\\?%|°")
_BRACES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\\sqrt([0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\frac([0-9A-Za-z])([0-9A-Za-z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac([0-9A-Za-z])\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\{[^{}]*\})([0-9A-Za-z])"), r"\1{\2}"),
    (re.compile(r"^(-?)([0-9]+)/([0-9]+)$"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"(^|[^0-9])\.([0-9])"), r"\g<1>0.\2"),
)


def normal(expression: str) -> str:
    r"""An expression in one spelling, so that equal ones are equal texts.

    Blanks, \left, \right, $, %, degrees, a unit in \text{..} behind it, a full stop and "x =" go;
    \dfrac, \frac12 and 1/2 become \frac{1}{2}, \sqrt3 becomes \sqrt{3}, .5 becomes 0.5.

    Reference: Hendrycks et al. (2021, MATH), arXiv 2103.03874, `is_equiv` of its code.
    """
    text = _plain(expression).strip().rstrip(".").strip()
    text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text).replace("\\\\", "\u23ce")  # a matrix's row
    text = re.sub(r"(?<=\S)\s*\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\^\{?[0-9]\}?)?$", "", text)
    text = _WORDS.sub(r"\1", text)
    text = _ERASED.sub("", text).replace(" ", "")
    name, equals, rest = text.partition("=")
    if equals and len(name) <= 2 and "=" not in rest:
        text = rest
    for pattern, plain in _BRACES:
        text = pattern.sub(plain, text)
    return text


def same(answer: str, gold: str) -> bool:
    """Whether two expressions are one number, or one text once normal."""
    numbers = number(answer), number(gold)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return bool(normal(answer)) and normal(answer) == normal(gold)


def column(task: Mapping[str, Any], name: str) -> Any:
    """A column of a row.

    Raises:
      ValueError: the row does not have it.
    """
    if name not in task:
        raise ValueError(
            f"rows must have the column {name!r} that a rule reads; got "
            f"{', '.join(sorted(task)) or 'no columns'}. Name another column in the rule."
        )
    return task[name]
