"""A command line: `alignjax COMMAND --config=FILE:VARIANT --config.FIELD=VALUE --OPTION=VALUE`."""

import enum
import pathlib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections.config_flags import config_flags

from alignjax import config_file
from alignjax.config_file import one_line_error

WORDS = {str: "text", pathlib.Path: "a path", **config_file.WORDS}
DEFINE: Mapping[Any, Any] = {
    str: flags.DEFINE_string,
    pathlib.Path: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}
FAULTS = (flags.Error, ValueError, TypeError, SyntaxError, LookupError, MemoryError, RecursionError)


class Option(NamedTuple):
    """An option of a command; its type is str, int, float, bool or pathlib.Path."""

    name: str
    type: Any
    default: Any
    help: str


class Parsed(NamedTuple):
    """What a command line says."""

    options: dict[str, Any]  # by name
    config: Any  # what get_config returned, with the overrides; None without --config
    name: str  # the config file's name without .py
    variant: str  # what follows the colon
    overrides: dict[str, Any]  # by path, e.g. "optim.learning_rate"
    module: types.ModuleType | None  # the config file itself, for its EXPECTED and the like


class Loaded(config_flags.ConfigFileFlagParser):
    """The parser of --config where the file was run already, with errors in our words."""

    def __init__(self, *, config: Any) -> None:  # by keyword: absl caches parsers by position
        super().__init__(name="config")
        self.config = config

    def parse(self, path: str) -> Any:
        return self.config


