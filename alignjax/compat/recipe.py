"""A recipe: one method, computed as one code base or paper computes it, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax.compat import blocks, vocabulary
from alignjax.compat.arrays import Arrays, Terms
from alignjax.core import shapes

__all__ = ["Arrays", "Recipe", "Terms"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method's parts, by the names of `alignjax.compat.blocks`, and its defaults.

        loss = reduction(weight * link(divergence(score))), plus the terms beside it

    Two recipes are equal if all that is written here is; nothing in it is a function.

    table: the kind of rows that it trains on (`vocabulary.TABLES`).
    score: what an answer is worth (pairs, unpaired: "sum" or "mean" of log-probabilities, or of
      log-ratios where `reads` has "reference"), whose ratio a policy loss takes ("token",
      "sequence", "response"), or which rewards an estimate starts from.
    divergence: what the score goes through; "" where nothing.
    divergences: those that the option `divergence` may choose instead; "alpha:power" is the block
      "power" under the option's value "alpha".
    link: the loss of one row or token; of estimates, the estimator.
    weight: what rows or tokens are multiplied by, without gradient; "" where nothing.
    reduction: what is averaged over what; of estimates, how they are normalised.
    terms: further terms of the objective beside the main one.
    term: the main term's name.
    defaults: every option with its value there; no other option exists. None leaves a part out. The
      options `divergence`, `level` and `reduction` stand in for the part of that name (`level`: of
      the score).
    reads: what it reads besides the policy's log-probabilities and masks (`vocabulary.READS`).
    optional: those of `reads` that the arrays may lack whatever the options.
    coupled: whether the loss of a row depends on other rows: micro-batches would change it.
    formula: plain text, with what it is averaged over.
    source: where the reference computes it.
    name: preset and method, filled in by `compat.recipe`.
    """

    table: str
    score: str = ""
    divergence: str = ""
    divergences: tuple[str, ...] = ()
    link: str = ""
    weight: str = ""
    reduction: str = ""
    terms: tuple[str, ...] = ()
    term: str = "loss"
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    coupled: bool = False
    formula: str
    source: str
    name: str = ""

    def __post_init__(self) -> None:
        """Puts the words into their sets.

        Raises:
          ValueError: an unknown table or read.
        """
        shapes.check_choice("table", self.table, vocabulary.TABLES)
        for field in ("reads", "optional"):
            words = frozenset(getattr(self, field))
            for word in words:
                shapes.check_choice(f"{field} of {self.formula!r}", word, vocabulary.READS)
            object.__setattr__(self, field, words)
        object.__setattr__(self, "reads", self.reads | self.optional)

    def __hash__(self) -> int:
        return hash((self.name, self.formula, self.source, self.table, self.link, self.score))

    def __call__(self, arrays: Mapping[str, Any], **options: Any) -> Any:
        """{term: Mean} for these inputs, or an array where the table is "estimates".

        The objective is the sum of the terms' values; their weights depend on masks alone, so that
        it is exact under micro-batches unless rows are coupled (`couples`).

        Raises:
          ValueError: an array is missing, an option is unknown or out of range, shapes differ.
        """
        return blocks.COMPUTE[self.table](self, Arrays(arrays, self.name), self.options(**options))

    def rewards(self, arrays: Mapping[str, Any], **options: Any) -> Any:
        """(chosen, rejected), or of single answers one array, [B], in reward units; no gradient.

        The reward is the method's own: beta times the score that enters its link (log-ratios, or
        log-probabilities where it reads no reference; sums or means; through its divergence), the
        log odds of ORPO, the scores of a reward model.

        Raises:
          ValueError: the recipe trains on other rows than pairs and unpaired; and as for a call.
        """
        shapes.check_choice(f"table of {self.name}, for rewards,", self.table, blocks.REWARDS)
        return blocks.REWARDS[self.table](self, Arrays(arrays, self.name), self.options(**options))

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

    def needs(self, **options: Any) -> frozenset[str]:
        """Those of `reads` without which it can't be computed under these options.

        "mismatched" is also met by the array reference_point.
        """
        numbers = self.options(**options)

        def is_needed(read: str) -> bool:
            switches = [s for s in vocabulary.SWITCHES.get(read, ()) if s in numbers]
            return not switches or any(vocabulary.is_on(s, numbers[s]) for s in switches)

        return frozenset(read for read in self.reads - self.optional if is_needed(read))

    def couples(self, arrays: Mapping[str, Any] | None = None, **options: Any) -> bool:
        """Whether rows depend on one another under these options and with arrays of these names.

        KTO's z0 does couple them where it is the mean over mismatched answers; the array
        reference_point in their place does not.
        """
        numbers = self.options(**options)
        by_option = any(vocabulary.is_on(o, numbers[o]) for o in vocabulary.COUPLING & {*numbers})
        by_mean = "mismatched" in self.reads and "reference_point" not in (arrays or ())
        return self.coupled or by_option or by_mean

    def fits(self, table: str) -> bool:
        """Whether it trains on rows of that kind."""
        return table == self.table or table in vocabulary.ALSO_FITS.get(self.table, ())
