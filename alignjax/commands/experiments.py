"""alignjax experiments [NAME]: the experiments that AlignJAX brings."""

import importlib
import json
import textwrap

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


def main(parsed: flags.Parsed) -> None:
    """Prints every experiment with what it is, its hardware and variants; or one of them in full.

    Raises:
      ValueError: there is none of that name.
    """
    name = parsed.options["name"]
    found = [experiment_files.describe(n) for n in ([name] if name else experiment_files.names())]
    rows = {one.name: {**one._asdict(), "file": str(one.file)} for one in found}
    for one, row in rows.items():
        row["variants"] = config_file.variants(
            importlib.import_module(f"{experiments.__name__}.{one}")
        )
    if parsed.options["json"]:
        print(json.dumps(rows))
        return
    for one, row in rows.items():
        told = [row["text"], "", f"File: {row['file']}"] if name else [row["line"], row["hardware"]]
        print(one)
        for line in [*told, f"Variants: {row['variants']}"]:
            keep = name or len(line) < 96
            print(textwrap.indent(line if keep else textwrap.fill(line, 96), "  "))
