"""A model's tokenizer together with its chat template: what the tables of examples ask for.

`chat.encode_chat` and `examples` take a ChatFormat wherever they take our own Tokenizer, whose
layout is built in.
"""

import collections.abc
import dataclasses
import datetime
import hashlib
import json
import os
import typing

from alignjax.text import jinja_template, template_families, templates
from alignjax.text import tokenizer as own_tokenizer
from alignjax.text.tokenizers import interface, load, opened

OWN = "hh"  # the family that lays conversations out as our own tokenizer does


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """A tokenizer that can lay out conversations.

    template: a family's, or a model folder's Jinja. trained: "all" answers or the "last" only.
    date: for a family that states today's, as in templates.encode (a Jinja template has its own).
    tools: JSON descriptions of functions that every conversation lists.
    stops: ids at which the model's own folder says that answers end (generation_config.json).
    """

    tokenizer: interface.TextTokenizer
    template: templates.Template | jinja_template.JinjaTemplate
    date: str | None = None
    trained: str = jinja_template.ALL
    tools: tuple[collections.abc.Mapping[str, typing.Any], ...] = ()
    stops: tuple[int, ...] = ()

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def pad_id(self) -> int:
        """The pad; ValueError where the model has none and none was stated."""
        return load.require_pad(self.tokenizer)

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.bos_id

    @property
    def starts_with_bos(self) -> bool:
        return self.tokenizer.starts_with_bos

    @property
    def eos_id(self) -> int:
        """The token that ends an answer, at which sampling stops: that of the template.

        It need not be the tokenizer's eos: Llama 3 ends turns with <|eot_id|>, texts with
        <|end_of_text|>. A Jinja template names none, so there it is the tokenizer's.
        """
        if isinstance(self.template, templates.Template):
            return self.special[self.template.end]
        if self.tokenizer.eos_id is None:
            raise ValueError(
                "a tokenizer with a Jinja template must name its eos; got none (ChatFormat). "
                "Add eos_token to tokenizer_config.json, or take a family's template."
            )
        return self.tokenizer.eos_id

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids at which a sampled answer ends: `eos_id`, then the folder's other stops."""
        return (self.eos_id, *(token for token in self.stops if token != self.eos_id))

    @property
    def special(self) -> collections.abc.Mapping[str, int]:
        return self.tokenizer.special

    @property
    def fingerprint(self) -> str:
        """sha256 in hex of the tokenizer and of the template with its options."""
        parts: tuple = (self.tokenizer.fingerprint, self._shown, self.date, self.trained)
        if self.tools:
            parts = (*parts, json.dumps(self.tools, sort_keys=True))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def _shown(self) -> str:
        """The template as a text that differs where templates do."""
        template = self.template
        if isinstance(template, jinja_template.JinjaTemplate):
            return template.fingerprint
        # Sets have no order of their own.
        return repr(sorted({**vars(template), "trim": sorted(template.trim)}.items()))

    @property
    def layout(self) -> str:
        """The template with its date and tools, without the tokenizer, as such a text."""
        return repr((self._shown, self.date, json.dumps(self.tools, sort_keys=True)))

    def encode(self, text: str, after: str = interface.NOTHING) -> list[int]:
        return self.tokenizer.encode(text, after)

    def encode_many(
        self, texts: collections.abc.Sequence[str], after: str = interface.NOTHING
    ) -> list[list[int]]:
        return self.tokenizer.encode_many(texts, after)

    def decode(self, ids: collections.abc.Iterable[int]) -> str:
        return self.tokenizer.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        return self.tokenizer.token_bytes(token)

    @property
    def starts_with_space(self) -> bool:
        return self.tokenizer.starts_with_space

    def encode_chat(
        self,
        messages: collections.abc.Sequence[typing.Any],
        *,
        generation_prompt: bool = False,
        tools: collections.abc.Sequence[collections.abc.Mapping] = (),
    ) -> tuple[list[int], list[bool]]:
        """Returns (ids, assistant_mask); see `templates.encode` and `jinja_template.encode`.

        tools: in place of the format's own.
        """
        tools = tools or self.tools
        if isinstance(self.template, jinja_template.JinjaTemplate):
            return jinja_template.encode(
                self.tokenizer,
                self.template,
                messages,
                generation_prompt=generation_prompt,
                tools=tools,
                trained=self.trained,
            )
        ids, mask = templates.encode(
            self.tokenizer,
            self.template,
            messages,
            generation_prompt=generation_prompt,
            tools=tools,
            date=self.date,
        )
        return ids, self._only_last(ids, mask)

    def _only_last(self, ids: list[int], mask: list[bool]) -> list[bool]:
        if self.trained == jinja_template.ALL or True not in mask:
            return mask
        last = len(mask) - 1 - mask[::-1].index(True)
        while last and mask[last - 1]:
            last -= 1
        return [False] * last + mask[last:]

    def continue_chat(
        self,
        prompt: collections.abc.Sequence[typing.Any],
        turns: collections.abc.Sequence,
        tools: collections.abc.Sequence[collections.abc.Mapping] = (),
        before: list[int] | None = None,
    ) -> tuple[list[int], list[int], list[bool]]:
        """Returns (ids of the prompt, ids of the turns that follow it, their mask).

        before: the ids of the prompt where they are known.
        Raises: ValueError where the template writes the prompt otherwise once turns follow.
        """
        if before is None:
            before, _ = self.encode_chat(prompt, generation_prompt=True, tools=tools)
        ids, mask = self.encode_chat([*prompt, *turns], tools=tools)
        if ids[: len(before)] != before:
            raise ValueError(
                "a prompt must be a prefix of its conversation; got other ids for it once "
                f"{len(turns)} turns follow (ChatFormat). Give one answer, the last turn."
            )
        return before, ids[len(before) :], mask[len(before) :]


