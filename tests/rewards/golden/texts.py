"""Golden rows of the rules that read no answer: form, length, repetition.

Texts are put together from parts whose truth is known: a form from pieces in or out of place, a
repetitive text from so many distinct words repeated so many times, a length from its formula in
whole numbers.
"""

import itertools
import random
from fractions import Fraction


def row(text, expected, family, task=(), **options):
    return {
        "text": text,
        "task": dict(task),
        "options": options,
        "expected": expected,
        "family": family,
    }


THOUGHTS = (
    "2 + 2",
    "first\nsecond\n\nthird",
    "",
    " ",
    "a < b > c",
    "x </b> y",
    "\u4e2d\u6587 é",
    "*" * 300,
)
BROKEN = (
    # (family, a text of a thought and an answer that is not of the form)
    ("no tags", "{t} {a}"),
    ("no thought", "<answer>{a}</answer>"),
    ("no answer", "<think>{t}</think>"),
    ("not closed", "<think>{t}</think><answer>{a}"),
    ("not closed", "<think>{t}<answer>{a}</answer>"),
    ("not opened", "{t}</think><answer>{a}</answer>"),
    ("order", "<answer>{a}</answer><think>{t}</think>"),
    ("nested", "<think>{t}<answer>{a}</answer></think>"),
    ("nested", "<answer><think>{t}</think>{a}</answer>"),
    ("twice", "<think>{t}</think><think>{t}</think><answer>{a}</answer>"),
    ("twice", "<think>{t}</think><answer>{a}</answer><answer>{a}</answer>"),
    ("twice", "<think><think>{t}</think></think><answer>{a}</answer>"),
    ("outside", "Well: <think>{t}</think><answer>{a}</answer>"),
    ("outside", "<think>{t}</think> so <answer>{a}</answer>"),
    ("outside", "<think>{t}</think><answer>{a}</answer> done"),
    ("case", "<Think>{t}</Think><answer>{a}</answer>"),
    ("other tags", "<thinking>{t}</thinking><answer>{a}</answer>"),
    ("other tags", "<think >{t}</think><answer>{a}</answer>"),
)
GOOD = (
    "<think>{t}</think><answer>{a}</answer>",
    "<think>{t}</think>\n<answer>{a}</answer>",
    "<think>{t}</think> \n\t <answer>{a}</answer>",
    "\n<think>{t}</think>\n\n<answer>{a}</answer>\n",
    "<think>\n{t}\n</think>\n<answer>\n{a}\n</answer>",
)
PATTERNS = [
    # pattern, whole, text, expected
    ("a.c", True, "a\nc", 1),
    ("a.c", True, "abcd", 0),
    ("a.c", False, "xabcd", 1),
    ("a.c", True, "", 0),
    ("a.c", False, "ac", 0),
    ("^a$", False, "b\na", 0),
    ("(?m)^a$", False, "b\na", 1),
    (r"\d+", True, " 12 ", 1),
    (r"\d+", True, "12 13", 0),
    (r"\d+", False, "no", 0),
    ("", False, "", 1),
    ("a|b", True, "b", 1),
    ("a|b", True, "ab", 0),
    ("(?i)yes", True, "YES", 1),
    ("yes", True, "YES", 0),
    (r".*\\boxed\{.*\}.*", True, "so\n\\boxed{5}\n.", 1),
    (r"\\boxed\{", False, "boxed{", 0),
    ("<b>.*</b>", True, "<b>\n\n</b>", 1),
    (r"```python\n.*```", True, "```python\nx = 1\n```", 1),
    (r"```python\n.*```", True, "``python\nx = 1\n```", 0),
    ("中.", False, "x中文", 1),
]


def form() -> list[dict]:
    rng = random.Random(5)
    rows = [row(text, e, "pattern", pattern=p, whole=w) for p, w, text, e in PATTERNS]
    answers = ("4", "line\nline", "", "\\frac{1}{2}", "a <b> c")
    broken = list(itertools.product(BROKEN, THOUGHTS, answers))
    texts = {text.format(t=t, a=a): family for (family, text), t, a in broken}
    rows += [row(text, 0, family) for text, family in rng.sample(sorted(texts.items()), 90)]
    good = list(itertools.product(GOOD, THOUGHTS, answers))
    texts = sorted({text.format(t=t, a=a) for text, t, a in good})
    rows += [row(text, 1, "good") for text in rng.sample(texts, 200 - len(rows))]
    return rows


