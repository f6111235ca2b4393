"""alignjax export: a run's model as a folder that transformers loads."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes
from alignjax.models.config import DTYPES
from alignjax.reporting import card
from alignjax.runs import exchange, hub

OPTIONS = (
    common.WORKDIR,
    flags.Option("to", str, "", "the model folder to write, new or empty"),
    flags.Option("dtype", str, "", "float32 or bfloat16; empty is that of the run"),
    flags.Option("license", str, "", "of the model, for its card: apache-2.0, mit, ..."),
    flags.Option("push", str, "", "OWNER/NAME of a repository of the hub that gets the folder"),
    flags.Option("private", bool, False, "with --push: a new repository is a private one"),
    flags.Option("dry_run", bool, False, "with --push: list what would be sent, and send nothing"),
    flags.Option("adapters", bool, False, "write the adapters alone, in peft's format"),
    common.BEST,
    common.BASE,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False
LICENCE = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}")


def main(parsed: flags.Parsed) -> None:
    """Writes config.json, safetensors, a model card, and the tokenizer's files where the run has
    them; --push sends the folder, and without --workdir one that was written before."""
    options = parsed.options
    common.use_base(parsed)
    _check(options)
    to = pathlib.Path(options["to"])
    if options["workdir"] or not options["push"]:
        _export(parsed, to)
    if options["push"]:
        _push(options, to)


def _check(options: Mapping[str, Any]) -> None:
    """Refuses what is wrong before anything is written.

    Raises:
      ValueError: naming the option.
    """
    if not options["to"]:
        raise ValueError("--to must name the folder to write; got '' (export).")
    if options["dtype"]:
        shapes.check_choice("--dtype", options["dtype"], DTYPES)
    if options["license"] and not LICENCE.fullmatch(options["license"]):
        raise ValueError(
            f"--license must be the short name of a licence, like apache-2.0; got "
            f"{options['license']!r:.80} (export)."
        )
    wrong = [n for n in ("private", "dry_run") if options[n] and not options["push"]]
    if wrong:
        raise ValueError(
            f"--{wrong[0]} must come with --push=OWNER/NAME; got it alone (export). Name one."
        )
    if options["push"]:
        hub.check_id(options["push"], "--push")
        if not options["dry_run"]:
            hub.package(f"--push={options['push']}")


def _export(parsed: flags.Parsed, to: pathlib.Path) -> None:
    options, workdir = parsed.options, common.run_folder(parsed)
    exchange.export_run(
        workdir,
        to,
        dtype=options["dtype"],
        adapters=options["adapters"],
        best=options["best"],
        log=common.log,
        definitions=options["definitions"],
    )
    about = card.Options(
        adapters=options["adapters"],
        best=options["best"],
        command=common.command_of(parsed),
        licence=options["license"],
    )
    card.write(workdir, to, about)
    common.log(f"written: {to / card.FILE} (the model card)")


def _push(options: Mapping[str, Any], to: pathlib.Path) -> None:
    if not options["dry_run"]:
        common.tell(f"pushed: {hub.push(to, options['push'], private=options['private'])}")
        return
    files = hub.uploads(to)
    for file in files:
        common.tell(f"{file.size:>15,}  {file.name}")
    total = sum(file.size for file in files)
    common.tell(
        f"{total:>15,}  bytes in {len(files)} files would be sent to {options['push']}; none was."
    )
