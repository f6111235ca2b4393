"""The record of a method: all that the rest of the package knows of it.

A method is a configuration class that carries its record. An experiment file may define one of its
own; nothing in the package has a list of them.

    @dataclasses.dataclass(kw_only=True)
    class MyConfig(method.MethodConfig):
        strength: float = 0.1

    def mine(model, config) -> algorithm.Algorithm: ...

    MyConfig.METHOD = method.Method(
        name="mine",
        make=lambda networks, config, task: mine(networks["policy"], config),
        table=lambda config: "pairs",
        roles=lambda config: {"policy": method.Role(trained=True, source="policy")},
        evaluators=lambda config: (policy.SAMPLES,),
    )
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus as corpora
from alignjax.data import step_ends
from alignjax.models import model as models
from alignjax.text import chat
from alignjax.training import algorithm

# Fields of an experiment that may name where a network comes from: a run's folder, or open weights.
SOURCES = ("policy", "reward", "reference", "critic", "teacher")
# What a finished run can hand on.
POLICY, SCORER, CRITIC = "policy", "scorer", "critic"
PARTS = (POLICY, SCORER, CRITIC)
# What the head of a scorer is of: a whole answer, each of its steps, or categories of labels.
ANSWERS, STEPS, LABELS = "answers", "steps", "labels"


class Role(NamedTuple):
    """A network of a method.

    trained: whether it is updated; else it is frozen.
    source: the field of the experiment that names where it comes from, "" for none.
    part: which part of a run there is read: policy, scorer or critic.
    otherwise: the roles in whose place it starts where its field is empty, in order of preference;
      one whose network has another shape, or is not there, is passed over.
    required: refuse the experiment where nothing gives it.
    head: whether it has a scalar head; a start without one gets a zero head. heads: outputs of a
      head [D, C] in its place; 0 is a scalar.
    reads_text: whether it may have a tokenizer of its own and be given text.
    only_evaluated: whether training does not read it; a finished run is judged by it.
    """

    trained: bool = False
    source: str = ""
    part: str = POLICY
    otherwise: tuple[str, ...] = ()
    required: bool = False
    head: bool = False
    heads: int = 0
    reads_text: bool = False
    only_evaluated: bool = False


class Task(NamedTuple):
    """What a method may know of the data.

    gold: (tokens [N, T], lengths [N]) -> [N], the data's own reward; None where there is none.
    text: ids -> text. speaker: the tokenizer with its layout of conversations; None where rows are
      no text. rows: the columns of every training prompt by its number, its text and what
      rules compare with; empty in plans, None where there are none. allow_code: whether rules may
      run programs that a model wrote.
    tell: takes a line for the log. journal: takes a step and rows to look at (samples.jsonl).
    readers: by role, for networks with a tokenizer of their own: see `rewards.learned.Reader`.
    apart: frozen roles whose parameters are not those that the policy starts from, though their
      model may be the same.
    micro_batches: parts of an update whose gradients are summed, to save memory; a `collect` over a
      whole batch goes through as many. batch_size: rows of a batch of the data; 0 is not known.
    categories: names of the columns of the data's labels.
    scores: by role, what the heads of frozen scorers are of; those left out are of answers.
    steps: where the steps of answers end; None where the data have none.
    """

    eos: int
    pad: int
    length: int
    prompt_length: int
    micro_batches: int = 1
    batch_size: int = 0
    gold: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    text: Callable[[np.ndarray], str] | None = None
    speaker: chat.Speaker | None = None
    rows: Sequence[Mapping[str, Any]] | None = None
    allow_code: bool = False
    tell: Callable[[str], None] = lambda line: None
    journal: Callable[[int, list[dict[str, Any]]], None] | None = None
    readers: Mapping[str, Any] = {}
    apart: frozenset[str] = frozenset()
    categories: tuple[str, ...] = ()
    scores: Mapping[str, str] = {}
    steps: step_ends.StepEnds | None = None

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids at which a sampled answer ends, `eos` first."""
        return corpora.ends_of(self.eos, self.speaker)


class Part(NamedTuple):
    """How a network that a run hands on is taken out of its params.

    role: whose Model reads it. take: (model, params) -> that model's tree.
    """

    role: str
    take: Callable[[models.Model, models.Params], models.Params]


def whole(role: str = "policy") -> Part:
    """The params themselves."""
    return Part(role, lambda model, params: params)


def entry(role: str) -> Part:
    """params[role]."""
    return Part(role, lambda model, params: params[role])


def without_head(role: str = "policy") -> Part:
    """The params without their scalar head."""
    return Part(role, lambda model, params: model.without_scalar(params))


