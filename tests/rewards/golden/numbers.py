r"""Golden rows of the number rules: texts written around a number that is known beforehand.

Nothing here reads a number out of a text: each row is a number, a spelling of it, and a sentence.
"""

import random
from fractions import Fraction

NBSP, THIN, NARROW = "\u00a0", "\u2009", "\u202f"
SENTENCES = (
    "The answer is {}.", "So she has {} left", "Thus we get {}!", "= {}", "Therefore:\n\n{}\n",
    "First 3 of 17, then 5 more; in the end {}.", "The total of 12 and 30 makes ({}).",
    "**{}**", "We conclude that the value is {}, as claimed.", "It is\t{} \n\n",
)  # fmt: skip


def row(text, gold, expected, family, **options):
    task = {"answer": gold}
    return {"text": text, "task": task, "options": options, "expected": expected, "family": family}


def grouped(number: int, mark: str) -> str:
    """The digits in groups of three."""
    return f"{number:,}".replace(",", mark)


def spellings(rng: random.Random) -> list[tuple[str, str, object]]:
    """(family, spelling, its value) for the number rules."""
    n = rng.randint
    rows: list[tuple[str, str, object]] = []
    for _ in range(4):
        k = n(2, 999)
        rows += [("plain", f"{k}", k), ("negative", f"-{k}", -k), ("leading zeros", f"00{k}", k)]
        rows += [("unicode minus", f"{m}{k}", -k) for m in "−–－"]
        rows += [("dollars", f"${k}", k), ("dollars", f"-${k}", -k), ("dollars", f"$-{k}", -k)]
        rows += [("dollars", f"\\${k}", k), ("dollars", f"€{k}", k), ("plus", f"+{k}", k)]
        rows += [("percent", f"{k}%", k), ("percent", f"{k}\\%", k), ("percent", f"{k} %", k)]
        rows += [("units", f"{k} {u}", k) for u in ("apples", "cm^2", "m/s", "square feet", "km")]
        rows += [("units", f"{k}kg", k), ("units", f"{k}°", k), ("units", f"{k}^\\circ", k)]
    for _ in range(4):
        big = n(1000, 9_999_999)
        marks = (",", "{,}", "\\,", ",\\!", "'", "’", "_", NBSP, THIN, NARROW)
        rows += [("thousands", grouped(big, mark), big) for mark in marks]
        rows += [
            ("commas", f"${big:,}.50", Fraction(2 * big + 1, 2)),
            ("commas", f"-{big:,}", -big),
        ]
    rows += [("thousands", "12,34,567", 1234567), ("thousands", "1,23,456", 123456)]
    for _ in range(4):
        k, cents = n(0, 99), n(1, 9)
        rows += [("decimal", f"{k}.{cents}", Fraction(10 * k + cents, 10))]
        rows += [("decimal", f"{k}.{cents}00", Fraction(10 * k + cents, 10))]
        rows += [("decimal", f".{cents}", Fraction(cents, 10)), ("decimal", f"{k}.0", k)]
        rows += [("decimal", f"-0.0{cents}", Fraction(-cents, 100))]
    for _ in range(4):
        a, b, w = n(1, 4), n(5, 9), n(1, 30)
        value = Fraction(a, b)
        rows += [("fraction", text, value) for text in (
            f"{a}/{b}", f"{a} / {b}", f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{a}}}{{{b}}}",
            f"\\tfrac{a}{b}", f"\\frac{{ {a} }}{{ {b} }}",
        )]  # fmt: skip
        rows += [("fraction", f"-\\frac{{{a}}}{{{b}}}", -value), ("fraction", f"-{a}/{b}", -value)]
        rows += [("mixed number", f"{w} {a}/{b}", w + value)]
        rows += [("mixed number", f"{w}\\frac{{{a}}}{{{b}}}", w + value)]
        rows += [("fraction", f"{b}/{a}", 1 / value)]
    for power in (2, 3, 5, 12):
        k = n(1, 9)
        rows += [("scientific", f"{k}e{power}", k * 10**power)]
        rows += [("scientific", f"{k}.5E-{power}", Fraction(2 * k + 1, 2) / 10**power)]
        rows += [("scientific", f"{k} \\times 10^{{{power}}}", k * 10**power)]
        rows += [("scientific", f"{k}.5 × 10^{power}", Fraction(2 * k + 1, 2) * 10**power)]
        rows += [("scientific", f"-{k} \\cdot 10^{{-{power}}}", Fraction(-k, 10**power))]
    long = int("7" * 60)
    return [*rows, ("long", f"{long}", long), ("full width", "４２", 42), ("zero", "0", 0)]


