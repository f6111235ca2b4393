"""alignjax experiments [NAME]: the experiments that AlignJAX brings."""

import importlib
import inspect
import json
import re
import textwrap
from typing import NamedTuple

from alignjax import experiments
from alignjax.cli import config_file, experiment_files, flags
from alignjax.commands import common

OPTIONS = (
    flags.Option(
        "name", str, "", "one of them in full (also the first word); none: all", leads=True
    ),
    flags.Option("json", bool, False, "print one JSON object instead of text"),
    common.DEBUG,
)
NEEDS_CONFIG = False
WIDTH = 96  # of the list


class Described(NamedTuple):
    """An experiment file: its name, where it is, its variants, and what its docstring says.

    line: what it is. text: the whole docstring.
    """

    name: str
    file: str
    line: str
    hardware: str
    variants: str
    text: str


def describe(name: str) -> Described:
    """What the experiment NAME says of itself.

    Raises:
      ValueError: there is none of that name.
    """
    known = experiment_files.names()
    if name not in known:
        raise ValueError(
            f"the experiment must be one of {', '.join(known)}; got {name!r}. "
            "alignjax experiments lists them."
        )
    module = importlib.import_module(f"{experiments.__name__}.{name}")
    text = inspect.getdoc(module) or ""
    hardware = re.search(r"^Hardware:\s*(.*(?:\n(?!\w+[\w ]*:).*)*)", text, re.MULTILINE)
    return Described(
        name=name,
        file=str(module.__file__),
        line=text.partition("\n")[0],
        hardware=" ".join(hardware[1].split()) if hardware else "",
        variants=config_file.variants(module),
        text=text,
    )


def main(parsed: flags.Parsed) -> None:
    """Prints every experiment with what it is, its hardware and variants; or one of them in full.

    Raises:
      ValueError: there is none of that name.
    """
    name = parsed.options["name"]
    described = [describe(one) for one in ([name] if name else experiment_files.names())]
    if parsed.options["json"]:
        print(json.dumps({own.name: own._asdict() for own in described}))
        return
    for own in described:
        print(own.name)
        lines = [own.text, "", f"File: {own.file}"] if name else [own.line, own.hardware]
        for line in [*lines, f"Variants: {own.variants}"]:
            print(textwrap.indent(line if name else textwrap.fill(line, WIDTH), "  "))
