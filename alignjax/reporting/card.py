"""The model card of an exported run: README.md, from what the run's folder knows of itself.

What is not known is said so: of data without a licence beside them, of a run that nobody evaluated.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.core import untrusted
from alignjax.models.adapters import adapt
from alignjax.reporting import suites, tables
from alignjax.runs import evaluated, folder, hub, starts
from alignjax.training import checkpoint, evaluators
from alignjax.training import method as methods

FILE = "README.md"
LICENCES = re.compile(r"(LICEN[CS]E|COPYING)(\.\w+)?", re.IGNORECASE)
STATED = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)  # of a card's front matter
DEPTH = 20  # runs that a run may come from, one after the other


class Options(NamedTuple):
    """How a run was exported. command: as it was typed. licence: of the model, as the hub names
    licences; "" where nobody said."""

    adapters: bool = False
    best: bool = False
    command: str = ""
    licence: str = ""


def write(workdir: pathlib.Path, to: pathlib.Path, options: Options) -> None:
    """Writes the card of a run's model into the folder that it was exported to."""
    (to / FILE).write_text(text(workdir, to, options), encoding="utf-8")


def text(workdir: pathlib.Path, to: pathlib.Path, options: Options) -> str:
    """The card as Markdown with its front matter."""
    record = folder.read(workdir)
    begun = starts.read(workdir)
    where = workdir / evaluators.BEST if options.best else workdir
    step = checkpoint.newest_name(where)
    title = to.absolute().name
    parts = [
        _front(record, options),
        f"# {_plain(title)}",
        _intro(workdir, record, step, options),
        "## Method\n\n" + _method(record),
        "## Base model\n\n" + "\n".join(f"- {line}" for line in lineage(record)),
        "## Data\n\n" + _data(record, begun),
        "## Evaluation\n\n" + _numbers(workdir, step, options),
        "## How it was made\n\n" + _commands(begun, options),
        "## Licences\n\n" + "\n".join(f"- {line}" for line in _licences(record, options)),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _front(record: folder.Record, options: Options) -> str:
    """The front matter that the hub reads. JSON's strings are YAML's."""
    fields: dict[str, Any] = {"library_name": "peft" if options.adapters else "transformers"}
    if options.licence:
        fields["license"] = options.licence
    base = hub.id_of(record.config.weights)
    if base:
        fields["base_model"] = base
    product = record.config.algorithm.METHOD.product(record.config.algorithm)
    is_policy = methods.POLICY in product
    fields["pipeline_tag"] = "text-generation" if is_policy else "text-classification"
    fields["tags"] = ["alignjax", record.values["method"]]
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _intro(workdir: pathlib.Path, record: folder.Record, step: int | None, options: Options) -> str:
    product = record.config.algorithm.METHOD.product(record.config.algorithm)
    what = "A language model" if methods.POLICY in product else "A reward model"
    kind = ", as adapters for peft" if options.adapters else ""
    state = "the best state that the run kept, of step" if options.best else "the state of step"
    return (
        f"{what} trained with `{record.values['method']}` by AlignJAX{kind}: {state} {step} of "
        f"{record.config.loop.steps}. The run's folder was `{_plain(workdir.absolute().name)}`."
    )


def _method(record: folder.Record) -> str:
    config = record.config
    optim, loop = config.optim, config.loop
    is_whole = isinstance(config.adapter, adapt.FullConfig)
    rows = [
        ("method", record.values["method"]),
        ("preset", getattr(config.algorithm, "compat", "") or "-"),
        ("optimizer", f"AdamW, learning rate {optim.learning_rate:g}, {optim.schedule}, "
         f"{optim.warmup_steps} warm-up steps, weight decay {optim.weight_decay:g}"),
        ("steps x rows of a batch", f"{loop.steps} x {loop.batch_size}"),
        ("trained weights", "all" if is_whole else type(config.adapter).__name__.removesuffix(
            "Config") + " adapters"),
        ("seed", str(config.seed)),
    ]  # fmt: skip
    formula = str(record.values.get("formula", ""))
    return f"```\n{_fenced(formula)}\n```\n\n{_table(('', ''), rows)}"


def lineage(record: folder.Record) -> list[str]:
    """What a run began from, the nearest first: runs, then open weights or fresh ones."""
    lines: list[str] = []
    for _ in range(DEPTH):
        config = record.config
        if not config.policy:
            break
        place = pathlib.Path(config.policy)
        if not place.is_dir() or not folder.is_run(place):
            lines.append(f"`{_name(config.policy)}` (open weights, or a run that is not here now)")
            return lines
        try:
            record = folder.read(place)
        except ValueError:  # of a class that is not here, or of a newer release
            return [*lines, f"the run `{_name(config.policy)}`, whose record is not to be read now"]
        lines.append(
            f"the run `{_name(config.policy)}` ({record.values['method']}, "
            f"{record.config.loop.steps} steps)"
        )
    weights = record.config.weights
    if not weights:
        return [*lines, f"fresh weights of seed {record.config.seed}"]
    return [*lines, f"open weights, `{hub.id_of(weights) or _name(weights)}`"]


def _data(record: folder.Record, begun: Sequence[Mapping[str, Any]]) -> str:
    data = record.config.data
    seen: Mapping[str, Any] = begun[-1].get("data", {}) if begun else {}
    layout = getattr(data, "layout", "") or "told from the rows"
    rows = [
        ("kind", f"`{type(data).__name__}`"),
        *([("layout", str(layout))] if hasattr(data, "layout") else []),
        ("table", record.config.algorithm.METHOD.table(record.config.algorithm)),
        ("rows of training", str(seen.get("rows", "not recorded (an older release)"))),
        *((f"checksum: {name}", f"`{digest}`") for name, digest in sorted(
            record.values.get("fingerprints", {}).items()) if digest),
    ]  # fmt: skip
    parts = [_table(("", ""), rows)]
    files = seen.get("files") or []
    if files:
        cells = [(f"`{_plain(file['name'])}`", f"{file['bytes']:,}") for file in files]
        more = "\n\nFurther files are not named." if len(files) > starts.MOST_FILES else ""
        parts.append(_table(("file", "bytes"), cells[: starts.MOST_FILES]) + more)
    parts += [f"- {_plain(line)}" for line in seen.get("summary") or []]
    return "\n\n".join(parts)


def _numbers(workdir: pathlib.Path, step: int | None, options: Options) -> str:
    found, own = evaluated.last(workdir), suites.summaries_in(workdir)
    parts = []
    if found:
        cells = [
            (_plain(name), *(_number(number.get(key)) for key in ("value", "se", "n")))
            for name, number in found["numbers"].items()
        ]
        parts.append(_table(("on the eval split", "value", "± se", "n"), cells))
        of_best = bool(found.get("best"))
        if found.get("step") != step or of_best != options.best:
            kind = "the best state, of " if of_best else ""
            parts.append(f"These numbers are of {kind}step {found.get('step')}.")
    if own:
        parts.append(f"```\n{_fenced(suites.text(own))}\n```")
    if not parts:
        parts = [
            "The run was not evaluated: `alignjax evaluate --workdir=RUN` writes its numbers, and "
            "an export after it shows them."
        ]
    return "\n\n".join(parts)


def _commands(begun: Sequence[Mapping[str, Any]], options: Options) -> str:
    typed = [str(row["command"]) for row in begun if row.get("command")]
    lines = [*dict.fromkeys(typed), *([options.command] if options.command else [])]
    parts = [f"```bash\n{_fenced(chr(10).join(map(shortened, lines)))}\n```" if lines else ""]
    if begun:
        last = begun[-1]
        versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
        parts.append(f"Trained with {_plain(versions)} on {_plain(last['devices'])}.")
    now = starts.versions()
    parts.append(f"Exported with alignjax {now['alignjax']}, jax {now['jax']}.")
    return "\n\n".join(part for part in parts if part)


def _licences(record: folder.Record, options: Options) -> Iterator[str]:
    if options.licence:
        yield f"the model: {_plain(options.licence)}, as its author says (`--license`)"
    data = record.config.data
    places = [getattr(data, name, "") for name in data.where() if name != "tokenizer"]
    places = [place for place in places if isinstance(place, str) and place]
    for place in places:
        yield f"data `{_name(place)}`: {licence_of(pathlib.Path(place))}"
    if not places:
        yield f"data of `{type(data).__name__}`: of no file that is known"
    if record.config.weights:
        weights = record.config.weights
        yield f"weights `{_name(weights)}`: {licence_of(pathlib.Path(weights))}"


def licence_of(place: pathlib.Path) -> str:
    """What stands beside data or weights on their licence, in words."""
    if not place.exists():
        return "not known; they are not here now. Ask where they came from."
    try:
        return _beside(place if place.is_dir() else place.parent)
    except (OSError, ValueError):
        return "not known; what lies beside them is not to be read."


def _beside(beside: pathlib.Path) -> str:
    card = beside / FILE
    if card.is_file():
        head = untrusted.read_text(card, untrusted.OPTION).split("\n---", 1)[0]
        stated = STATED.search(head) if head.startswith("---") else None
        if stated:
            return f"{stated[1]}, as their README.md says"
    for file in sorted(beside.iterdir()):
        if file.is_file() and LICENCES.fullmatch(file.name):
            first = untrusted.read_text(file, untrusted.OPTION).strip().partition("\n")[0]
            return f"their file {_plain(file.name)}: {_plain(first)[:100]}"
    return "not known; no licence lies beside them. Ask where they came from."


def shortened(command: str) -> str:
    """A command with the last names of absolute paths: the folders above are nobody's business."""
    return re.sub(r"(?<![\w.~-])(/[^\s/'\",=]+)+/", ".../", command)


def _name(path: str) -> str:
    return _plain(pathlib.Path(path).name or path)


def _plain(value: Any) -> str:
    """Text on one line that is no markup of its own."""
    line = tables.line(str(value))
    return re.sub(r"[`|<>\[\]]", lambda match: {"`": "'"}.get(match[0], f"\\{match[0]}"), line)


def _fenced(block: str) -> str:
    return block.replace("```", "'''")


def _number(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return tables.rounded(value, 4) if isinstance(value, float) else "-"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
