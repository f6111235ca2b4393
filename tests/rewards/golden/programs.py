"""Golden rows of the code rule: programs whose tests are passed or not by how they are written."""

import itertools

TASKS = {
    # name: (the right body of f(x), a wrong one, tests: the wrong one passes the first only)
    "double": (
        "return 2 * x",
        "return x + 2",
        ["f(2) == 4", "f(3) == 6", "f(0) == 0", "f(-1) == -2"],
    ),
    "square": (
        "return x * x",
        "return 2 * x",
        ["f(2) == 4", "f(3) == 9", "f(4) == 16", "f(-1) == 1"],
    ),
    "reverse": (
        "return x[::-1]",
        "return x",
        ["f('aba') == 'aba'", "f('ab') == 'ba'", "f('xyz') == 'zyx'", "f('12') == '21'"],
    ),
    "longest": (
        "return max(x, key=len)",
        "return x[0]",
        [
            "f(['abc', 'a']) == 'abc'",
            "f(['a', 'ab']) == 'ab'",
            "f(['', 'b']) == 'b'",
            "f(['a', 'bc', 'd']) == 'bc'",
        ],
    ),
    "total": (
        "return sum(x)",
        "return len(x)",
        ["f([1, 1]) == 2", "f([5]) == 5", "f([1, 2, 3]) == 6", "f([-1]) == -1"],
    ),
}
RIGHT = {
    "plain": "def f(x):\n    {right}\n",
    "future": "from __future__ import annotations\ndef f(x: int) -> int:\n    {right}\n",
    "helper": (
        "import math, collections\ndef _own(x):\n    {right}\ndef f(x):\n    return _own(x)\n"
    ),
    "class": (
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Box:\n    x: object\n"
        "    def go(self):\n        x = self.x\n        {right}\n"
        "def f(x):\n    return Box(x).go()\n"
    ),
    "main guard": (
        "def f(x):\n    {right}\nif __name__ == '__main__':\n    print(f(int(input())))\n"
    ),
    "prints": "print('hello')\ndef f(x):\n    print(x)\n    {right}\n",
    "slow": "def f(x):\n    for _ in range(10000):\n        pass\n    {right}\n",
    "child": (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'])\n"
        "def f(x):\n    {right}\n"
    ),
}
WRONG = {
    # passes the first test only
    "wrong": "def f(x):\n    {wrong}\n",
}
NOTHING = {
    # passes none
    "syntax": "def f(x)\n    {right}\n",
    "no function": "def g(x):\n    {right}\n",
    "raises": "raise ValueError('no')\ndef f(x):\n    {right}\n",
    "raises later": "def f(x):\n    raise ValueError('no')\n",
    "exits": "import sys\nsys.exit(0)\ndef f(x):\n    {right}\n",
    "exits at once": "import os\nos._exit(0)\ndef f(x):\n    {right}\n",
    "exits inside": "import os\ndef f(x):\n    os._exit(0)\n",
    "memory": "held = bytearray(1 << 40)\ndef f(x):\n    {right}\n",
    "segfault": "import ctypes\nctypes.string_at(0)\ndef f(x):\n    {right}\n",
    "recursion": "def f(x):\n    return f(x)\n",
    "None": "def f(x):\n    x\n",
    "empty": "",
}
ABOUT = "Here it is:\n\n```python\n{}```\nThat is all.\n"


def row(text, tests, expected, family, **options):
    task = {"tests": tests}
    return {"text": text, "task": task, "options": options, "expected": expected, "family": family}


def functions() -> list[dict]:
    rows = []
    for name, (right, wrong, tests) in TASKS.items():
        sources = [f"assert {test}" for test in tests]
        known = [(f, p, 4) for f, p in RIGHT.items()] + [(f, p, 1) for f, p in WRONG.items()]
        known += [(family, program, 0) for family, program in NOTHING.items()]
        for family, program, passed in known:
            text = ABOUT.format(program.replace("{right}", right).replace("{wrong}", wrong))
            share = (len(name) + len(family)) % 2 == 0
            expected = passed / 4 if share else float(passed == 4)
            rows.append(row(text, sources, expected, family, share=share))
            if family in ("plain", "wrong"):
                rows.append(row(text, "\n".join(sources), float(passed == 4), "one source"))
    return rows