def length() -> list[dict]:
    """exact: -slope |n - t|; no longer than: slope (t - n) + 1/2, cut to [0, 1]."""
    rng = random.Random(6)
    rows = []
    for number in range(200):
        target = rng.choice((1, 10, 100, 512, 4096))
        exact, own = number % 2 == 0, number % 3 == 0
        slope = Fraction(rng.choice((1, 3, 20)), 10_000)
        near = [target, target - 1, target + 1, 1, 0, 2 * target, target + 2000, 10 * target]
        tokens = max(near[number % len(near)], 0)
        if exact:
            expected = -slope * max(tokens - target, target - tokens)
        else:
            expected = slope * (target - tokens) + Fraction(1, 2)
            expected = Fraction(0) if expected < 0 else Fraction(1) if expected > 1 else expected
        task = {"tokens": tokens, **({"budget": target} if own else {})}
        options = {"column": "budget"} if own else {"target": target}
        family = "exact" if exact else "no longer than"
        options |= {"exact": exact, "slope": float(slope)}
        rows.append(row(f"text {number}", float(expected), family, task, **options))
    return rows


def soft_overlong() -> list[dict]:
    """The three cases of DAPO's equation 13, by where the length lies."""
    rng = random.Random(7)
    rows = []
    for number in range(200):
        limit = rng.choice((64, 1000, 20480))
        buffer = rng.choice((1, 16, limit // 4, limit))
        free = limit - buffer
        case = number % 5
        if case == 0:
            tokens, expected = rng.randint(0, free), Fraction(0)
        elif case == 1:
            over = rng.randint(1, buffer)
            tokens, expected = free + over, Fraction(-over, buffer)
        elif case == 2:
            tokens, expected = limit, Fraction(-1)
        elif case == 3:
            tokens, expected = limit + rng.randint(1, 100), Fraction(-1)
        else:
            tokens, expected = free, Fraction(0)
        own = number % 3 == 0
        task = {"tokens": tokens, **({} if own else {"limit": limit})}
        options = {"buffer": buffer, **({"limit": limit} if own else {})}
        family = ("free", "grows", "at the limit", "above", "last free")[case]
        rows.append(row(f"text {number}", float(expected), family, task, **options))
    return rows


WORDS = ["alpha", "beta", "gamma", "delta", "zeta", "eta", "iota", "kappa", "mu", "nu", "xi", "pi"]


def repetition() -> list[dict]:
    """distinct / all - 1. A cycle of k distinct words has k distinct n-grams, once it is whole."""
    rng = random.Random(8)
    blanks = (" ", "\n", "\t ", "  ")
    rows = []
    for number in range(150):
        size, cycle = rng.choice((1, 2, 3, 4, 8)), rng.randint(1, len(WORDS))
        times = rng.randint(1, 6)
        words = rng.sample(WORDS, cycle) * times
        if number % 3 == 0:
            words = [word.upper() if rng.random() < 0.5 else word for word in words]
        count = cycle * times - size + 1
        distinct = cycle if count > cycle else count
        expected = Fraction(distinct, count) - 1 if count > 0 else Fraction(0)
        text = blanks[number % 4].join(words)
        family = "short" if count < 1 else "cycle" if distinct < count else "no repetition"
        rows.append(row(text, float(expected), family, size=size))
    for number in range(40):
        size, cycle, times = rng.randint(1, 4), rng.randint(1, 10), rng.randint(1, 20)
        letters = "中文字符是很好的语言"[:cycle] if number % 2 else "abcdefghij"[:cycle]
        count = cycle * times - size + 1
        distinct = cycle if count > cycle else count
        expected = Fraction(distinct, count) - 1 if count > 0 else Fraction(0)
        blank = " " if number % 4 == 0 else ""
        text = blank.join(letters * times)
        rows.append(row(text, float(expected), "characters", size=size, characters=True))
    for text, size, expected in (
        ("", 1, 0.0), (" \n", 1, 0.0), ("one", 1, 0.0), ("one", 2, 0.0), ("a a", 1, -0.5),
        ("a, a", 1, 0.0), ("a b a b a", 2, -0.5), ("a b c a b d", 2, -0.2), ("A a", 1, -0.5),
        ("x " * 1000, 1, -0.999),
    ):  # fmt: skip
        rows.append(row(text, expected, "by hand", size=size))
    return rows
