"""Conversations as turns, and their one token layout for training and serving.

Layout: `<bos>`, then for every turn its control marker and its text; an assistant turn ends
with `<eos>`. Every turn is tokenized alone, so the ids of a prompt are an exact prefix of the
ids of the prompt with its answer. The loss counts the assistant's text and its `<eos>` only.
Conversations of other models are laid out by their templates: see `chat_format`.
"""

import collections.abc
import re
import typing

from alignjax.text import chat_format, template_tools
from alignjax.text import tokenizer as tokenizer_lib

HUMAN, ASSISTANT, SYSTEM = "human", "assistant", "system"
_MARKERS = {
    HUMAN: tokenizer_lib.HUMAN,
    ASSISTANT: tokenizer_lib.ASSISTANT,
    SYSTEM: tokenizer_lib.SYSTEM,
}
EQUAL, PROMPTS_DIFFER = "chosen equals rejected", "prompts differ"
NO_HUMAN, NO_ANSWER, EMPTY_ANSWER = "no human turn first", "no answer last", "empty last answer"
# Our tokenizer with its own layout, or another model's with its template.
Speaker = tokenizer_lib.Tokenizer | chat_format.ChatFormat
_SPEAKER = re.compile(r"(?:\r?\n){2}(Human|Assistant):")


def sampled_text(speaker: Speaker, ids: collections.abc.Iterable[int]) -> str:
    """Returns the text of ids that a model sampled.

    A model may have more entries than its tokenizer: an id of these gives U+FFFD.
    """
    pieces: list[str] = []
    known: list[int] = []
    for token in map(int, ids):
        if token < speaker.vocab_size:
            known.append(token)
            continue
        pieces += [speaker.decode(known), "\ufffd"]
        known = []
    return "".join([*pieces, speaker.decode(known)])


class ChatError(ValueError):
    """A conversation that cannot be used; `reason` is a short name to count it by."""

    def __init__(self, subject: str, rule: str, got: str, *, where: str, reason: str):
        super().__init__(f"{subject} must {rule}; got {got} ({where}). Drop the row or repair it.")
        self.subject, self.rule, self.got, self.reason = subject, rule, got, reason


class Turn(typing.NamedTuple):
    """One speaker's text; `role` is "human", "assistant" or "system"."""

    role: str
    text: str


class Pair(typing.NamedTuple):
    """A shared prompt and two continuations, each beginning and ending with an assistant turn.

    `diverged` is True when a continuation holds more than one turn: the transcripts part at an
    earlier answer, and the human turns that follow belong to the continuation (without loss).
    """

    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    diverged: bool


def is_transcript(text: str) -> bool:
    """Whether a text begins as a transcript of hh-rlhf does, and an assistant speaks in it."""
    start = text.lstrip()
    speakers = [match[1] for match in _SPEAKER.finditer(start)]
    return start.startswith(("Human:", "System:")) and "Assistant" in speakers


def parse_transcript(text: str) -> list[Turn]:
    r"""Returns the turns of an hh-rlhf transcript ("\n\nHuman: ...\n\nAssistant: ...").

    A turn starts at a blank line (of \n or \r\n) followed by `Human:` or `Assistant:`; the same
    words elsewhere are text. Turn texts are stripped; consecutive turns of one speaker are joined
    by a blank line, so that roles alternate. A leading `System:` turn is accepted.

    Raises: ChatError unless it begins with a Human turn and ends in a non-empty assistant turn.
    """
    head, *rest = _SPEAKER.split("\n\n" + text.lstrip())
    turns: list[Turn] = []
    head = head.strip()
    if head.startswith("System:"):
        turns.append(Turn(SYSTEM, head.removeprefix("System:").strip()))
    elif head:
        raise _error(NO_HUMAN, "begin with 'Human:'", "other text first")
    if not rest:
        raise _error(NO_HUMAN, "begin with 'Human:'", "no turn at all")
    if rest[0] != "Human":
        raise _error(NO_HUMAN, "begin with 'Human:'", f"'{rest[0]}:' first")
    for speaker, body in zip(rest[::2], rest[1::2], strict=True):
        turn = Turn(speaker.lower(), body.strip())
        if turns and turns[-1].role == turn.role:
            joined = "\n\n".join(part for part in (turns[-1].text, turn.text) if part)
            turns[-1] = Turn(turn.role, joined)
        else:
            turns.append(turn)
    if all(turn.role != ASSISTANT for turn in turns):
        raise _error(NO_ANSWER, "hold an assistant turn", "none")
    if turns[-1].role != ASSISTANT:
        raise _error(NO_ANSWER, "end in an assistant turn", f"a {turns[-1].role} turn last")
    if not turns[-1].text:
        raise _error(EMPTY_ANSWER, "end in a non-empty assistant turn", "an empty one")
    return turns


def split_pair(
    chosen: collections.abc.Sequence[Turn], rejected: collections.abc.Sequence[Turn]
) -> Pair:
    """Returns the shared prompt and the two continuations of a preference pair.

    The prompt is the longest common prefix of turns that leaves each side at least its last
    turn. Where the transcripts part at an answer before the last, the continuations hold
    several turns: the answers were compared as conversations, each with its own human replies,
    so all their assistant tokens are compared. Where they part at a human turn the answers
    belong to different prompts; no pairwise loss is defined for that, hence an error.

    Raises: ChatError for equal transcripts or different prompts.
    """
    chosen, rejected = tuple(chosen), tuple(rejected)
    if chosen == rejected:
        raise ChatError(
            "chosen", "differ from rejected", "equal transcripts",
            where="split_pair", reason=EQUAL,
        )  # fmt: skip
    shared = 0
    limit = min(len(chosen), len(rejected)) - 1
    while shared < limit and chosen[shared] == rejected[shared]:
        shared += 1
    first = (chosen[shared].role, rejected[shared].role)
    if first != (ASSISTANT, ASSISTANT) or shared == 0:
        raise ChatError(
            "chosen", "share its prompt with rejected",
            f"a difference at turn {shared + 1}, roles {first[0]} and {first[1]}",
            where="split_pair", reason=PROMPTS_DIFFER,
        )  # fmt: skip
    diverged = len(chosen) > shared + 1 or len(rejected) > shared + 1
    return Pair(chosen[:shared], chosen[shared:], rejected[shared:], diverged)


