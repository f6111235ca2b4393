"""alignjax chat: a conversation with a model in the terminal."""

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common, serve
from alignjax.serving import conversation, requests, slots

OPTIONS = (
    flags.Option("model", str, "", "a model folder, a .gguf file or the folder of a run", True),
    flags.Option("system", str, "", "system prompt"),
    *(
        option
        for option in serve.OPTIONS
        if option.name in ("template", "date", "pad", "skip", "adapters")
    ),
    flags.Option("context", int, 2048, "tokens of the conversation; the oldest turns are left out"),
    *(
        option._replace(default=512) if option.name == "max_new_tokens" else option
        for option in common.SAMPLING
    ),
    common.BASE,
    common.DEBUG,
)
NEEDS_CONFIG = False
HELP = """/again        another answer to the last turn
/undo         takes the last exchange back
/reset        begins anew
/system TEXT  another system prompt, and begins anew
/model NAME   who answers: the model, or one of its adapters
/save FILE    appends the conversation to a JSONL file of messages, rows that one can train on
/exit         ends; so does the end of the input
A line that ends in \\ goes on in the next one. Ctrl-C stops an answer."""


def main(parsed: flags.Parsed) -> None:
    """Answers lines of the input until it ends; answers alone are written to stdout."""
    options = parsed.options
    common.use_base(parsed)
    drawn = requests.Options(
        temperature=options["temperature"],
        top_k=options["top_k"],
        top_p=options["top_p"],
        seed=options["seed"],
        max_tokens=options["max_new_tokens"],
    )
    drawn.validate()
    limits = slots.Limits(slots=1, context=options["context"], waiting=1, seconds=0)
    limits.validate()
    opened = {"name": "", "adapter_slots": 0, "adapter_rank": 0, "adapter_targets": "", **options}
    serving = serve.open_engine(opened, limits)
    try:
        talk = conversation.Conversation(serving, drawn, system=options["system"])
        common.log(f"{', '.join(serving.names)}: /help lists what else one can say")
        for line in lines():
            if not line.startswith("/"):
                print_answer(talk, line)
            elif not obey(talk, *line[1:].partition(" ")[::2]):
                break
    finally:
        serving.close()


def lines() -> Iterator[str]:
    """What a person says: lines, those that end in a backslash joined with the next."""
    said: list[str] = []
    while True:
        if sys.stdin.isatty():
            print("... " if said else "> ", end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:  # of the line, not of the conversation
            said.clear()
            print(file=sys.stderr)
            continue
        if not line:
            return
        line = line.rstrip("\r\n")
        said.append(line.removesuffix("\\"))
        if line.endswith("\\"):
            continue
        text = "\n".join(said).strip()
        said.clear()
        if text:
            yield text


def print_answer(talk: conversation.Conversation, text: str) -> None:
    """Prints the answer as it comes."""
    before = talk.forgotten
    try:
        for piece in talk.answer(text):
            print(common.shown(piece), end="", flush=True)
    except requests.Refusal as error:
        common.log(f"chat: {error}")
        return
    except KeyboardInterrupt:
        pass
    print(flush=True)
    if talk.forgotten > before:
        common.log(
            f"chat: the oldest {talk.forgotten} turns no longer fit --context and are left out"
        )


def obey(talk: conversation.Conversation, word: str, rest: str) -> bool:
    """Does what a line with a slash asks; whether the conversation goes on."""
    if word in ("exit", "quit"):
        return False
    if word == "again":
        said = talk.undo()
        if said:
            print_answer(talk, said)
    elif word == "undo":
        talk.undo()
    elif word in ("reset", "system"):
        talk.turns.clear()
        talk.system = rest.strip() if word == "system" else talk.system
    elif word == "model":
        try:
            talk.choose(rest.strip())
        except requests.Refusal as error:
            common.log(f"chat: {error}")
    elif word == "save" and rest.strip():
        save(talk, pathlib.Path(rest.strip()))
    else:
        common.log(HELP if word == "help" else f"chat: /{word} is not known\n{HELP}")
    return True


def save(talk: conversation.Conversation, file: pathlib.Path) -> None:
    """Appends the conversation to a file as one row."""
    row: Mapping[str, Any] = {"messages": talk.messages()}
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        common.log(
            f"chat: /save must name a file that can be written; got {file}: {error.strerror}"
        )
    else:
        common.log(f"chat: {len(row['messages'])} messages are in {file}")
