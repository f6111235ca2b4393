"""Configurations whose loss is a recipe: a preset's name, a method's name, and its options."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from alignjax import compat as presets
from alignjax.training import algorithm, method


def recipe(
    compat: str,
    name: str,
    table: str,
    without: frozenset[str] = frozenset(),
    must: frozenset[str] = frozenset(),
) -> presets.Recipe:
    """How the preset `compat` computes the method `name` on a kind of table.

    without: inputs of recipes that the algorithm cannot compute. must: those that they have to
    read.

    Raises:
      ValueError: no such preset, or none of its methods that fit has the name.
    """
    return presets.recipe(compat, name, table=table, without=without, must=must)


class PresetConfig(method.MethodConfig):
    """A loss as a paper or a release of another code base computes it.

    Fields of a subclass: `method` and `compat`, which name the recipe (`alignjax.compat`), and the
    recipe's options. An option that is None takes the preset's value; one that the recipe does not
    have is an error. Fields that are not options of the recipe are listed in OWN.
    """

    TABLE: ClassVar[str]  # the kind of table that the recipes read
    WITHOUT: ClassVar[frozenset[str]] = frozenset()  # inputs that the algorithm cannot compute
    MUST: ClassVar[frozenset[str]] = frozenset()  # inputs without which it is no such method
    OWN: ClassVar[tuple[str, ...]] = ()
    method: str
    compat: str

    @property
    def recipe(self) -> presets.Recipe:
        """The recipe.

        Raises:
          ValueError: no such preset, or none of its methods for this table has the name.
        """
        return recipe(self.compat, self.method, self.TABLE, self.WITHOUT, self.MUST)

    @property
    def options(self) -> dict[str, Any]:
        """The recipe's options that are not None."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name in ("method", "compat", *self.OWN):
            values.pop(name, None)
        return {name: value for name, value in values.items() if value is not None}

    @property
    def needs(self) -> frozenset[str]:
        """Inputs of the loss besides the policy's log-probabilities and masks."""
        return self.recipe.needs(**self.options)

    def terms(self, arrays: Mapping[str, jax.Array]) -> algorithm.Terms:
        """{term: Mean} of a batch, the main term under the method's name."""
        terms = self.recipe(arrays, **self.options)
        return {self.method if name == "loss" else name: term for name, term in terms.items()}

    def formula(self) -> str:
        """One line for the log: the preset, what is averaged over what, every number."""
        return self.recipe.echo(**self.options)

    def check(self) -> None:
        """Raises ValueError where preset, method or the name of an option is unknown."""
        try:
            self.recipe.options(**self.options)
        except ValueError as error:
            raise ValueError(f"{error} (algorithm)") from None