def without_none(kind: Any) -> Any:
    """T for T | None."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    rest = [each for each in typing.get_args(kind) if each is not types.NoneType]
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
        hint = f" Choose one of {', '.join(each.name for each in kind)}."
    return one_line_error(f"--{name} must be {config_file.words(kind, WORDS)}; got {text!r}.{hint}")


class Table(NamedTuple):
    """What may stand on a command line."""

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
    """The text given for every name, from --name=text, --name text, --flag and --noflag.

    Raises:
      ValueError: an unknown name, no text where one is needed, two different ones, or a stray word.
    """
    given: dict[str, str] = {}
    rest, token = list(argv), ""
    while rest:
        before, token = token, rest.pop(0)
        match = re.fullmatch(r"--?([A-Za-z_][^=]*)(?:=(.*))?", token, re.DOTALL)
        if not match:
            raise table.positional(token, before)
        name, text = match[1], match[2]
        if text is None and name not in table.kinds and name.startswith("no"):
            if table.kinds.get(name[2:]) is bool:
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
        if given.setdefault(name, text) != text:
            raise one_line_error(
                f"--{name} must be given once; got {given[name]!r} and {text!r}. Leave one out."
            )
    return given


def config_spec(argv: Sequence[str]) -> str | None:
    """The value of --config, before anything else is understood."""
    for token, after in zip(argv, [*argv[1:], ""], strict=True):
        if token in ("--config", "-config") and not after.startswith("--"):
            return after
        if re.match("--?config=", token):
            return token.partition("=")[2]
    return None


def tuple_text(kind: Any, text: str) -> str:
    """The text as ml_collections reads tuples; plain words between commas are strings."""
    first = (typing.get_args(kind) or (None,))[0]
    if typing.get_origin(kind) is tuple and first is str and not re.match(r"\s*[(\['\"]", text):
        return repr(tuple(word.strip() for word in text.split(",")) if text else ())
    return text


def assign(table: Table, given: Mapping[str, str], config: Any, options: Sequence[Option]) -> Any:
    """(values by name of what was given), set in the configuration too.

    ml_collections sets the fields: it is given a command line of its own and its own FlagValues,
    so that neither sys.argv nor an earlier call has a part in it.

    Raises:
      ValueError: text that is no value of its type, or not a finite number.
    """
    kinds = {name: without_none(kind) for name, kind in table.kinds.items()}
    typed = {n: t for n, t in given.items() if kinds[n] is table.kinds[n] or t.lower() != "none"}
    for name, text in typed.items():
        if not is_settable(kinds[name]):
            raise table.unknown(name, text)
    line = [f"--{name}={tuple_text(kinds[name], text)}" for name, text in typed.items()]
    line = ["alignjax", *sorted(line, key=lambda word: not word.startswith("--config="))]
    values = flags.FlagValues()
    if table.spec is not None:
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
        values["config"].parser = Loaded(config=config)
    for option in options:
        DEFINE[option.type](option.name, None, option.help, flag_values=values)
    try:
        values(line)
    except FAULTS as error:
        match = re.match(r"flag --([\w.]+)=", str(error))
        if not match or match[1] not in given:
            raise one_line_error(f"options must be legal; got {error}.") from error
        raise mistyped(match[1], kinds[match[1]], given[match[1]]) from error
    found: dict[str, Any] = dict.fromkeys(given)
    for name in typed.keys() - {"config"}:
        found[name] = values[name].value
        if isinstance(values[name], flags.MultiFlag):
            found[name] = tuple(found[name])
        if kinds[name] is pathlib.Path:
            found[name] = pathlib.Path(found[name])
        right = config_file.fits(kinds[name], found[name]) and config_file.is_finite(found[name])
        if not right or (kinds[name] is pathlib.Path and not given[name]):
            raise mistyped(name, kinds[name], given[name])
    for name in given.keys() - typed.keys():
        config_flags.SetValue(name.removeprefix("config."), config, None)
    return found


def help_text(table: Table, options: Sequence[Option]) -> str:
    """The command's options and the configuration's fields with their values."""
    rows = [(f"--{o.name}={o.default}", config_file.words(o.type, WORDS), o.help) for o in options]
    if "config" in table.kinds:
        rows.insert(0, ("--config=FILE:VARIANT", "text", "file whose get_config(VARIANT) is used"))
    for path, field in table.fields.items():
        value = type(field.value).__name__ if field.is_node else repr(field.value)
        kind = "fields" if field.is_node else config_file.words(field.type, WORDS)
        rows.append((f"--{path}={value}", kind, field.comment))
    lines = [f"alignjax {table.command}: options, with their values"]
    lines += [f"  {name:<44} {kind:<16} {text}".rstrip() for name, kind, text in rows]
    return "\n".join(lines)


def parse(
    argv: list[str], *, command: str, options: Sequence[Option], needs_config: bool
) -> Parsed:
    """What the words after `alignjax COMMAND` say. `--help` prints and exits with 0.

    Args:
      argv: those words.
      command: the command's name, for messages.
      options: the command's own options, besides --config.
      needs_config: whether the command takes --config and the fields' --config.NAME; it must then.

    Raises:
      ValueError: anything is wrong; the message is one line.
    """
    wants_help = any(word in ("-h", "--help") for word in argv)
    argv = [word for word in argv if word not in ("-h", "--help")]
    spec = config_spec(argv) if needs_config else None
    module, config, fields = None, None, {}
    if spec is not None:
        module, config = config_file.load(spec)
        fields = config_file.walk(config, "config", spec)
    kinds = {option.name: option.type for option in options}
    kinds |= {"config": str} if needs_config else {}
    kinds |= {n: f.type for n, f in fields.items() if not f.holds_fields}
    table = Table(command, kinds, fields, spec)
    given = read(argv, table)
    if needs_config and spec is None and not wants_help:
        raise one_line_error(
            f"--config must name a config file for alignjax {command}; got none. "
            "Write --config=experiments/NAME.py or --config=experiments/NAME.py:VARIANT."
        )
    found = assign(table, given, config, options)
    if wants_help:
        fields = config_file.walk(config, "config", spec or "") if config is not None else {}
        print(help_text(table._replace(fields=fields), options))
        raise SystemExit(0)
    if hasattr(config, "validate"):
        try:
            config.validate()
        except ValueError as error:
            raise one_line_error(str(error)) from error
    path, _, variant = (spec or "").partition(":")
    return Parsed(
        options={o.name: found.get(o.name, o.default) for o in options},
        config=config,
        name=pathlib.Path(path).stem,
        variant=variant,
        overrides={n.removeprefix("config."): v for n, v in found.items() if n in fields},
        module=module,
    )