class Method(NamedTuple):
    """A method's record.

    name: in messages and records. make: (networks by role, config, task) -> Algorithm.
    table: config -> the kind of table that it trains on (data/tables.py).
    roles: config -> its networks; the first trained one is the experiment's own model.
    product: config -> what a run hands on, by part: policy, scorer, critic.
    evaluators: config -> what a run is judged by (evals/evaluator.py).
    formula: config -> one line for the log: what is minimised, averaged over what, every number.
    sampling: config -> how the method samples; None where it does not.
    curves: metrics that a report draws. scores: what the head of the scorer that it hands on is
      of: answers, steps or labels.
    """

    name: str
    make: Callable[[Mapping[str, models.Model], Any, Task], algorithm.Algorithm]
    table: Callable[[Any], str]
    roles: Callable[[Any], Mapping[str, Role]]
    product: Callable[[Any], Mapping[str, Part]] = lambda config: {POLICY: whole()}
    evaluators: Callable[[Any], tuple[Any, ...]] = lambda config: ()
    formula: Callable[[Any], str] | None = None
    sampling: Callable[[Any], Any] = lambda config: None
    curves: tuple[str, ...] = ("loss",)
    scores: str = ANSWERS

    def echo(self, config: Any) -> str:
        """The formula, or the first line of the config's docstring, with every number."""
        if self.formula is not None:
            return self.formula(config)
        numbers = ", ".join(
            f"{f.name}={getattr(config, f.name)}" for f in dataclasses.fields(config)
        )
        return f"{(type(config).__doc__ or self.name).splitlines()[0]} {numbers}".strip()


class MethodConfig:
    """What every method's configuration is: a dataclass with its options, and its record."""

    METHOD: ClassVar[Method]

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""


def another(
    networks: Mapping[str, models.Model], role: str, task: Task, beside: str = "policy"
) -> models.Model | None:
    """The network of a role; None where it is missing, or is that of `beside` at its start."""
    network = networks.get(role)
    return None if network is networks[beside] and role not in task.apart else network


def check(config: Any) -> None:
    """Compares a method's configuration and record with what the rest of the package reads.

    Raises:
      ValueError: there is no record, no role is trained, a role's source or part is unknown, or
        the product is of a network that is not trained, or called like one.
    """
    kind, record = type(config), getattr(config, "METHOD", None)
    if not isinstance(record, Method) or not dataclasses.is_dataclass(kind):
        lacks = "a METHOD record" if dataclasses.is_dataclass(kind) else "@dataclasses.dataclass"
        raise ValueError(
            f"a method's configuration must be a dataclass with a METHOD record; got "
            f"{kind.__name__} without {lacks} (algorithm). See training/method.py."
        )
    shapes.check_choice(f"what {record.name} scores", record.scores, (ANSWERS, STEPS, LABELS))
    roles = record.roles(config)
    if not trained_roles(roles):
        raise ValueError(
            f"{record.name} must train at least one of its networks; got the roles "
            f"{', '.join(roles) or 'none'}, all frozen (algorithm). Write Role(trained=True)."
        )
    for name, part in record.product(config).items():
        shapes.check_choice(f"a part of {record.name}'s product", name, PARTS)
        what = f"the trained role of {record.name}'s {name}"
        shapes.check_choice(what, part.role, trained_roles(roles))
        if name in roles and not roles[name].trained:
            raise ValueError(
                f"frozen networks of {record.name} must have other names than what a run hands on; "
                f"got {name} for both (algorithm). Rename the role."
            )
    own = [f.name for f in dataclasses.fields(config)]
    for name, role in roles.items():
        shapes.check_choice(f"the part of {record.name}'s {name}", role.part, PARTS)
        if role.source:
            source = f"the source of {record.name}'s {name}"
            shapes.check_choice(source, role.source, (*SOURCES, *own))


def trained_roles(roles: Mapping[str, Role]) -> list[str]:
    """Names of the networks that are updated, in order."""
    return [name for name, role in roles.items() if role.trained]


def is_by_role(params: models.Params, trained: Sequence[str]) -> bool:
    """Whether params are a mapping with the tree of every trained role."""
    return isinstance(params, Mapping) and set(trained) <= set(params)


def by_role(name: str, own: algorithm.Algorithm, roles: Mapping[str, Role]) -> algorithm.Algorithm:
    """The algorithm of a method's name, whose params of several trained roles must be by role."""
    trained = trained_roles(roles)
    if len(trained) == 1:
        return own

    def init(key: jax.Array, start: Mapping[str, models.Params]) -> models.Params:
        params = own.init(key, start)
        if not is_by_role(params, trained):
            raise ValueError(
                f"the init of {name} must return a mapping with the trees of its trained roles, "
                f"{', '.join(trained)}; got {type(params).__name__} (algorithm)."
            )
        return params

    return own._replace(init=init)


def all_configs() -> list[type[MethodConfig]]:
    """The configuration classes of every method that has been imported, by name."""

    def below(kind: type[MethodConfig]) -> list[type[MethodConfig]]:
        kinds: list[type[MethodConfig]] = []
        for own in kind.__subclasses__():
            kinds += [own, *below(own)]
        return kinds

    kinds = [kind for kind in below(MethodConfig) if "METHOD" in vars(kind)]
    return sorted(kinds, key=lambda kind: kind.METHOD.name)
