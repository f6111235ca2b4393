"""A command line: `alignjax COMMAND --config=FILE:VARIANT --config.FIELD=VALUE --OPTION=VALUE`."""

import ast
import itertools
import pathlib
import re
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections.config_flags import config_flags

from alignjax.cli import command_line, config_file
from alignjax.cli.config_file import one_line_error

DEFINE: Mapping[Any, Any] = {
    str: flags.DEFINE_string,
    pathlib.Path: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}
HERE = ("workdir", "to")  # options whose places must be of a file system
FAULTS = (flags.Error, ValueError, TypeError, SyntaxError, LookupError, MemoryError, RecursionError)


class Option(NamedTuple):
    """An option of a command; its type is str, int, float, bool or pathlib.Path."""

    name: str
    type: Any
    default: Any
    help: str
    leads: bool = False  # whether the first word, or the next, may be its value, without --name=
    fields: bool = False  # whether it is one of text for each field: --name.FIELD=TEXT, a mapping
    rest: bool = False  # whether it is the list of bare words after those that lead


class Parsed(NamedTuple):
    """A parsed command line."""

    options: dict[str, Any]  # by name
    config: Any  # from get_config, with the overrides; None without --config
    name: str  # the config file's name without .py
    variant: str  # what follows the colon
    overrides: dict[str, Any]  # by path, e.g. "optim.learning_rate"
    module: types.ModuleType | None  # the config file itself, for its EXPECTED
    line: str = ""  # the command line, as a shell would read it again


class Loaded(config_flags.ConfigFileFlagParser):
    """A parser of --config that returns the configuration of a file that was run already."""

    def __init__(self, *, config: Any) -> None:  # by keyword: absl caches parsers by position
        super().__init__(name="config")
        self.config = config

    def parse(self, path: str) -> Any:
        return self.config


def tuple_text(kind: Any, text: str) -> str:
    """The text as ml_collections reads tuples; plain words between commas are strings."""
    first = (typing.get_args(kind) or (None,))[0]
    if typing.get_origin(kind) is not tuple or first is not str:
        return text
    if re.match(r"\s*[(\['\"]", text):
        return repr(ast.literal_eval(text))
    return repr(tuple(word.strip() for word in text.split(",")) if text else ())


def assign(
    table: command_line.Table, texts: Mapping[str, str], config: Any, options: Sequence[Option]
) -> Any:
    """{name: value} of the texts by name of a command line; fields are set in the configuration.

    ml_collections sets the fields. It gets a command line and FlagValues of its own, so that
    neither sys.argv nor an earlier call matters.

    Raises:
      ValueError: text that is no value of its type, or not a finite number.
    """
    kinds = {name: command_line.without_none(kind) for name, kind in table.kinds.items()}
    typed = {n: t for n, t in texts.items() if kinds[n] is table.kinds[n] or t.lower() != "none"}
    for name, text in typed.items():
        if not command_line.is_settable(kinds[name]):
            raise table.unknown(name, text)
    line = ["alignjax", f"--config={table.spec}"] if table.spec is not None else ["alignjax"]
    typed.pop("config", None)
    for name, text in typed.items():
        try:
            line.append(f"--{name}={tuple_text(kinds[name], text)}")
        except FAULTS as error:
            raise command_line.mistyped(name, kinds[name], text) from error
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
        if not match or match[1] not in texts:
            raise one_line_error(f"options must be legal; got {error}.") from error
        raise command_line.mistyped(match[1], kinds[match[1]], texts[match[1]]) from error
    parsed: dict[str, Any] = dict.fromkeys(texts)
    for name in typed:
        parsed[name] = values[name].value
        if isinstance(values[name], flags.MultiFlag):
            parsed[name] = tuple(parsed[name])
        if kinds[name] is pathlib.Path:
            parsed[name] = pathlib.Path(parsed[name])
        right = config_file.fits(kinds[name], parsed[name]) and config_file.is_finite(parsed[name])
        if not right or (kinds[name] is pathlib.Path and not texts[name]):
            raise command_line.mistyped(name, kinds[name], texts[name])
    for name in texts.keys() - typed.keys() - {"config"}:
        config_flags.SetValue(name.removeprefix("config."), config, None)
    return parsed


