"""Functions of a user, as test_functions.py gives them to Function."""

import time

from tests.rewards import jobs  # what stands beside it can be imported


def vowels(texts, tasks):
    return [sum(letter in "aeiou" for letter in text) for text in texts]


def parts(texts, tasks):
    return {
        "length": [len(text) for text in texts],
        "right": [
            None if task["answer"] is None else text == task["answer"]
            for text, task in zip(texts, tasks, strict=True)
        ],
    }


def picky(texts, tasks):
    """Fails on "no", and has other parts for "other"."""
    if "no" in texts:
        raise ValueError("no")
    return {part: [1.0] * len(texts) for part in ("ac" if "other" in texts else "ab")}


def neighbours(texts, tasks):
    """Not row by row."""
    longest = max(map(len, texts))
    return [len(text) / max(longest, 1) for text in texts]


def first_task(texts, tasks):
    """Every text against the first row's answer."""
    return [float(str(tasks[0]["answer"]) in text) for text in texts]


def shorter(texts, tasks):
    return [1.0] * (len(texts) // 2)


def words(texts, tasks):
    return ["good"] * len(texts)


def table(texts, tasks):
    return [[1.0, 2.0] for _ in texts]


def nothing(texts, tasks):
    return {}


def infinite(texts, tasks):
    return [float("inf") if text == "b" else 1.0 for text in texts]


def strict(texts, tasks):
    """A user's bug: it fails on texts that are no numbers."""
    return [float(text) for text in texts]


def always_fails(texts, tasks):
    raise KeyError("answer")


def hangs(texts, tasks):
    if "hang" in texts[0]:
        jobs.spin(None)
    return [1.0]


def sleeps(texts, tasks):
    time.sleep(0.05)
    return [1.0]


NOT_A_FUNCTION = 3
