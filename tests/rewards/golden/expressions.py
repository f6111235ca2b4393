r"""Golden rows of the rules that read expressions: boxed answers, and answers as mathematics.

An answer and a gold are two spellings of one thing, or of two; which of them is known as they are
written. The rules differ in what they may know: `Boxed` knows spellings, numbers and nothing else.
"""

import itertools
import random
from fractions import Fraction

AROUND = (
    "So the answer is $\\boxed{{{}}}$.",
    "\\boxed{{{}}}",
    "First \\boxed{{0.123}}, finally\n\\boxed{{{}}}",
    "Let $x = 3$.\nThen $$\\boxed{{{}}}$$ holds for all 17 of them.",
    "\\fbox{{{}}}",
)


def row(text, gold, expected, family, **options):
    task = {"answer": gold}
    return {"text": text, "task": task, "options": options, "expected": expected, "family": family}


SPELLINGS = [
    # family, spellings of one expression: any of them is any other's gold
    ("fraction", ["\\frac{a}{b}", "\\dfrac{a}{b}", "\\tfrac{a}{b}", "\\frac ab", "\\frac{a} {b}"]),
    ("fraction", ["\\frac{1}{2}", "\\dfrac12", "1/2", "0.5", ".5", "\\frac{2}{4}", "0.50"]),
    ("fraction", ["-\\frac{3}{4}", "-3/4", "-0.75", "\\frac{-3}{4}", "-.75", "−\\dfrac{3}{4}"]),
    ("braces", ["\\frac{\\sqrt{x+1}}{2}", "\\dfrac{\\sqrt{x+1}}{2}", "\\frac{\\sqrt{x + 1}}{2}"]),
    ("braces", ["e^{x^{2^{n}}}", "e^{x^{2^{n}}}.", " e^{x^{2^{n}}} "]),
    ("root", ["\\sqrt{3}", "\\sqrt3", "\\sqrt{3}."]),
    ("root", ["2\\sqrt{5}", "2\\sqrt5", "2 \\sqrt{5}", "2\\,\\sqrt{5}", "2\\!\\sqrt5"]),
    ("parentheses", ["(1, 2)", "(1,2)", "\\left(1,2\\right)", "\\left( 1,\\, 2 \\right)"]),
    ("set", ["\\{1,2\\}", "\\{1, 2\\}", "\\left\\{1,2\\right\\}"]),
    ("interval", ["[0,1)", "[0, 1)", "\\left[0,1\\right)"]),
    ("infinity", ["(-\\infty, 3]", "(-\\infty,3]", "\\left(-\\infty,3\\right]"]),
    ("degrees", ["30", "30^\\circ", "30^{\\circ}", "30°", "30.0"]),
    ("percent", ["25", "25\\%", "25%"]),
    ("money", ["18.90", "\\$18.90", "$18.9$", "18.9"]),
    ("unit", ["12", "12\\text{ cm}", "12 \\text{ inches}", "12\\mbox{ cm}^2", "12\\ \\mathrm{kg}"]),
    ("unit", ["x+2", "x + 2", "x+2\\text{ cm}"]),
    ("thousands", ["1000000", "1,000,000", "1{,}000{,}000", "1,\\!000,\\!000", "1000000.0"]),
    ("name", ["5", "x=5", "x = 5", "n=5"]),
    ("name", ["3\\pi", "y=3\\pi", "r = 3\\pi"]),
    ("words", ["\\text{east}", "east", "\\mathrm{east}", "\\textbf{east}", " east."]),
    ("words", ["\\text{(C)}", "(C)", "(C)."]),
    (
        "matrix",
        ["\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"],
    ),
    ("lines", ["a+b", "a +\nb", "a\n+ b\n"]),
]
DIFFERENT = [
    # family, answer, gold: two things, or one that only mathematics can tell
    ("order", "1+x", "x+1"),
    ("order", "(2,1)", "(1,2)"),
    ("order", "\\{2,1\\}", "\\{1,2\\}"),
    ("value", "\\frac{1}{3}", "0.333"),
    ("value", "0.333", "\\frac{1}{3}"),
    ("value", "7", "8"),
    ("value", "-5", "5"),
    ("value", "\\frac{2}{1}", "\\frac{1}{2}"),
    ("value", "12", "1.2"),
    ("value", "10", "100"),
    ("root", "\\sqrt{8}", "2\\sqrt{2}"),
    ("root", "\\sqrt{3}", "3"),
    ("bracket", "(0,1)", "[0,1]"),
    ("bracket", "[0,1)", "(0,1]"),
    ("case", "A", "a"),
    ("case", "\\text{East}", "east"),
    ("words", "west", "east"),
    ("words", "\\text{even}", "odd"),
    ("name", "x=5", "6"),
    ("name", "x=y=5", "5"),
    ("power", "x^2", "x^3"),
    ("power", "2x", "x^2"),
    ("sign", "x-1", "x+1"),
    ("unit", "12\\text{ cm}", "13\\text{ cm}"),
    ("empty", "", "5"),
    ("empty", "\\text{ cm}", "5"),
    ("thousands", "1,000", "1,000,000"),
    ("two", "3,4", "34"),
    ("percent", "25\\%", "0.25"),
    ("infinity", "\\infty", "-\\infty"),
    ("pi", "\\pi", "3.14"),
    ("pi", "3.14159", "\\pi"),
    ("choice", "\\text{(A)}", "(C)"),
    ("fraction", "\\frac{a}{c}", "\\frac{a}{b}"),
    (
        "matrix",
        "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}",
        "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
    ),
]
ODD_BOXES = [
    # text, gold, expected
    ("The answer is 5.", "5", 0),
    ("\\boxed{5", "5", 0),
    ("boxed{5}", "5", 0),
    ("", "5", 0),
    ("\\boxed{5} and then \\boxed{\\frac{1", "5", 0),
    ("\\boxed{5}\\boxed{6}", "5", 0),
    ("\\boxed{5}\\boxed{6}", "6", 1),
    ("\\boxed 5", "5", 1),
    ("\\boxed 5.", "5", 1),
    ("$\\boxed 5$", "5", 1),
    ("\\boxed {5}", "5", 1),
    ("\\boxed{\\boxed{5}}", "5", 1),
    ("\\boxed{}", "5", 0),
    ("\\boxed{ }", "5", 0),
    ("\\boxed{5} is the answer, not 6", "5", 1),
    ("\\boxed{6}, no: 5", "5", 0),
    ("\\boxed{\n5\n}", "5", 1),
    ("\\boxed{{5}}", "5", 1),
    ("\\boxed", "5", 0),
    ("\\boxed{5}}", "5", 1),
    ("{\\boxed{5}", "5", 1),
    ("\\Boxed{5}", "5", 0),
    ("\\boxed{5}" * 50, "5", 1),
    ("\\boxed{5}", 5, 1),
    ("\\boxed{0.1}", 0.1, 1),
    ("\\boxed{5}", "As shown,\n$$\\boxed{5}$$", 1),
    ("\\boxed{5}", "\\boxed{4}, no, \\boxed{5}", 1),
    ("\\boxed{5}", "", None),
    ("\\boxed{5}", None, None),
    ("\\boxed{5}", "\\boxed{5", None),
    ("\\boxed{5}", True, None),
    ("\\boxed{5}", " . ", None),
    ("\\boxed{5}", ["5"], None),
]


