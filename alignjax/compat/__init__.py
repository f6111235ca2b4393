"""Versioned numerics: each method as a paper, or a release of another code base, computes it.

A preset is a named set of recipes; a recipe is data: the names of a method's parts over the
functions of `alignjax.losses`, its reduction and its defaults. Its `echo` is what a run logs:

    recipe = compat.recipe("trl-1.16", "ipo")
    terms = recipe(arrays, beta=0.2)             # {term: Mean}
    loss = sum(term.value for term in terms.values())
    compat.fitting("paper", "pairs", without={"reference"})   # names of methods

`docs/conformance.md` shows how far each is from the code it stands for, in value and gradient.
"""

import dataclasses
from collections.abc import Mapping, Set

from alignjax.compat import paper, vocabulary
from alignjax.compat.recipe import Recipe
from alignjax.compat.releases import (
    openrlhf_0_11,
    trl_0_28,
    trl_1_12,
    trl_1_13,
    trl_1_16,
    tunix_0_1_7,
    verl_0_9,
)
from alignjax.compat.vocabulary import READS, TABLES
from alignjax.core import shapes

__all__ = ["PRESETS", "READS", "TABLES", "Recipe", "fitting", "recipe"]

# The formula of the paper, or of a pinned release of a code base, by method.
PRESETS: Mapping[str, Mapping[str, Recipe]] = {
    "openrlhf-0.11": openrlhf_0_11.RECIPES,
    "paper": paper.RECIPES,
    "trl-0.28": trl_0_28.RECIPES,
    "trl-1.12": trl_1_12.RECIPES,
    "trl-1.13": trl_1_13.RECIPES,
    "trl-1.16": trl_1_16.RECIPES,
    "tunix-0.1.7": tunix_0_1_7.RECIPES,
    "verl-0.9": verl_0_9.RECIPES,
}


def recipe(
    preset: str,
    method: str,
    table: str | None = None,
    without: Set[str] = frozenset(),
    must: Set[str] = frozenset(),
) -> Recipe:
    """How `preset` computes `method`; with a table, one that trains on such rows.

    Args:
      preset, method: of `PRESETS`.
      table: of `TABLES`; None takes any.
      without, must: as in `fitting`.

    Raises:
      ValueError: no such preset, or the preset has no such method, or it does not fit; the message
        names those that do, and the nearest.
    """
    shapes.check_choice("compat", preset, PRESETS)
    methods = PRESETS[preset]
    if table is None and not without and not must:
        shapes.check_choice(f"method of {preset}", method, methods)
    else:
        rows = "" if table is None else f" on {table}"
        why, known = (
            _misfit(preset, method, table, without, must),
            fitting(preset, table, without, must),
        )
        if not known:
            others = [name for name in PRESETS if fitting(name, table, without, must)]
            raise ValueError(
                f"compat must be one of {', '.join(others)}, which have such a method{rows}; got "
                f"{preset!r} and {method!r}.{why}"
            )
        try:
            shapes.check_choice(f"method of {preset}{rows}", method, known)
        except ValueError as error:
            raise ValueError(f"{error}{why}") from None
    return dataclasses.replace(methods[method], name=f"{preset} {method}")


def _misfit(preset: str, method: str, table: str | None, without: Set[str], must: Set[str]) -> str:
    """Why a method that the preset has does not fit; "" if it has none of that name."""
    if method not in PRESETS[preset]:
        return ""
    known = PRESETS[preset][method]
    if table is not None and not known.fits(table):
        return f" It is one on {known.table}."
    if known.needs() & without:
        return f" It reads {', '.join(sorted(known.needs() & without))}."
    return f" It does not read {', '.join(sorted(must - known.reads))}." if must else ""


def fitting(
    preset: str,
    table: str | None = None,
    without: Set[str] = frozenset(),
    must: Set[str] = frozenset(),
) -> tuple[str, ...]:
    """The methods of `preset` that train on rows of `table`.

    Args:
      table: of `TABLES`; None takes any.
      without: words of `READS` that there are no arrays for: methods that need one of them at their
        defaults are left out.
      must: words of `READS` that a method has to read: others, such as a penalty by itself, are
        left out.

    Raises:
      ValueError: no such preset, table or read.
    """
    shapes.check_choice("compat", preset, PRESETS)
    if table is not None:
        shapes.check_choice("table", table, vocabulary.TABLES)
    for word in (*without, *must):
        shapes.check_choice("without", word, vocabulary.READS)
    return tuple(
        name
        for name, known in PRESETS[preset].items()
        if (table is None or known.fits(table))
        and not known.needs() & without
        and must <= known.reads
    )
