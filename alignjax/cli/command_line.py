"""The words of a command line by name, and errors that suggest the word probably meant."""

import enum
import itertools
import pathlib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignjax.cli import config_file
from alignjax.cli.config_file import one_line_error

WORDS = {str: "text", pathlib.Path: "a path", **config_file.WORDS}


def without_none(kind: Any) -> Any:
    """T for T | None."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    rest = [option for option in typing.get_args(kind) if option is not types.NoneType]
    return rest[0] if len(rest) == 1 else kind


def is_settable(kind: Any) -> bool:
    """Whether text of a command line can become a value of this type."""
    if kind in (int, float, bool, str, tuple) or typing.get_origin(kind) is tuple:
        return True
    return isinstance(kind, type) and issubclass(kind, (enum.Enum, pathlib.Path))


def mistyped(name: str, kind: Any, text: str) -> ValueError:
    """The error of text that is no value of the type."""
    hint = ""
    if kind is int and re.fullmatch(r"[+-]?[\d.]{1,9}(e\+?\d)?", text, re.I):
        number = float(text) if re.search(r"\d", text) and text.count(".") < 2 else 0.5
        hint = f" Write {int(number)}." if number.is_integer() else ""
    elif typing.get_origin(kind) is tuple:
        hint = f" Separate the elements by commas: --{name}=A,B."
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        hint = f" Choose one of {', '.join(member.name for member in kind)}."
    return one_line_error(f"--{name} must be {config_file.words(kind, WORDS)}; got {text!r}.{hint}")


class Table(NamedTuple):
    """The legal options of a command line."""

    command: str
    kinds: dict[str, Any]  # by name, without the dashes
    fields: dict[str, config_file.Field]  # by path, with those that hold further fields
    spec: str | None  # the value of --config

    def meant(self, name: str, text: str | None) -> str:
        near = config_file.nearest(name, self.kinds)
        if not near:
            return f" alignjax {self.command} --help lists them."
        return f" Did you mean --{near}{'' if text is None else f'={text}'}?"

    def unknown(self, name: str, text: str | None) -> ValueError:
        """The error of an option that does not exist."""
        got = f"--{name}" if text is None else f"--{name}={text}"
        if name.startswith("config.") and self.spec is None and "config" in self.kinds:
            return one_line_error(f"--config=FILE must be given for {got}; got no config file.")
        above = name.rpartition(".")[0]
        while above and above not in self.fields:
            above = above.rpartition(".")[0]
        field = self.fields.get(name)
        if field and field.holds_fields:
            inner = next((n for n in self.kinds if n.startswith(f"{name}.")), "")
            how = f"by its fields, e.g. --{inner}" if inner else "in the config file"
            return one_line_error(f"--{name} must be set {how}; got {text!r} for the whole of it.")
        if field:
            kind = config_file.words(field.type, WORDS)
            return one_line_error(f"--{name}, {kind}, must be set in the config file; got {got}.")
        if above and not self.fields[above].is_node:
            value = self.fields[above].value
            return one_line_error(
                f"--{above} must have fields for {got}; got {value!r}, without any."
                + (" Set it in the config file." if value is None else "")
            )
        what = f"an option of alignjax {self.command}"
        what += f" or a field of {self.spec}" if self.fields else ""
        return one_line_error(f"--{name} must be {what}; got {got}.{self.meant(name, text)}")

    def positional(self, token: str, before: str) -> ValueError:
        """The error of a word that is no option."""
        name, equals, text = token.lstrip("-–—").partition("=")
        if self.kinds.get(before.lstrip("-")) is bool:
            hint = f" Did you mean {before}={token}?"
        elif equals:
            hint = f" Did you mean --{name}={text}?"
            hint = hint if name in self.kinds else self.meant(name, text)
        elif token.partition(":")[0].endswith(".py") and "config" in self.kinds:
            hint = f" Did you mean --config={token}?"
        else:
            hint = self.meant(name, None) if name else ""
        return one_line_error(f"options must begin with --; got {token!r}.{hint}")


def read(argv: Sequence[str], table: Table) -> dict[str, str]:
    """The text of every option by name, from --name=text, --name text, --flag and --noflag.

    Raises:
      ValueError: an unknown name, no text where one is needed, two different ones, or a stray word.
    """
    texts: dict[str, str] = {}
    rest, token = list(argv), ""
    while rest:
        before, token = token, rest.pop(0)
        match = re.fullmatch(r"--?([A-Za-z_][^=]*)(?:=(.*))?", token, re.DOTALL)
        if not match:
            raise table.positional(token, before)
        name, text = match[1], match[2]
        negates = name.startswith("no") and table.kinds.get(name[2:]) is bool
        if negates and name not in table.kinds and text is None:
            name, text = name[2:], "false"
        if name not in table.kinds:
            raise table.unknown(name, text)
        if text is None and table.kinds[name] is bool:
            text = "true"
        elif text is None:
            if not rest or re.match(r"--|-(?!inf|nan)[A-Za-z]", rest[0]):
                after = f"{rest[0]!r} after it" if rest else "nothing after it"
                raise one_line_error(f"--{name} must have a value; got {after}. Write --{name}=...")
            text = rest.pop(0)
        if texts.setdefault(name, text) != text:
            raise one_line_error(
                f"--{name} must be given once; got {texts[name]!r} and {text!r}. Leave one out."
            )
    return texts


def config_spec(argv: Sequence[str]) -> str | None:
    """The value of --config, before anything else is parsed."""
    for token, after in itertools.pairwise([*argv, "--"]):
        if token in ("--config", "-config") and not after.startswith("--"):
            return after
        if re.match("--?config=", token):
            return token.partition("=")[2]
    return None