def boxed() -> list[dict]:
    rng = random.Random(3)
    rows = [row(text, gold, expected, "box") for text, gold, expected in ODD_BOXES]
    for number, (family, answer, gold) in enumerate(DIFFERENT):
        rows.append(row(AROUND[number % 5].format(answer), gold, 0, family))
    pairs = [(f, a, b) for f, same in SPELLINGS for a, b in itertools.permutations(same, 2)]
    for number, (family, answer, gold) in enumerate(rng.sample(pairs, 200 - len(rows))):
        rows.append(row(AROUND[number % 5].format(answer), gold, 1, family))
    return rows


def polynomials(rng: random.Random) -> list[tuple[str, str, str, int]]:
    """(family, answer, gold, expected): products and what they expand to, right and wrong."""
    rows = []
    for _ in range(12):
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        product, plain = f"(x+{a})(x+{b})", f"x^2+{a + b}x+{a * b}"
        rows += [("expand", product, plain, 1), ("expand", plain, product, 1)]
        rows += [("expand", f"x^2+{a + b + 1}x+{a * b}", product, 0)]
        rows += [("square", f"(x-{a})^2", f"x^2-{2 * a}x+{a * a}", 1)]
        rows += [("square", f"(x-{a})^2", f"x^2+{2 * a}x+{a * a}", 0)]
    return rows