def encode_chat(
    tokenizer: Speaker,
    turns: collections.abc.Sequence[typing.Any],
    *,
    generation_prompt: bool = False,
    tools: collections.abc.Sequence[collections.abc.Mapping] = (),
) -> tuple[list[int], list[bool]]:
    """Returns (ids, assistant_mask) of a conversation, of equal length.

    Args:
      turns: the conversation, Turns or Messages, any roles in any order.
      generation_prompt: end with the assistant's marker, ready to be continued.
      tools: JSON descriptions of functions, for templates that show them.
    Returns:
      ids: one BOS first; assistant_mask: True on an assistant turn's text tokens and its EOS.
      An empty assistant turn gets no True at all: silence is never a target.
    Raises: ValueError for an unknown role, or a generation prompt after an assistant turn; in our
      own layout for tools and calls, which it does not have.
    """
    if isinstance(tokenizer, chat_format.ChatFormat):
        return tokenizer.encode_chat(turns, generation_prompt=generation_prompt, tools=tools)
    turns = [_own_turn(turn) for turn in turns]
    if tools or any(len(turn) > 2 for turn in turns):
        raise ValueError(
            "a conversation in AlignJAX's own layout must have no tools or calls; got some "
            "(encode_chat). Name a model's tokenizer and template that have them."
        )
    ids, mask = [tokenizer.bos_id], [False]
    texts = tokenizer.encode_many([turn.text for turn in turns])
    for turn, tokens in zip(turns, texts, strict=True):
        append_turn(tokenizer, ids, mask, turn.role, tokens)
    if generation_prompt:
        if turns and turns[-1].role == ASSISTANT:
            raise ValueError(
                "a prompt must end before the assistant speaks; got an assistant turn last "
                "(encode_chat). Pass generation_prompt=False or drop the last turn."
            )
        ids.append(tokenizer.control[tokenizer_lib.ASSISTANT])
        mask.append(False)
    return ids, mask


def _own_turn(turn: typing.Any) -> typing.Any:
    """A dict or pair as a turn of our layout, where it is one; calls stay, to be refused."""
    if isinstance(turn, Turn):
        return turn
    own = template_tools.message_of(turn)
    is_plain = not own.calls and not own.id
    return Turn(HUMAN if own.role == "user" else own.role, own.text) if is_plain else own


def continue_chat(
    tokenizer: Speaker,
    prompt: collections.abc.Sequence[typing.Any],
    turns: collections.abc.Sequence[typing.Any],
    tools: collections.abc.Sequence[collections.abc.Mapping] = (),
    before: list[int] | None = None,
) -> tuple[list[int], list[bool]]:
    """Returns (ids, mask) of an answer and what follows it, after a prompt's last marker.

    In our layout they do not depend on the prompt. before: the prompt's ids, where they are known.
    """
    if isinstance(tokenizer, chat_format.ChatFormat):
        _, ids, mask = tokenizer.continue_chat(prompt, turns, tools, before)
        return ids, mask
    ids, mask = encode_chat(tokenizer, turns, tools=tools)
    return ids[2:], mask[2:]  # without BOS and the marker


def cut_turn(
    tokenizer: Speaker,
    turn: Turn,
    limit: int,
    tools: collections.abc.Sequence[collections.abc.Mapping] = (),
) -> tuple[list[int], Turn]:
    """Returns (prompt of at most `limit` tokens, its turn): the turn loses its beginning."""
    ids, _ = encode_chat(tokenizer, [turn], generation_prompt=True, tools=tools)
    if isinstance(tokenizer, tokenizer_lib.Tokenizer):
        kept = ids[len(ids) - (limit - 2) :] if len(ids) > limit else ids[2:]
        return ids[:2] + kept, turn
    text = turn.text
    while len(ids) > limit:
        if not text:
            raise ValueError(
                f"prompt_length must hold the template's own {len(ids)} tokens; got {limit} "
                "(cut_turn). Raise it."
            )
        text = text[max(1, (len(ids) - limit) // 2) :]  # a token seldom has under a character
        turn = turn._replace(text=text)
        ids, _ = encode_chat(tokenizer, [turn], generation_prompt=True, tools=tools)
    return ids, turn


def append_turn(
    tokenizer: tokenizer_lib.Tokenizer,
    ids: list[int],
    mask: list[bool],
    role: str,
    tokens: collections.abc.Sequence[int],
) -> None:
    """Appends one turn whose text is already tokenized; the only place that knows the layout."""
    if role not in _MARKERS:
        raise ValueError(
            f"role must be one of {', '.join(_MARKERS)}; got {role!r} (encode_chat). Rename it."
        )
    ids.append(tokenizer.control[_MARKERS[role]])
    ids += tokens
    mask.append(False)
    if role == ASSISTANT:
        ids.append(tokenizer.eos_id)
        mask += [len(tokens) > 0] * (len(tokens) + 1)
    else:
        mask += [False] * len(tokens)


def _error(reason: str, rule: str, got: str) -> ChatError:
    return ChatError("transcript", rule, got, where="parse_transcript", reason=reason)
