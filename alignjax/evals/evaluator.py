"""Evaluators of a run: numbers from its networks and the eval split, for every method alike."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignjax.data import corpus
from alignjax.evals import estimate
from alignjax.models import model as models
from alignjax.rewards import learned
from alignjax.sampling import transforms
from alignjax.training import program

Numbers = dict[str, estimate.Estimate]


class Subject(NamedTuple):
    """The subject of an evaluation.

    networks, trees: by name, the parts that the run hands on (policy, scorer, critic) and its
      frozen roles (reference, reward, ...); trees are bound, as their models read them.
    config: the method's. sampling: the method's sampling configuration, if it samples. rewards:
      reward functions of frozen roles, by role. rows: scored at once. seed: of all sampling.
      allow_code: whether rules may run programs that the model wrote.
      programs: jitted functions, shared by evaluators of the same networks.
    """

    networks: Mapping[str, models.Model]
    trees: Mapping[str, models.Params]
    corpus: corpus.Corpus
    config: Any
    sampling: transforms.SamplingConfig | None
    rewards: Mapping[str, learned.RewardFn]
    rows: int
    seed: int
    programs: dict[str, Any]
    allow_code: bool = False

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of `make`, cached in `programs` by name, so that it compiles once."""
        if name not in self.programs:
            self.programs[name] = make()
        return self.programs[name]


class Evaluator(NamedTuple):
    """An evaluation.

    name: in messages. run: Subject -> numbers with standard errors. reads: names of the networks
      it needs; optional: those it uses if the run has them. programs: the same Subject in shapes ->
      the programs of `run`, for plans. every: steps between runs in the loop; 0 is the loop's own.
    """

    name: str
    run: Callable[[Subject], Numbers]
    reads: tuple[str, ...]
    optional: tuple[str, ...] = ()
    programs: Callable[[Subject], tuple[program.Program, ...]] | None = None
    every: int = 0
