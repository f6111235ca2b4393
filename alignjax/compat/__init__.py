"""Versioned numerics: each method as a paper, or a release of another code base, computes it.

A preset is a named set of recipes; a recipe is a method's formula, reduction and defaults over the
functions of `alignjax.losses`, and its `echo` is what a run logs:

    recipe = compat.recipe("trl-1.16", "ipo")
    terms = recipe(arrays, beta=0.2)             # {term: Mean}
    loss = sum(term.value for term in terms.values())

`docs/conformance.md` shows how far each is from the code it stands for, in value and gradient.
"""

import dataclasses
from collections.abc import Mapping

from alignjax.compat import (
    openrlhf_0_11,
    paper,
    trl_0_28,
    trl_1_12,
    trl_1_13,
    trl_1_16,
    tunix_0_1_7,
    verl_0_9,
)
from alignjax.compat.recipe import Recipe
from alignjax.core import shapes

__all__ = ["PRESETS", "Recipe", "recipe"]

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


def recipe(preset: str, method: str) -> Recipe:
    """How `preset` computes `method`.

    Raises:
      ValueError: no such preset, or the preset has no such method; the message names the nearest.
    """
    shapes.check_choice("compat", preset, PRESETS)
    shapes.check_choice(f"method of {preset}", method, PRESETS[preset])
    return dataclasses.replace(PRESETS[preset][method], name=f"{preset} {method}")