def load_chat_format(
    path: str | os.PathLike,
    *,
    template: str = "",
    pad: str = "",
    date: str = "",
    trained: str = jinja_template.ALL,
    variables: collections.abc.Mapping[str, typing.Any] | None = None,
    rows: int = 0,
) -> ChatFormat:
    """Returns the tokenizer at `path` with a template.

    Args:
      template: a name of `template_families`; empty takes the Jinja that the path carries, in
        its sandbox; our own tokenizer has a layout of its own.
      pad: name of the control token to pad with, where the model has none or another is wanted.
      date: today's in the form "26 Jul 2024", for templates that state it; empty takes the day that
        the template falls back on, and is refused where it has none.
      variables: further names that a Jinja template reads.
      rows: of a model's embedding, with which ids are compared (`check_rows`); 0 compares none.
    Returns: the format, whose answers end at `eos_id` and wherever the path's
      generation_config.json says.
    Raises: ValueError for a path without a tokenizer or, unless `template` is given, a template.
    """
    tokenizer = load.load_tokenizer(path)
    day = _date(date) if date else None
    if pad:
        tokenizer = load.with_pad(tokenizer, pad)
    if not template and isinstance(tokenizer, own_tokenizer.Tokenizer):
        template = OWN
    layout: templates.Template | jinja_template.JinjaTemplate
    if template:
        layout = template_families.named(template)
        templates.require(tokenizer, layout, where=str(path))
    else:
        source = _source(path, tokenizer)
        layout = jinja_template.JinjaTemplate(source, day, dict(variables or {}))
    form = ChatFormat(
        tokenizer=tokenizer,
        template=layout,
        date=(date or None) if template else None,  # a Jinja template has its own
        trained=trained,
        stops=load.read_stops(path, tokenizer.vocab_size),
    )
    if rows:
        check_rows(form, rows, str(path))
    return form


def _source(path: str | os.PathLike, tokenizer: interface.TextTokenizer) -> str:
    """The Jinja that the path carries; ValueError where there is none."""
    if isinstance(tokenizer, opened.OpenedTokenizer):
        source = tokenizer.chat_template
    else:
        source = load.read_chat_template(path)
    if source is None:
        raise ValueError(
            f"a chat needs a template; got none ({path}). Name the model's family with template: "
            f"{', '.join(template_families.FAMILIES)}."
        )
    return source


def check_rows(form: ChatFormat, rows: int, where: str) -> None:
    """Compares the ids that prompts can hold, or end at, with the rows of a model's embedding.

    Control tokens that no layout of the format writes may lie beyond (an image's, in a model of
    text).

    Raises: ValueError for an id that the model has no row for.
    """
    special = set(form.special.values())
    spelled = max((token for token in range(form.vocab_size) if token not in special), default=0)
    asked, _ = form.encode_chat([templates.Message("user", "a")], generation_prompt=True)
    highest = max(spelled, *asked, *form.ends)
    if highest >= rows:
        names = {token: name for name, token in form.special.items()}
        name = f" ({names[highest]})" if highest in names else ""
        raise ValueError(
            f"a tokenizer's ids must lie below the model's {rows} rows; got {highest}{name} in a "
            f"prompt ({where}). Give the tokenizer of this model, or resize its embedding."
        )


def _date(text: str) -> datetime.date:
    try:
        return datetime.datetime.strptime(text, "%d %b %Y").date()
    except ValueError:
        raise ValueError(
            f"date must read like '26 Jul 2024'; got {text[:30]!r} (load_chat_format). Rewrite it."
        ) from None