def gold_of(value, rng: random.Random) -> object:
    """The value as data have it: a number, its text, or a solution."""
    value = Fraction(value)
    if value.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    whole = value.numerator
    styles = [whole, str(whole), f"{whole:,}", f"It is so.\n#### {whole}", f"${whole}$"]
    return rng.choice([*styles, f"Thus $\\boxed{{{whole}}}$."])


TRAPS = [
    # text, gold, expected
    ("between 10-12", 12, 1), ("between 10-12", -12, 0), ("pages 10–12", -12, 0),
    ("3, 4, 5", 5, 1), ("3, 4, 5", 345, 0), ("points 3,4", 4, 1), ("points 3,4", 34, 0),
    ("in 2019,2020", 2020, 1), ("in 2019,2020", 20192020, 0), ("10,200,3000", 3000, 1),
    ("it is 7 in H2O", 7, 1), ("it is 7, see x_1", 7, 1), ("it is 7, see x_{2}", 7, 1),
    ("covid-19", 19, 1), ("covid-19", -19, 0), ("an area of 7 cm^2", 7, 1),
    ("a speed of 7 m s^{-1}", 7, 1), ("version 1.2.3", "1.2", 1), ("version 1.2.3", 3, 0),
    ("on 3/4/2020", 2020, 1), ("at 10:30", 30, 1), ("at 10:30", 10, 0), ("5 - 3", 3, 1),
    ("5 - 3", -3, 0), ("(-3)", -3, 1), ("x=-3", -3, 1), ("1 234", 234, 1), ("1 234", 1234, 0),
    ("1.234.567", 1234567, 0), ("1.234,56", "1234.56", 0), ("7/0", 0, 1), ("--8", 8, 1),
    ("answer: 42. Or is it 43?", 42, 0), ("answer: 42. Or is it 43?", 43, 1),
    ("42 is the answer, I said it twice", 42, 1), ("step 1: 42\nstep 2: check", 42, 0),
    ("#### 42\nbut also 7", 42, 0), ("\\boxed{42} of 50", 42, 0), ("half of it: 1/2", "0.5", 1),
    ("0.5", "1/2", 1), ("0.33", "1/3", 0), ("0.333333333333", "1/3", 0), ("50%", "0.5", 0),
    ("2.0", 2, 1), ("2.000001", 2, 0), ("1e3", 1000, 1), ("2e", 2, 1), ("1e999", 1, 0),
    ("", 0, 0), (" \n ", 0, 0), ("no idea", 0, 0), ("...", 0, 0), ("-", 0, 0), ("$", 0, 0),
    ("forty-two", 42, 0), ("NaN", 0, 0), ("infinity", 0, 0), ("½", "0.5", 0), ("IV", 4, 0),
    ("答案是5", 5, 1), ("答案是5。", 5, 1), ("\U0001f600 8 \U0001f600", 8, 1), ("5.", 5, 1),
    ("5...", 5, 1), ("5,", 5, 1), ("5;6", 6, 1), ("it's 5'", 5, 1), ("'5'", 5, 1), ("`5`", 5, 1),
    ("<answer>5</answer>", 5, 1), ("\\text{5}", 5, 1), ("\\(5\\)", 5, 1), ("5)", 5, 1),
    ("7", "no idea", None), ("7", "", None), ("7", None, None), ("7", True, None),
    ("7", "7 or 8", None), ("7", "x", None), ("7", 7.0, 1), ("0.1", 0.1, 1), ("1/10", 0.1, 1),
]  # fmt: skip


