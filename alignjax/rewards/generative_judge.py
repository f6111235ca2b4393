"""A judge that writes: a critique of both answers first, then a verdict in its last line.

Its text is parsed strictly: what is no verdict is NaN and counted, and never a tie.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from alignjax.rewards import judge, remote_judge

MARKER = "Verdict:"
TEMPLATE = (
    "Two answers to a request.\n\nRequest: {prompt}\n\nAnswer 1: {first}\n\nAnswer 2: {second}"
    "\n\nFirst write what is good and bad about each answer, in a few sentences. Then write the "
    'verdict alone in the last line: "Verdict: 1" or "Verdict: 2" for the better answer, or '
    '"Verdict: tie".'
)
AROUND = " \t*_`\"'.()[]"  # what may stand around a verdict


def generative(
    write: Callable[[Sequence[str]], Sequence[str]],
    *,
    name: str = "generative",
    template: str = TEMPLATE,
    options: tuple[str, str] = ("1", "2"),
    tie: str = "tie",
    marker: str = MARKER,
) -> judge.Judge:
    """A judge by what a model writes about pairs.

    Args:
      write: requests -> the model's answers, at temperature 0. template: with {prompt}, {first}
      and {second}. options: the verdicts for the first and for the second; tie: for neither.
      marker: what stands before the verdict.
    """

    def one(prompts: judge.Texts, first: judge.Texts, second: judge.Texts) -> np.ndarray:
        rows = zip(prompts, first, second, strict=True)
        texts = write([template.format(prompt=p, first=x, second=y) for p, x, y in rows])
        return np.array([verdict(text, options, tie, marker) for text in texts], np.float64)

    return judge.Judge(name, judge.both_orders(one))


def verdict(text: str, options: tuple[str, str], tie: str, marker: str = MARKER) -> float:
    """The logit of the first option: a sure verdict, 0 for a tie, NaN where there is none.

    The last line that holds the marker decides, and must hold the verdict and nothing else behind
    it: a critique that names both answers, or a text that was cut, is no verdict.
    """
    lines = [line for line in text.splitlines() if marker.casefold() in line.casefold()]
    if not lines:
        return float("nan")
    said = re.split(re.escape(marker), lines[-1], flags=re.IGNORECASE)[-1].strip(AROUND).casefold()
    known = {tie: 0.0, options[0]: remote_judge.SURE, options[1]: -remote_judge.SURE}
    return {word.casefold(): logit for word, logit in known.items()}.get(said, float("nan"))
