"""Assembly of an experiment into networks, trees and an algorithm, for training and for plans.

Every role of the method gets a Model of its own, and its parameters from the source that the
experiment names. Folders are read through a `sources.Source`: real arrays for a run, shapes alone
for a plan.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax.data import corpus as corpora
from alignjax.data import retokenise, step_ends
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models.adapters import adapt
from alignjax.runs import experiment, model_shape, sources
from alignjax.training import algorithm as algorithms
from alignjax.training import method as methods

# Parts of a run's product from which a network may start, in order of preference.
PARTS = {
    methods.POLICY: (methods.POLICY,),
    methods.SCORER: (methods.SCORER,),
    methods.CRITIC: (methods.CRITIC, methods.SCORER, methods.POLICY),
}


# The reward model by which any finished policy can be evaluated.
JUDGE = methods.Role(
    source="reward", part=methods.SCORER, head=True, reads_text=True, only_evaluated=True
)


class Network(NamedTuple):
    """A role's model and the source of its parameters.

    config: of the model. model: adapted where its tree is adapters alone. origin: the run or open
    weights that hold its parameters; None where it starts anew or as another role. part: of that
    origin's product. like: the role as which it starts. shares: whether its tree is adapters alone
    over the same base as the policy's. reader: split -> `rewards.learned.Reader`, for a tokenizer
    of its own; None where that is the policy's.
    """

    config: model_config.ModelConfig
    model: models.Model
    origin: sources.Origin | None = None
    part: str = methods.POLICY
    like: str = ""
    shares: bool = False
    reader: Any = None


class Assembly:
    """The parts of one experiment on the mesh that is set.

    Raises ValueError, from any part: the model does not fit the data, or a folder does not fit its
    role.
    """

    def __init__(
        self,
        config: experiment.Experiment,
        corpus: corpora.Corpus,
        source: sources.Source,
        *,
        shape: model_config.ModelConfig | None = None,
    ):
        """shape: the resolved model of a finished run."""
        self.config, self.corpus, self.source = config, corpus, source
        self.record = config.algorithm.METHOD
        self.roles = dict(self.record.roles(config.algorithm))
        if config.reward and "reward" not in self.roles:
            self.roles["reward"] = JUDGE
        self.shape = shape or model_shape.resolve(
            config.model, corpus, config.weights, config.weights_layers, config.weights_skip
        )
        self.plain = self.shape.make()
        self.model = adapt.adapt(self.plain, config.adapter)
        self.is_adapted = not isinstance(config.adapter, adapt.FullConfig)
        self.notes: list[str] = []
        self._networks: dict[str, Network] = {}

    # --- networks ---------------------------------------------------------------------------

    def network(self, role: str) -> Network:
        """The network of a role."""
        if role not in self._networks:
            self._networks[role] = self._find(role)
        return self._networks[role]

    def _find(self, name: str) -> Network:
        role = self.roles[name]
        if name == self.own:
            return Network(self.shape, self.model)
        path = self.config.source(role)
        if path:
            return self._from(path, name, role)
        for other in role.otherwise:
            network = self._instead(name, role, other)
            if network is not None:
                return network
        return Network(self.shape, self.model)

    @property
    def own(self) -> str:
        """The role of the experiment's own model: the first trained one."""
        return methods.trained_roles(self.roles)[0]

    def scores(self, name: str) -> str:
        """What the head of a frozen role's scorer is of; open weights score answers."""
        origin = None if self.roles[name].trained else self.network(name).origin
        run = None if origin is None else origin.run
        return methods.ANSWERS if run is None else run.algorithm.METHOD.scores

    @functools.cached_property
    def step_ends(self) -> step_ends.StepEnds | None:
        """Where the steps of the data end, if a scorer of steps asks; else None."""
        asked = any(self.scores(name) == methods.STEPS for name in self.roles)
        return step_ends.of_corpus(self.corpus) if asked else None

    @functools.cached_property
    def own_origin(self) -> sources.Origin | None:
        """The origin of the experiment's own model; None for fresh weights."""
        return self.source.origin(self.config.source(self.roles[self.own]), like=self)

    def _instead(self, name: str, role: methods.Role, other: str) -> Network | None:
        """A network that starts as another role's does; None where that does not fit."""
        if other not in self.roles:
            return None
        if other == self.own:
            return Network(self.shape, self.model, like=other)
        if not self.config.source(self.roles[other]):
            return None
        network = self.network(other)
        fits = network.reader is None and network.config == self.shape
        if role.trained and self.is_adapted:
            fits = fits and network.shares and network.model is self.model
        if not fits:
            self.notes.append(
                f"{name} starts as the {role.otherwise[-1]}: the {other}'s network has another "
                "shape, tokenizer or adapters."
            )
            return None
        return network._replace(like=other)

    def _from(self, path: str, name: str, role: methods.Role) -> Network:
        """The network of a role with a source of its own."""
        origin = self.source.origin(path, like=self)
        assert origin is not None  # the path is not empty
        part = origin.part_of(PARTS[role.part], name)
        reader = self._check_tokenizer(origin, name, role)
        config, adapter = origin.network(part)
        if not origin.is_run:  # open weights come without options of computation
            names = [n for n in (*config.RUNNING, *config.PRECISION) if hasattr(self.shape, n)]
            running = {name: getattr(self.shape, name) for name in names}
            config = dataclasses.replace(config, **running)  # type: ignore[type-var]
        same = not model_shape.different_fields(config, self.shape) and reader is None
        config = self.shape if same else config
        plain = self.plain if same else config.make()
        if not same or adapter is None or not self.is_adapted:
            return Network(config, plain, origin, part, reader=reader)
        shares = self.source.same_base(origin, self.base_about())
        if not shares or (role.trained and adapter != self.config.adapter):
            return Network(config, plain, origin, part)
        is_ours = adapter == self.config.adapter
        model = self.model if is_ours else adapt.adapt(self.plain, adapter)
        return Network(config, model, origin, part, shares=True)

    def _check_tokenizer(self, origin: sources.Origin, name: str, role: methods.Role) -> Any:
        """A reader for a network with another tokenizer; None where the tokenizer is the same."""
        names = [n for n in ("tokenizer", "world") if n in origin.fingerprints]
        if not names:  # ids are bare numbers
            model_shape.check_vocabulary(name, origin.path, origin.config, self.shape)
        if all(origin.fingerprints[n] == self.corpus.fingerprints.get(n) for n in names):
            return None
        kind = names[0]
        other = origin.reading() if kind == "tokenizer" else None
        if other is None or other.speaker is None or self.corpus.speaker is None:
            raise ValueError(
                f"the {kind} must be that of the {name}'s run, or ids would mean other tokens; got "
                f"another one than in {origin.path}. Use the same {kind}."
            )
        if role.reads_text:
            self.notes.append(f"{name} has a tokenizer of its own and is given text.")
            return functools.partial(
                retokenise.reader, self.corpus, other.speaker, other.length, other.prompt_length
            )
        difference = retokenise.first_difference(self.corpus.speaker, other.speaker)
        if not difference and not origin.is_run:
            return None  # the layout of conversations is the data's choice, as for the weights
        raise ValueError(
            f"the tokenizer must be that of the {name}'s run, or ids would mean other tokens; got "
            f"another one in {origin.path}: {difference or 'the same tokens in another layout'}. "
            "Use the same tokenizer."
        )

    def networks(self, *, evaluated: bool = False) -> dict[str, models.Model]:
        """Models by role; evaluated: with those that training does not read."""
        return {
            name: self.network(name).model
            for name, role in self.roles.items()
            if self.is_there(name) and (evaluated or not role.only_evaluated)
        }

    def is_there(self, name: str) -> bool:
        """Whether a role's parameters have a source."""
        if self.roles[name].trained:
            return True
        network = self.network(name)
        return network.origin is not None or self._starts_as_own(network)

    def _starts_as_own(self, network: Network) -> bool:
        return network.like == self.own and bool(self.config.source(self.roles[self.own]))

    def _is_apart(self, name: str) -> bool:
        """Whether a frozen role has other parameters than those that the policy starts from."""
        if self.roles[name].trained or not self.is_there(name):
            return False
        network, own = self.network(name), self.own_origin
        if network.origin is None or own is None:
            return not self._starts_as_own(network)
        return (network.origin.path, network.part) != (own.path, self.own_part(own))

    def algorithm(
        self,
        *,
        tell: corpora.Log = lambda line: None,
        journal: Callable[[int, list[dict[str, Any]]], None] | None = None,
        allow_code: bool = True,
    ) -> algorithms.Algorithm:
        """The method over its networks; tell, journal, allow_code: as in `method.Task`."""
        corpus = self.corpus
        readers = {
            name: self.network(name).reader("train")
            for name, role in self.roles.items()
            if role.reads_text and self.is_there(name) and self.network(name).reader is not None
        }
        task = methods.Task(
            eos=corpus.eos,
            pad=corpus.pad,
            length=corpus.length,
            prompt_length=corpus.prompt_length,
            categories=corpus.categories,
            scores={name: self.scores(name) for name in self.roles if self.is_there(name)},
            steps=self.step_ends,
            micro_batches=self.config.loop.micro_batches,
            batch_size=self.config.loop.batch_size,
            gold=corpus.gold,
            text=corpus.text,
            speaker=corpus.speaker,
            rows=None if corpus.tasks is None else corpus.tasks("train"),
            allow_code=allow_code,
            tell=tell,
            journal=journal,
            readers=readers,
            apart=frozenset(name for name in self.roles if self._is_apart(name)),
        )
        method = self.record.make(self.networks(), self.config.algorithm, task)
        if not isinstance(method, algorithms.Algorithm):
            raise ValueError(
                f"the record of {self.record.name} must make an algorithm.Algorithm; got a "
                f"{type(method).__name__} (algorithm)."
            )
        return methods.by_role(self.record.name, method, self.roles)

    # --- parameters -------------------------------------------------------------------------

    @functools.cached_property
    def _policy(self) -> Any:
        """The own role's tree at the start, adapters without their base; None for fresh weights."""
        origin = self.own_origin
        if origin is None:
            return None
        part = self.own_part(origin)
        self._check_own(origin)
        if not self.is_adapted:
            # Adapters of an earlier run are merged into weights that are trained whole.
            return self.source.merged(origin, part, self.plain, self.shape)
        if not self.source.has_adapters(origin):
            how = self.config.base
            self._base = self.source.under(origin, part, self.plain, self.shape, how)
            return self.source.fresh(self.model, self.config.seed, self._base)
        for name, there in (("base", origin.storage), ("adapter", origin.adapter)):
            if there != (here := getattr(self.config, name)):
                raise ValueError(
                    f"{name} must be that of the run to go on from; got {here}, and {there} in "
                    f"{origin.path}. Use the same, or name its base."
                )
        self._base = self.source.base(origin, self.plain, self.shape)
        return self.source.own(origin, part, self.plain, self.shape)

    _base: Any = None

    @property
    def is_fresh(self) -> bool:
        """Whether the policy begins as new adapters, which the seed tells."""
        origin = self.own_origin
        return self.is_adapted and origin is not None and not self.source.has_adapters(origin)

    def own_part(self, origin: sources.Origin) -> str:
        return origin.part_of(PARTS[methods.POLICY], self.own)

    def _check_own(self, origin: sources.Origin) -> None:
        """Refuses a run to start from of another model or tokenizer."""
        if not origin.is_run:
            return
        self._check_tokenizer(origin, "policy", methods.Role())
        for name in model_shape.different_fields(origin.config, self.shape):
            raise ValueError(
                f"model.{name} must be that of the run to start from; got "
                f"{getattr(self.shape, name, None)!r}, and {getattr(origin.config, name, None)!r} "
                f"in {origin.path}. Use the same model."
            )

    def base_about(self) -> dict[str, str]:
        """Kind, folder and identity of the weights under the policy's adapters."""
        return self._about

    @functools.cached_property
    def _about(self) -> dict[str, str]:
        origin, _ = self.own_origin, self._policy
        assert origin is not None
        if origin.base is not None:
            return dict(origin.base)
        storage = self.config.base.words
        return {
            "kind": "policy" if origin.is_run else "weights",
            "folder": origin.path,
            "identity": self.source.identity(self._base),
            **{name: own for name, own in (("storage", storage), ("skip", origin.skip)) if own},
        }

    def start(self) -> dict[str, Any]:
        """Trees from which trained roles start, where they have a source."""
        start = {}
        if self._policy is not None:
            start[self.own] = self._policy
        for name in methods.trained_roles(self.roles)[1:]:
            network = self.network(name)
            if network.origin is None:
                continue
            read = self.source.own if network.shares else self.source.merged
            tree = read(network.origin, network.part, _plain(self, network), network.config)
            if self.roles[name].head and network.part == methods.POLICY:
                tree = self.source.with_scalar(network.model, tree)
            start[name] = tree
        return start

    def frozen(self) -> dict[str, Any]:
        """Trees of frozen roles, and the base under adapters."""
        policy = self._policy
        frozen = {"base": self._base} if self.is_adapted else {}
        for name, role in self.roles.items():
            if not role.trained and not role.only_evaluated and self.is_there(name):
                frozen[name] = self._frozen(name, policy)
        return frozen

    def _frozen(self, name: str, policy: Any) -> Any:
        network = self.network(name)
        if network.origin is not None:
            read = self.source.own if network.shares else self.source.joined
            return read(network.origin, network.part, _plain(self, network), network.config)
        own = self.own_origin
        if self.is_adapted and (own is None or not self.source.has_adapters(own)):
            return adapt.empty(policy)  # the base itself: no second copy, nothing to compute
        return policy

    def release(self) -> None:
        """Drops the trees that were read: those without other references leave the devices."""
        vars(self).pop("_policy", None)
        self._base = None
        self.source.release()

    def judged(self, name: str) -> Any:
        """A frozen role's bound tree, to evaluate a finished run; None without a source."""
        if not self.is_there(name):
            return None
        network = self.network(name)
        origin, part = network.origin, network.part
        if origin is None:
            origin = self.own_origin
            assert origin is not None  # `is_there` was true
            part = self.own_part(origin)
        return self.source.joined(origin, part, _plain(self, network), network.config)

    def base(self) -> Any:
        """The weights under the policy's adapters; None without adapters."""
        _ = self._policy
        return self._base

    def judged_model(self, name: str) -> models.Model:
        """The model that reads `judged`."""
        return _plain(self, self.network(name))


def _plain(parts: Assembly, network: Network) -> models.Model:
    """A network's model without adapters."""
    return parts.plain if network.config == parts.shape else network.model
