"""alignjax compare: two results of evaluation suites, row by row."""

import json

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.reporting import suites

OPTIONS = (
    flags.Option("a", str, "", "result, folder of results or run: the first word", leads=True),
    flags.Option("b", str, "", "what it is compared with: the second word", leads=True),
    flags.Option(
        "allow_different", bool, False, "compare the rows that both have, however they were asked"
    ),
    flags.Option("json", bool, False, "print one JSON array instead of a table"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints every score of both, their paired difference, its error and p.

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
    sides = [compare.found(options[name]) for name in ("a", "b")]
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
