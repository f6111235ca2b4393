"""alignjax export: a run's model as a folder that transformers loads."""

import pathlib

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes
from alignjax.models.config import DTYPES
from alignjax.runs import exchange

OPTIONS = (
    common.WORKDIR,
    flags.Option("to", str, "", "the model folder to write, new or empty"),
    flags.Option("dtype", str, "", "float32 or bfloat16; empty is that of the run"),
    flags.Option("adapters", bool, False, "write the adapters alone, in peft's format"),
    common.BEST,
    common.BASE,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Writes config.json, safetensors, and the tokenizer's files where the run has them."""
    options = parsed.options
    common.use_base(parsed)
    if not options["to"]:
        raise ValueError("--to must name the folder to write; got '' (export).")
    if options["dtype"]:
        shapes.check_choice("--dtype", options["dtype"], DTYPES)
    exchange.export_run(
        common.run_folder(parsed),
        pathlib.Path(options["to"]),
        dtype=options["dtype"],
        adapters=options["adapters"],
        best=options["best"],
        log=common.log,
        definitions=options["definitions"],
    )
