"""alignjax compare: two results of evaluation suites, row by row; or the logs of training runs."""

import json
import pathlib
from collections.abc import Sequence

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.reporting import logs, suites

OPTIONS = (
    flags.Option("a", str, "", "result, folder of results or run: the first word", leads=True),
    flags.Option("b", str, "", "what it is compared with: the second word", leads=True),
    flags.Option("more", str, "", "further training runs", rest=True),
    flags.Option(
        "metrics", bool, False, "compare metrics.jsonl of training runs, not results of suites"
    ),
    flags.Option(
        "allow_different", bool, False, "compare the rows that both have, however they were asked"
    ),
    flags.Option("json", bool, False, "print one JSON array instead of a table"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints every score of both, their paired difference, its error and p; or, of training runs
    without results of suites, the last, lowest and highest value of every number that they log.

    Raises:
      ValueError: a side is no result, they have no suite in common, or were not asked the same.
    """
    from alignjax.evals import compare

    options = parsed.options
    for name in ("a", "b"):
        if not options[name]:
            raise ValueError(
                "compare must have two results; got fewer (compare). Write alignjax compare A B."
            )
    named = [options["a"], options["b"], *options["more"]]
    if options["metrics"] or options["more"] or all(map(_only_trained, named)):
        print(_logs(named, options["json"]))
        return
    sides = [compare.results_of(options[name]) for name in ("a", "b")]
    if len(sides[0]) == len(sides[1]) == 1:
        pairs = [tuple(next(iter(side.values())) for side in sides)]
    else:
        pairs = [(sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]]
    if not pairs:
        raise ValueError(
            f"results must have a suite in common; got {', '.join(sides[0])} and "
            f"{', '.join(sides[1])} (compare)."
        )
    every = []
    for one, other in pairs:
        a, b = compare.read(one), compare.read(other)
        if not options["allow_different"] or a.suite != b.suite:
            compare.check(a, b)
        every += compare.differences(a, b)
    found = compare.adjusted(every)
    if options["json"]:
        print(json.dumps([own.as_dict() for own in found]))
        return
    print(f"a: {options['a']}\nb: {options['b']}\n")
    print(suites.comparison([own.as_dict() for own in found]))


def _only_trained(path: str) -> bool:
    """Whether a folder is a training run without results of suites."""
    return logs.is_run(pathlib.Path(path)) and not suites.summaries_in(pathlib.Path(path))


def _logs(paths: Sequence[str], as_json: bool) -> str:
    """What the runs log, side by side."""
    again = [path for i, path in enumerate(paths) if path in paths[:i]]
    if again:
        raise ValueError(f"runs must be named once; got {again[0]!r} twice (compare).")
    runs = [(path, logs.read(pathlib.Path(path))) for path in paths]
    return json.dumps(logs.as_rows(runs)) if as_json else logs.text(runs)
