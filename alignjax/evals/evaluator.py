"""What judges a run: numbers from its networks and the eval split, the same for every method."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignjax.data import corpus
from alignjax.evals import estimate
from alignjax.models import model as models
from alignjax.rewards import learned
from alignjax.training import program

Numbers = dict[str, estimate.Estimate]


class Subject(NamedTuple):
    """What is judged.

    networks, trees: by name, the parts that the run hands on (policy, scorer, critic) and its
      frozen roles (reference, reward, ...); trees are bound, as their models read them.
    config: the method's. sampling: how completions are drawn. rewards: how a frozen role scores
      samples, by role. rows: scored at once. seed: of what is drawn. programs: jitted functions
      that judgements of the same networks share.
    """

    networks: Mapping[str, models.Model]
    trees: Mapping[str, Any]
    corpus: corpus.Corpus
    config: Any
    sampling: Any
    rewards: Mapping[str, learned.RewardFn]
    rows: int
    seed: int
    programs: dict[str, Any]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, the same object as long as `programs` is: compiled once."""
        if name not in self.programs:
            self.programs[name] = make()
        return self.programs[name]


class Evaluator(NamedTuple):
    """A judgement.

    name: in messages. run: Subject -> numbers with standard errors. reads: names of the networks
      it needs; optional: those it uses if they are there. programs: the same Subject in shapes ->
      what `run` executes, for plans. every: steps between runs in the loop; 0 is the loop's own.
    """

    name: str
    run: Callable[[Subject], Numbers]
    reads: tuple[str, ...]
    optional: tuple[str, ...] = ()
    programs: Callable[[Subject], tuple[program.Program, ...]] | None = None
    every: int = 0