def named_first(
    argv: Sequence[str], options: Sequence[Option]
) -> tuple[list[str], dict[str, list[str]]]:
    """(the words, the first ones as `--NAME=WORD` where they are bare values of options that lead,
    in the order of these; the bare words after them by the option that takes the rest)."""
    names = [option.name for option in options if option.leads]
    bare = list(itertools.takewhile(lambda word: word[:1] != "-" and "=" not in word, argv))
    first = [f"--{name}={word}" for name, word in zip(names, bare, strict=False)]
    rest = {option.name: bare[len(first) :] for option in options if option.rest}
    used = len(bare) if rest else len(first)
    return [*first, *argv[used:]], rest


def help_text(
    table: command_line.Table,
    config: Any,
    options: Sequence[Option],
    module: types.ModuleType | None = None,
) -> str:
    """The command's options, and the fields of the config file `module` with their values."""
    rows = [
        (
            "WORD ..." if o.rest else f"--{o.name}{'.FIELD' if o.fields else ''}={o.default}",
            config_file.words(o.type, command_line.WORDS),
            o.help,
        )
        for o in options
    ]
    if "config" in table.kinds:
        rows.insert(0, ("--config=FILE:VARIANT", "text", "file, or an experiment's name"))
    for path, field in table.fields.items():
        now = config_flags.GetValue(path.removeprefix("config."), config)
        value = type(field.value).__name__ if field.is_node else repr(now)
        kind = "fields" if field.is_node else config_file.words(field.type, command_line.WORDS)
        rows.append((f"--{path}={value}", kind, field.comment))
    lines = [f"alignjax {table.command}: options, with their values"]
    named = config_file.variants(module) if module is not None else ""
    lines += [f"  variants of {table.spec}: {named}"] if named else []
    lines += [f"  {name:<44} {kind:<16} {text}".rstrip() for name, kind, text in rows]
    return "\n".join(lines)


def parse(
    argv: list[str], *, command: str, options: Sequence[Option], needs_config: bool
) -> Parsed:
    """The words after `alignjax COMMAND`, parsed. `--help` prints and exits with 0.

    Args:
      argv: those words.
      command: the command's name, for messages.
      options: the command's own options, besides --config.
      needs_config: whether the command requires --config and takes the fields' --config.NAME.

    Raises:
      ValueError: anything is wrong; the message is one line.
    """
    line = shlex.join(["alignjax", command, *argv])
    wants_help = any(word in ("-h", "--help") for word in argv)
    argv, words = named_first([w for w in argv if w not in ("-h", "--help")], options)
    plain = [option for option in options if not (option.fields or option.rest)]
    spec = command_line.config_spec(argv) if needs_config else None
    module, config = None, None
    fields: dict[str, config_file.Field] = {}
    if spec is not None:
        module, config, fields = config_file.load(spec)
    kinds = {option.name: option.type for option in plain}
    kinds |= {"config": str} if needs_config else {}
    kinds |= {n: f.type for n, f in fields.items() if not f.holds_fields}
    each = {o.name: [n for n in kinds if n in fields] for o in options if o.fields}
    for name, own in each.items():
        kinds |= {f"{name}.{n.removeprefix('config.')}": str for n in own}
    table = command_line.Table(command, kinds, fields, spec)
    texts = command_line.read(argv, table)
    by_field: dict[str, Any] = {name: {} for name in each}
    for name in [n for n in texts if n.partition(".")[0] in each]:
        option, _, field = name.partition(".")
        by_field[option][field] = texts.pop(name)
    if needs_config and spec is None and not wants_help:
        raise one_line_error(
            f"--config must name a config file for alignjax {command}; got none. Write "
            "--config=FILE.py or --config=FILE.py:VARIANT, or the name of an experiment "
            "(alignjax experiments lists them)."
        )
    parsed = assign(table, texts, config, plain)
    if wants_help:
        print(help_text(table, config, options, module))
        raise SystemExit(0)
    validate = getattr(config, "validate", None)
    if validate is not None:
        try:
            validate()
        except ValueError as error:
            raise one_line_error(str(error)) from error
    for name in HERE:
        place = str(parsed.get(name, ""))
        if "://" in place:  # else a folder of that name is made here
            raise one_line_error(
                f"--{name} must be a folder or file of this machine; got {place!r}. Mount the "
                "bucket as a file system and name the place where it is."
            )
    path, _, variant = (spec or "").partition(":")
    return Parsed(
        options={**{o.name: parsed.get(o.name, o.default) for o in options}, **by_field, **words},
        config=config,
        name=pathlib.Path(path).stem,
        variant=variant,
        overrides={n.removeprefix("config."): v for n, v in parsed.items() if n in fields},
        module=module,
        line=line,
    )