def last_number() -> list[dict]:
    rng = random.Random(1)
    rows = [row(text, gold, expected, "trap") for text, gold, expected in TRAPS]
    known = spellings(rng)
    for number, (family, spelling, value) in enumerate(rng.sample(known, 200 - len(rows))):
        text = SENTENCES[number % len(SENTENCES)].format(spelling)
        wrong = number % 4 == 3
        gold = gold_of(Fraction(value) + 1 if wrong else value, rng)
        rows.append(row(text, gold, int(not wrong), family))
    return rows


WHOLES = [
    # an answer alone, gold, expected
    ("3 or 4", 4, 0), ("3 or 4", 3, 0), ("10^2", 100, 0), ("\\sqrt{3}", 3, 0), ("2\\sqrt{3}", 2, 0),
    ("3:4", 3, 0), ("3 hours 20 minutes", 3, 0), ("x = 5", 5, 1), ("x=-5", -5, 1), ("5x", 5, 1),
    ("- 5", -5, 1), ("5 €", 5, 1), ("$5$", 5, 1), ("**5**", 5, 1), ("`5`", 5, 1), ("\\(5\\)", 5, 1),
    ("\\text{5 cm}", 5, 1), ("5\\text{ cm}", 5, 1), ("5 \\mathrm{~m}", 5, 1), ("5!", 5, 1),
    ("1 234", 1234, 0), ("1.234.567", 1234567, 0), ("five", 5, 0), ("-", 0, 0), ("(5)", 5, 0),
    ("1, 2", 2, 0), ("5 + 0", 5, 0), ("\\frac{1}{0}", 0, 0), ("\\frac{x}{2}", 2, 0), ("5%", 5, 1),
    ("7", "seven", None), ("7", None, None),
]  # fmt: skip
AROUND = {
    "whole": ("{}", " {} ", "{}\n"),
    "boxed": (
        "So $\\boxed{{{}}}$.", "\\boxed{{1}} or rather \\boxed{{{}}}", "\\boxed{{{}}} of 50, or 99",
    ),
    "marked": ("Steps: 1, 2, 3.\n#### {}", "#### 7\nno:\n####{}", "#### {}\nbut also 99"),
}  # fmt: skip
ABSENT = [
    ("boxed", "The answer is 5.", 5), ("boxed", "\\boxed{5", 5), ("boxed", "boxed{5}", 5),
    ("boxed", "\\boxed{}", 0), ("boxed", "\\boxed{5} then \\boxed{\\frac{1}{", 5), ("boxed", "", 0),
    ("marked", "The answer is 5.", 5), ("marked", "####", 0), ("marked", "####\n5", 5),
    ("marked", "### 5", 5), ("marked", "", 0), ("whole", "", 0), ("whole", "It is 5", 5),
    ("whole", "5\n6", 6), ("whole", "#### 5", 5), ("whole", "\\boxed{5}", 5),
]  # fmt: skip


def exact_number() -> list[dict]:
    rng = random.Random(2)
    rows = [row(text, gold, 0, "no answer", take=take) for take, text, gold in ABSENT]
    for number, (text, gold, expected) in enumerate(WHOLES):
        for take in rng.sample(sorted(AROUND), 2):
            around = AROUND[take][number % 3]
            rows.append(row(around.format(text), gold, expected, "alone", take=take))
    # Marks of the sentence's own would be another number: no currency inside two dollar signs.
    known = [entry for entry in spellings(rng) if entry[0] != "plus"]
    for number, (family, spelling, value) in enumerate(rng.sample(known, 196 - len(rows))):
        take = sorted(AROUND)[number % 3]
        wrong = number % 5 == 4
        gold = gold_of(Fraction(value) - 1 if wrong else value, rng)
        text = AROUND[take][number % 2].format(spelling)
        rows.append(row(text, gold, int(not wrong), family, take=take))
    for mark, text, expected in (
        ("Answer:", "Answer: 5", 1), ("Answer:", "#### 5", 0), ("A=", "A=1 A=5", 1),
        ("=>", "5 =>", 0),
    ):  # fmt: skip
        rows.append(row(text, "5", expected, "marker", take="marked", marker=mark))
    return rows
