"""What a recipe computes from, and what it returns."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any, cast

from alignjax.core import mean

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

    def get(self, name: str, default: Any = None) -> Any:
        """The array, or `default` where there is none."""
        return self._arrays.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def replace(self, **arrays: Any) -> "Arrays":
        """The same with these in place of, or beside, those of the same names."""
        return Arrays(collections.ChainMap(arrays, cast(Any, self._arrays)), self._recipe)
