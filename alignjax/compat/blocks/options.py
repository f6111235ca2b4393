"""Which of a recipe's options reach which block."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from alignjax.compat import vocabulary
from alignjax.core import shapes


@functools.cache
def names(block: Callable[..., Any]) -> frozenset[str]:
    """The block's keyword-only parameters."""
    parameters = inspect.signature(block).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def accepted(block: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the block has a parameter for."""
    return {name: value for name, value in options.items() if name in names(block)}


def is_off(name: str, value: Any) -> bool:
    """Whether a weight leaves its part out: None, False or 0. A traced one never does."""
    return not vocabulary.is_on(name, value)


def block(blocks: Mapping[str, Callable[..., Any]], part: str, name: str) -> Callable[..., Any]:
    """The function of that name.

    Raises:
      ValueError: there is none; the message names the nearest.
    """
    shapes.check_choice(part, name, blocks)
    return blocks[name]