SUM = {
    # family: (program, of the pairs below how many it gets right)
    "plain": ("a, b = map(int, input().split())\nprint(a + b)\n", 4),
    "main": (
        "def main():\n    a, b = map(int, input().split())\n    print(a + b)\n"
        "if __name__ == '__main__':\n    main()\n",
        4,
    ),
    "blanks": ("a, b = map(int, input().split())\nprint(a + b, ' ')\nprint()\n", 4),
    "stdin": ("import sys\nprint(sum(map(int, sys.stdin.read().split())))\n", 4),
    "exit": ("import sys\na, b = map(int, input().split())\nprint(a + b)\nsys.exit(0)\n", 4),
    "product": ("a, b = map(int, input().split())\nprint(a * b)\n", 1),
    "constant": ("print(4)\n", 1),
    "first line": ("print(4)\nprint(4)\n", 0),
    "bad exit": ("import sys\na, b = map(int, input().split())\nprint(a + b)\nsys.exit(1)\n", 0),
    "raises": ("a, b = map(int, input().split())\nprint(a + b)\nprint(1 // 0)\n", 0),
    "silent": ("a, b = map(int, input().split())\n", 0),
    "too much input": ("a = int(input())\nb = int(input())\nprint(a + b)\n", 0),
    "words": ("a, b = map(int, input().split())\nprint('sum:', a + b)\n", 0),
}
PAIRS = [("2 2\n", "4\n"), ("1 2\n", "3\n"), ("-5 3", "-2"), ("100 23\n", "123\n\n")]


def programs() -> list[dict]:
    rows = []
    objects = [{"input": a, "output": b} for a, b in PAIRS]
    table = {"inputs": [a for a, _ in PAIRS], "outputs": [b for _, b in PAIRS]}
    for (family, (program, right)), tests in itertools.product(SUM.items(), (objects, table)):
        share = isinstance(tests, list)
        expected = right / 4 if share else float(right == 4)
        rows.append(row(ABOUT.format(program), tests, expected, f"pairs: {family}", share=share))
    return rows


def texts() -> list[dict]:
    """Where the program stands in the text, and tests that are none."""
    good, bad = "def f(x):\n    return 2 * x\n", "def f(x):\n    return x\n"
    test = ["assert f(2) == 4", "assert f(3) == 6"]
    block = "```python\n{}```\n"
    known = [
        ("", 0.0),
        ("no program", 0.0),
        (good, 0.0),
        (f"```python\n{good}", 0.0),
        (f"```\n{good}```", 1.0),
        (f"```py\n{good}```", 1.0),
        (f"```Python\n{good}```", 1.0),
        (f"```python3\n{good}```", 1.0),
        (f"```cpp\n{good}```", 0.0),
        (f"``` python \n{good}```", 1.0),
        (block.format(good) + block.format(bad), 0.0),
        (block.format(bad) + block.format(good), 1.0),
        (f"`{good}`", 0.0),
        (block.format(good) + "as said", 1.0),
        ("    " + block.format(good), 0.0),
        (block.format(good) + "```python\n" + bad, 1.0),
        (block.format("# ```\n" + good), 1.0),
        (block.format(good).replace("\n", "\r\n"), 1.0),
    ]
    rows = [row(text, test, expected, "block") for text, expected in known]
    for tests in (
        [],
        "",
        None,
        5,
        [5],
        [""],
        [{"input": "1"}],
        {"inputs": ["1"], "outputs": []},
        {},
    ):
        rows.append(row(block.format(good), tests, None, "no tests"))
    harness = "def check(g):\n    assert g(2) == 4\n\ncheck(f)"
    for program, expected in ((good, 1.0), (bad, 0.0)):
        rows.append(row(block.format(program), harness, expected, "check"))
        rows.append(row(block.format(program), [harness, "assert f(0) == 0"], expected, "check"))
    return rows


def code() -> list[dict]:
    rows = functions() + programs() + texts()
    short = [
        row(ABOUT.format(f"def f(x):\n    return x + {k}\n"), [test], float(k + 1 == n), "sum")
        for k, n in itertools.product(range(6), range(1, 7))
        for test in [f"assert f(1) == {n}"]
    ]
    return rows + short[: 200 - len(rows)]
