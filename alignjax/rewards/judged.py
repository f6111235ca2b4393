"""A rule that asks a judge behind an address: AI feedback as the reward itself."""

import dataclasses
import functools
import pathlib
import string
from collections.abc import Sequence

import numpy as np

from alignjax.core import shapes, untrusted
from alignjax.rewards import judge, option_judge, remote_judge, rules


@dataclasses.dataclass(kw_only=True)
class Judged(rules.RuleConfig):
    """A remote judge's mean score of a text, from 0, the lowest level, to 1, the highest.

    The address is OpenAI-compatible. A text whose score can't be read, or that nobody answers for,
    is NaN: it leaves its group. Equal texts of equal prompts are asked once a run.

    Reference: Lee et al. (2023, direct RLAIF), arXiv 2309.00267.
    """

    address: str = ""  # up to /v1
    model: str = ""  # its name there
    template: str = option_judge.SCORE  # with {prompt} and {answer}
    levels: tuple[str, ...] = ("1", "2", "3", "4", "5")  # the scores in words, ascending
    prompt: str = "prompt"  # column with the prompt
    token_file: str = ""  # file with the address's token; "" for none
    timeout_s: float = 60.0  # for a request
    retries: int = 3

    def validate(self) -> None:
        super().validate()
        found = {field for _, field, _, _ in string.Formatter().parse(self.template) if field}
        if found != {"prompt", "answer"}:
            raise ValueError(
                f"Judged.template must hold answer, prompt in braces; got "
                f"{', '.join(sorted(found)) or 'none'}."
            )
        if len(set(self.levels)) < max(len(self.levels), 2):
            raise ValueError(
                f"Judged.levels must be two different texts at least; got {self.levels}."
            )
        if self.token_file and not pathlib.Path(self.token_file).is_file():
            raise ValueError(f"Judged.token_file must be a file; got {self.token_file!r}.")
        shapes.check_number("Judged.timeout_s", self.timeout_s, above=0)
        shapes.check_number("Judged.retries", self.retries, minimum=0)
        remote_judge.check_address(self.address)

    def needs(self) -> tuple[str, ...]:
        return (self.prompt,)

    def score(self, texts: Sequence[str], tasks: Sequence[rules.Task]) -> np.ndarray:
        options = dataclasses.asdict(self)
        scored = _asked(**{n: v for n, v in options.items() if n not in ("weight", "prompt")})
        if not texts:
            return np.zeros(0, np.float32)
        levels = scored([str(task[self.prompt]) for task in tasks], texts)
        means = judge.expected_scores(levels)
        return np.asarray((means - 1) / (len(self.levels) - 1), np.float32)


@functools.cache
def _asked(
    *,
    address: str,
    model: str,
    template: str,
    levels: tuple[str, ...],
    token_file: str,
    timeout_s: float,
    retries: int,
) -> judge.Distribution:
    """The judge of these settings, with the answers that it gave in this process."""
    token = untrusted.read_text(token_file, untrusted.OPTION).strip() if token_file else ""
    post = remote_judge.poster(address, token=token, timeout_s=timeout_s, retries=retries)
    own = remote_judge.remote(
        post, model, template="", score_template=template, levels=levels, cache={}
    )
    assert own.score is not None
    return own.score
