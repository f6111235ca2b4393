"""alignjax evaluate: a trained run on its eval split."""

import json

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.runs import evaluation

OPTIONS = (
    common.WORKDIR,
    *common.PROCESSES,
    flags.Option("rows", int, 64, "rows scored at once"),
    flags.Option("seed", int, 0, "of the sampled completions"),
    flags.Option("json", bool, False, "print one JSON object instead of lines"),
    common.BEST,
    common.ALLOW_CODE,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints every number with its standard error."""
    options = parsed.options
    common.join(parsed)
    numbers = evaluation.evaluate(
        common.run_folder(parsed),
        rows=options["rows"],
        seed=options["seed"],
        best=options["best"],
        log=common.log,
        definitions=options["definitions"],
        allow_code=options["allow_code"],
    )
    if options["json"]:
        common.tell(json.dumps({name: value.as_dict() for name, value in numbers.items()}))
        return
    for name, value in numbers.items():
        common.tell(f"{name}: {value.value:.4f} ± {value.se:.4f} (n = {value.n})")
