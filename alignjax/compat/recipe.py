"""A recipe: one method, computed as one code base or paper computes it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignjax.core import mean, shapes

Terms = dict[str, mean.Mean]


class Arrays(Mapping[str, Any]):
    """Arrays by name; a missing one is a ValueError in the recipe's words."""

    def __init__(self, arrays: Mapping[str, Any], recipe: str) -> None:
        self._arrays, self._recipe = arrays, recipe

    def __getitem__(self, name: str) -> Any:
        if name not in self._arrays:
            raise ValueError(
                f"{name} must be among the arrays of {self._recipe}; got {', '.join(self)}."
            )
        return self._arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method's formula, its reduction and its defaults, over the functions of `losses`.

    compute: (arrays, **options) -> {term: Mean}; the objective is the sum of the terms' values, and
      weights depend on masks alone, so that it is exact under micro-batches. A recipe of advantages
      or rewards returns arrays instead.
    formula: plain text, with what it is averaged over.
    source: where the reference computes it.
    defaults: every option with its value there; no other option exists. None leaves a part out.
    name: preset and method, filled in by `compat.recipe`.
    """

    compute: Callable[..., Any]
    formula: str
    source: str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""

    def __call__(self, arrays: Mapping[str, Any], **options: Any) -> Any:
        """The terms (or arrays) for these inputs.

        Raises:
          ValueError: an array is missing, an option is unknown or out of range, shapes differ.
        """
        return self.compute(Arrays(arrays, self.name), **self.options(**options))

    def options(self, **options: Any) -> dict[str, Any]:
        """The defaults with `options` in their place.

        Raises:
          ValueError: a name is not an option of this recipe.
        """
        for option in options:
            shapes.check_choice(f"option of {self.name}", option, self.defaults)
        return {**self.defaults, **options}

    def echo(self, **options: Any) -> str:
        """One line for a run's log: name, formula, reduction and every number."""
        numbers = ", ".join(f"{k}={v}" for k, v in self.options(**options).items())
        return f"{self.name}: {self.formula}" + (f" [{numbers}]" if numbers else "")
