"""A model of ours as an `LM` of lm-eval, whose tasks then run on it: extra `eval`.

lm-eval writes prompts as text, those of its chat template too. Text never becomes a control token
here: a conversation that `apply_chat_template` laid out is remembered with its ids, and a prompt
that begins with it is read as these ids with the rest as text.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api import model as lm_eval_model

from alignjax.core import shapes
from alignjax.evals.suites import candidate, layout
from alignjax.models import model as models
from alignjax.sampling import transforms
from alignjax.text import chat
from alignjax.text.tokenizers import interface

ROLES = {"user": chat.HUMAN, "assistant": chat.ASSISTANT, "system": chat.SYSTEM}
NEW_TOKENS = 256  # of an answer, where a task names no limit
# What a task may ask of its answers; whatever else it asks is refused.
KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p")


class Adapter(lm_eval_model.LM):  # type: ignore[misc]
    """lm-eval's interface over a language model of ours."""

    def __init__(
        self,
        model: models.Model,
        params: Any,
        own: layout.Layout,
        limits: candidate.Limits,
        *,
        bos: bool | None = None,
    ) -> None:
        """params: bound. own: with its template, for --apply_chat_template, or without. bos:
        whether BOS stands before a prompt of plain text; None: as the model's files say."""
        super().__init__()
        self._model, self._params, self._layout, self._limits = model, params, own, limits
        self._bos = bos
        self._scorer = candidate.Scorer(model, params, limits)
        self._known: dict[str, list[int]] = {}
        self._samplers: dict[tuple[Any, ...], candidate.Sampler] = {}

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer and template in lm-eval's caches."""
        hashes = self._layout.hashes
        return f"alignjax-{hashes['tokenizer'][:12]}-{hashes['template'][:12]}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What lm-eval hashes into its results: the sha256 of the template."""
        if isinstance(chat_template, str):
            raise ValueError(
                "a template by name must be given to the adapter's layout; got "
                f"{chat_template!r:.40} (harness). Pass apply_chat_template=True."
            )
        return self._layout.hashes["template"] if chat_template else ""

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text, with the names of its control tokens.

        Raises:
          ValueError: another conversation with other ids reads the same.
        """
        turns = [chat.Turn(ROLES[own["role"]], own["content"]) for own in chat_history]
        ids, _ = chat.encode_chat(
            self._layout.speaker, turns, generation_prompt=add_generation_prompt
        )
        text = self._layout.shown(ids)
        if self._known.setdefault(text, ids) != ids:
            raise ValueError(
                "conversations must differ once they are laid out; got two that spell control "
                "tokens as text (harness). Drop the row."
            )
        return text

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether it is the greedy one) of continuations; of one too
        long for the model -inf would be a number: it is refused.

        Raises:
          ValueError: a prompt with its continuation is longer than the limit.
        """
        pairs = [self._pair(*request.args) for request in requests]
        longest = max((len(before) + len(rest) for before, rest in pairs), default=0)
        shapes.check_number("tokens of a request", longest, maximum=self._limits.length)
        found = self._scorer(pairs)
        return [(float(x), bool(y)) for x, y in zip(*found, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """The log-probability in nats of documents, in windows."""
        totals = []
        for request in requests:
            ids, first = candidate.document_ids(self._layout, request.args[0])
            found = self._scorer(candidate.windows(ids, first, self._limits.length - 1))
            totals.append(float(found.logprobs.sum()))
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, cut before the first text of `until`.

        Raises:
          ValueError: a task asks something unknown of its answers, or a prompt is too long.
        """
        answers = [""] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(_asked(request.args[1]), []).append(number)
        for asked, numbers in groups.items():
            said = self._sampler(asked)([self._prompt(requests[i].args[0]) for i in numbers])
            for i, answer in zip(numbers, said, strict=True):
                if answer.text is None:
                    raise ValueError(
                        f"prompts must leave room for an answer in {self._limits.length} tokens; "
                        f"got one that does not (harness, request {i}). Raise the length."
                    )
                answers[i] = cut(answer.text, requests[i].args[1].get("until") or ())
        return answers

    def _sampler(self, asked: tuple[Any, ...]) -> candidate.Sampler:
        if asked not in self._samplers:
            new, temperature, top_k, top_p = asked
            config = transforms.SamplingConfig(
                max_new_tokens=new, temperature=temperature, top_k=top_k, top_p=top_p
            )
            self._samplers[asked] = candidate.Sampler(
                self._model, self._params, config, self._limits, self._layout
            )
        return self._samplers[asked]

    def _prompt(self, text: str) -> list[int]:
        """The ids of a prompt: those of a conversation that it begins with, and the rest."""
        if text in self._known:
            return self._known[text]
        starts = [own for own in self._known if text.startswith(own)]
        if not starts:
            return interface.document_start(self._layout.tokenizer, text, self._bos)
        start = max(starts, key=len)
        before = self._known[start]
        return [*before, *self._layout.behind(text[len(start) :], before)]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of both.

        Plain text is cut as lm-eval's other models cut it: blanks at the end of the context begin
        the continuation, and its ids are those of the whole behind as many as the context has.
        """
        if not context:
            ids, first = candidate.document_ids(self._layout, continuation)
            return [first], ids
        if any(context.startswith(known) for known in self._known):
            before = self._prompt(context)
            return before, self._layout.behind(continuation, before)
        kept = context.rstrip()
        before, whole = (self._prompt(text) for text in (kept, context + continuation))
        return before, whole[len(before) :]


def _asked(options: Mapping[str, Any]) -> tuple[int, float, int, float]:
    """(new tokens, temperature, top_k, top_p) of a task's options.

    Raises:
      ValueError: one of them is not known here.
    """
    unknown = [name for name in options if name not in KNOWN]
    if unknown:
        raise ValueError(
            f"a task's options of answers must be of {', '.join(KNOWN)}; got {unknown[0]!r} "
            "(harness). Leave it out with gen_kwargs."
        )
    greedy = not options.get("do_sample", False)
    temperature = 0.0 if greedy else float(options.get("temperature", 1.0))
    new = int(options.get("max_gen_toks", NEW_TOKENS))
    return new, temperature, int(options.get("top_k", 0)), float(options.get("top_p", 1.0))


def cut(text: str, until: str | Sequence[str]) -> str:
    """The text before the first of these texts in it."""
    stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
    with contextlib.suppress(ValueError):
        return text[: min(place for stop in stops if (place := text.find(stop)) >= 0)]
    return text
