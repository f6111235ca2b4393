"""alignjax methods [NAME]: which methods there are, and how papers and other code compute one."""

import json
from collections.abc import Mapping
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.compat import listing

OPTIONS = (
    flags.Option(
        "name", str, "", "a method, e.g. ipo (also the first word); none: all", leads=True
    ),
    flags.Option("table", str, "", "only on such rows: pairs, unpaired, rollouts, ..."),
    flags.Option("preset", str, "", "only as it computes them: paper, trl-1.16, ..."),
    flags.Option("json", bool, False, "print one JSON object instead of text"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints the methods by kind of rows, or a method's formulas and how presets differ."""
    options = parsed.options
    where = options["table"] or None, options["preset"] or None
    own = None if options["name"] in ("", *listing.all_methods()) else _record(options["name"])
    if own is not None:
        print(json.dumps(own) if options["json"] else "\n".join(_lines(own)))
        return
    if options["json"]:
        name = options["name"]
        print(json.dumps(listing.detail(name, *where) if name else listing.overview(*where)))
    elif options["name"]:
        print(listing.detail_text(options["name"], *where))
    else:
        print(listing.overview_text(*where))


def _record(name: str) -> dict[str, Any] | None:
    """What the record of a method of training says, at its defaults; None where there is none."""
    from alignjax.runs import kinds

    for kind in kinds.methods():
        if kind.METHOD.name == name:
            config, record = kind(), kind.METHOD
            roles = record.roles(config)
            return {
                "name": name,
                "trains": record.table(config),
                "networks": {n: "trained" if r.trained else "frozen" for n, r in roles.items()},
                "formula": record.echo(config),
                "losses": getattr(kind, "TABLE", None),
            }
    return None


def _lines(own: Mapping[str, Any]) -> list[str]:
    networks = ", ".join(f"{name} ({how})" for name, how in own["networks"].items())
    rows = {"trains on": own["trains"], "networks": networks, "formula": own["formula"]}
    if own["losses"]:
        rows["losses"] = f"alignjax methods --table={own['losses']} lists them"
    return [own["name"], *(f"  {name:<11} {value}" for name, value in rows.items())]