def values(rng: random.Random) -> list[tuple[str, str, str, int]]:
    rows = []
    for _ in range(16):
        a, b, k = rng.randint(1, 8), rng.choice((3, 7, 9, 11)), rng.randint(2, 9)
        f = Fraction(a, b)
        rows += [
            (
                "fraction",
                f"\\frac{{{a * k}}}{{{b * k}}}",
                f"\\frac{{{f.numerator}}}{{{f.denominator}}}",
                1,
            )
        ]
        rows += [("fraction", f"\\frac{{{a}}}{{{b}}}", f"\\frac{{{a + 1}}}{{{b}}}", 0)]
        rows += [("root", f"\\sqrt{{{k * k * b}}}", f"{k}\\sqrt{{{b}}}", 1)]
        rows += [("root", f"\\sqrt{{{k * k * b + 1}}}", f"{k}\\sqrt{{{b}}}", 0)]
        rows += [
            ("decimal", f"{k}.5", f"\\frac{{{2 * k + 1}}}{{2}}", 1),
            ("power", f"2^{{{k}}}", str(2**k), 1),
        ]
        rows += [
            ("sum", f"\\frac{{1}}{{{b}}}+\\frac{{1}}{{{k}}}", f"\\frac{{{b + k}}}{{{b * k}}}", 1)
        ]
        rows += [
            ("pi", f"\\frac{{{k}\\pi}}{{2}}", f"{k}\\pi/2", 1),
            ("pi", f"{k}\\pi", f"{k + 1}\\pi", 0),
        ]
        rows += [("negative", f"-{k}", str(k), 0), ("thousands", f"{k},000", f"{k}000", 1)]
    return rows


STRUCTURES = [
    ("set", "\\{1,2\\}", "\\{2,1\\}", 1),
    ("set", "\\{1,2,3\\}", "\\{1,2\\}", 0),
    ("set", "1, 2", "\\{1,2\\}", 1),
    ("tuple", "(1,2,3)", "(1,2,3)", 1),
    ("tuple", "(2,1,3)", "(1,2,3)", 0),
    ("tuple", "(\\frac{1}{2},3,4)", "(0.5,3,4)", 1),
    ("interval", "[0,1)", "[0,1)", 1),
    ("interval", "[0,1]", "[0,1)", 0),
    ("interval", "(0,2)", "(0,1)", 0),
    ("interval", "(-\\infty,3]", "(-\\infty, 3]", 1),
    ("union", "(0,1)\\cup(2,3)", "(2,3)\\cup(0,1)", 1),
    ("equation", "x=5", "5", 1),
    ("equation", "5", "x=5", 1),
    ("equation", "y=2x+1", "y=1+2x", 1),
    ("equation", "y=2x+1", "y=2x-1", 0),
    ("percent", "50\\%", "0.5", 1),
    ("percent", "50\\%", "0.6", 0),
    ("matrix", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", 1),
    ("matrix", "\\begin{pmatrix}2\\\\1\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", 0),
    ("order", "1+x", "x+1", 1),
    ("order", "ab", "ba", 1),
    ("function", "\\sin^2 x+\\cos^2 x", "1", 1),
    ("function", "\\log_2 8", "3", 1),
    ("function", "\\ln e", "1", 1),
    ("unit", "12\\text{ cm}", "12", 1),
    ("infinity", "\\infty", "\\infty", 1),
    ("infinity", "-\\infty", "\\infty", 0),
    ("degrees", "30^\\circ", "30", 1),
    ("factorial", "4!", "24", 1),
    ("binomial", "\\binom{5}{2}", "10", 1),
    ("words", "\\text{east}", "\\text{east}", 1),
    ("words", "\\text{west}", "\\text{east}", 0),
    ("money", "\\$18.90", "18.9", 1),
    ("spaces", "2 \\sqrt{ 5 }", "2\\sqrt{5}", 1),
]
ODD_TEXTS = [
    ("", "5", 0),
    ("I don't know", "5", 0),
    ("The answer is 5.", "5", 1),
    ("It is 1/2", "\\frac{1}{2}", 1),
    ("$4$ or, better, $5$", "5", 1),
    ("$\\boxed{5}$ and $7$", "5", 1),
    ("$\\boxed{5}$, $\\boxed{6}$", "6", 1),
    ("$\\boxed{5}$", "", None),
    ("$\\boxed{5}$", None, None),
    ("$\\boxed{5}$", 5, 1),
    ("$\\boxed{5}$", True, None),
    ("$\\boxed{5}$", "so $\\boxed{5}$", 1),
    ("$\\boxed{0.5}$", 0.5, 1),
    ("\\(\\boxed{5}\\)", "$5$", 1),
    ("\\[x = 5\\]", "5", 1),
    ("$\\boxed{5}$ and $\\boxed{6", "5", 0),
    ("Final answer: -5", "-5", 1),
    ("total 1,234", "1234", 1),
    ("5 = 5", "6", 0),
]


def math_verify() -> list[dict]:
    rng = random.Random(4)
    rows = [row(text, gold, expected, "text") for text, gold, expected in ODD_TEXTS]
    pairs = STRUCTURES + rng.sample(sorted(set(polynomials(rng))), 45)
    pairs += rng.sample(sorted(set(values(rng))), 200 - len(rows) - len(pairs))
    for number, (family, answer, gold, expected) in enumerate(pairs):
        rows.append(row(AROUND[number % 4].format(answer), gold, expected, family))
    return rows
