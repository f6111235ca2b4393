"""Policy gradients on groups of samples: what GRPO, REINFORCE and their kin share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.algorithms import preset
from alignjax.core import mean
from alignjax.evals import episodes as episode_evals
from alignjax.evals import evaluator, pass_rate
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes
from alignjax.rewards import learned
from alignjax.rollouts import collection, episodes, experience, pack, programs, settings
from alignjax.rollouts import reward as rewards
from alignjax.sampling import draws, generate
from alignjax.training import algorithm, method, program

GROUPED = tuple(field.name for field in dataclasses.fields(settings.GroupConfig))


@dataclasses.dataclass(kw_only=True)
class PolicyGradientConfig(settings.GroupConfig, preset.PresetConfig):
    """A loss on rollouts, as a paper or a release of another code base computes it.

    Subclasses have the fields `method`, `compat` and the recipe's options.
    """

    TABLE: ClassVar[str] = "rollouts"
    WITHOUT: ClassVar[frozenset[str]] = frozenset(
        {"values", "old_values", "returns", "preferences", "other", "preferred", "token_weights"}
    )
    MUST: ClassVar[frozenset[str]] = frozenset({"advantages"})
    OWN: ClassVar[tuple[str, ...]] = GROUPED
    method: str = ""
    compat: str = "paper"

    @property
    def options(self) -> dict[str, Any]:
        """The recipe's options that are not None, and those that follow from the sampling."""
        given, options = super().options, self.recipe.defaults
        if "group_size" in options:
            given["group_size"] = self.group
        # The width of a batch is that of its prompts too, or of packed rows: no mean is over it.
        reduction = given.get("reduction", options.get("reduction", self.recipe.reduction))
        if "length" in options and reduction == "row_fixed":
            given.setdefault("length", float(self.most_sampled))
        return given

    def validate(self) -> None:
        """Traces the loss on a few rows, so that every name and number is checked.

        Raises:
          ValueError: an unknown name, an option that the recipe does not have, or out of range.
        """
        self.validate_groups()
        example = self._example()
        try:
            jax.eval_shape(self.terms, example)
        except ValueError as error:
            if experience.per_token(self) and self._reads_rows(example):
                raise ValueError(
                    f"algorithm.advantages must be of whole samples for {self.recipe.name}, whose "
                    f"ratio is; got {self.advantages} with correction={self.correction} and "
                    f"kl_in_reward={self.kl_in_reward:g}, which give one of each token "
                    "(algorithm). Use correction_level=sequence, and kl_weight for a KL."
                ) from None
            raise ValueError(f"{error} (algorithm)") from None
        whole_groups = "group_size" in self.recipe.defaults
        if whole_groups and (self.epochs * self.minibatches > 1 or self.pack):
            raise ValueError(
                f"algorithm.epochs and minibatches must be 1 and pack off for {self.recipe.name}, "
                f"whose mean is over whole groups; got {self.epochs}, {self.minibatches} and "
                f"pack={self.pack} (algorithm)."
            )

    def _reads_rows(self, example: dict[str, Any]) -> bool:
        """Whether the loss takes advantages of whole samples."""
        try:
            jax.eval_shape(self.terms, {**example, "advantages": example["logprobs"][:, 0]})
        except ValueError:
            return False
        return True

    def _example(self) -> dict[str, Any]:
        """Arrays of two rows as the loss will get them."""
        rows = 2 * self.group if "group_size" in self.recipe.defaults else 2
        zeros = np.zeros((rows, 4), np.float32)
        names = ("logprobs", "old_logprobs", "reference_logprobs", "sampler_logprobs", "entropy")
        return {
            **dict.fromkeys(names, zeros),
            "mask": np.ones(zeros.shape, bool),
            "advantages": zeros if experience.per_token(self) else zeros[:, 0],
            "key": jax.eval_shape(lambda: jax.random.key(0)),  # a plan can run nothing
        }

    @property
    def needs_reference(self) -> bool:
        """Whether a reference is read, by the loss or in the reward."""
        return "reference" in self.needs or self.kl_in_reward > 0

    @property
    def couples(self) -> bool:
        """Whether micro-batches, which part the rows of a group, would change the loss."""
        return self.recipe.couples(**self.options) or "group_size" in self.recipe.defaults

    def formula(self) -> str:
        return f"{self.recipe.echo(**self.options)}; {self.echo_groups()}"


def policy_gradient(
    model: models.Model,
    config: PolicyGradientConfig,
    *,
    reward: learned.RewardFn,
    eos: int | Sequence[int],
    pad: int,
    reference: models.Model | None = None,
    micro_batches: int = 1,
    prompts: int = 0,
    width: int = 0,
    task: method.Task | None = None,
) -> algorithm.Algorithm:
    """Minimises a loss of rollouts: G samples of each prompt, credited by how they compare.

    Batch: a table of prompts, right-padded. Frozen: "reference" where it is read, and what `reward`
    reads. reference: its model, where that is not the policy's or its parameters are not those that
    the policy starts from; without it the first KL is 0, and checked. prompts: of a batch, 0 where
    that is not known. width: tokens of a prompt at most, for replay. task: where lines and samples
    to look at go, and the rows that an environment is told of.
    """
    config.validate()
    _, trained = config.prompts_trained(prompts)
    needs = experience.needs_of(config, config.recipe.reads, config.needs)
    limit = generate.drift_limit(model, config.max_drift)
    networks = experience.Networks(model, model if reference is None else reference)
    chunks = config.minibatches * micro_batches
    play = episodes.of_config(config.env, task, eos=draws.end_ids(eos)[0])
    draw = collection.Draw(model, config.sampling, reward, eos, pad, play)

    shards = axes.axis_size("batch")
    run = experience.make_experience(
        networks, config, needs, chunks=chunks, multiple=chunks * shards
    )
    # Packed rows are never more than these, so that a plan of these is one of the largest.
    plain = dataclasses.replace(config, pack=False)
    whole = jax.jit(experience.make_experience(networks, plain, needs, chunks=chunks))
    collect = collection.Collector(
        draw,
        config,
        run,
        text=str if task is None else task.text or str,
        tell=print if task is None else task.tell,
        journal=None if task is None else task.journal,
    )

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        drop, noise = jax.random.split(key)
        policy = model.bind(params, frozen, drop)
        hidden, penalties = scoring.hidden_and_penalties(model, policy, batch)
        told = "entropy" in config.needs or "drawn_logprobs" in batch
        stats = scoring.stats_of(
            model,
            policy,
            hidden,
            batch["tokens"],
            temperature=config.sampling.temperature,
            want=("logprob", "entropy") if told else ("logprob",),
            mask=scoring.counted(pack.as_batch(batch)),
        )
        if "start" in batch:  # packed rows: what the loss reads is row by row again
            stats = jax.tree.map(lambda x: pack.members(x, batch["start"]), stats)
            packed = ("tokens", "segments", "positions", "counted", "start")
            own = {name: x for name, x in batch.items() if name not in packed}
            batch = pack.ungrouped(own)
        mask = batch["loss_mask"]
        names = ("old_logprobs", "reference_logprobs", "sampler_logprobs")
        arrays = {
            **{name: batch[name] for name in names if name in batch},
            "logprobs": stats.logprob,
            **({"entropy": stats.entropy} if told else {}),
            "advantages": batch["advantages"],
            "mask": mask,
            "row_mask": jnp.any(mask, axis=1),  # rows that do not count are in no mean over rows
            "key": noise,
        }
        terms = {**config.terms(arrays), **penalties}
        metrics = {f"{name}_loss": term for name, term in terms.items()}
        if "drawn_logprobs" in batch:
            apart = jnp.abs(stats.logprob - batch["drawn_logprobs"])
            largest = jnp.max(jnp.where(mask, apart, 0.0), initial=0.0)
            # The sum over micro-batches of their largest: an upper bound.
            metrics["drift"] = mean.Mean(total=largest, weight=jnp.full((), 1.0 / micro_batches))
            metrics["entropy"] = mean.masked(stats.entropy, mask)
            if "reference_logprobs" in batch:
                kl = losses.k1(stats.logprob, batch["reference_logprobs"], mask)
                counted = jnp.any(mask, axis=1)
                metrics["kl"] = mean.masked(jnp.sum(kl, axis=1), counted)
        if "old_logprobs" in batch:
            ratio = losses.importance_ratio(stats.logprob, batch["old_logprobs"], mask)
            metrics["ratio_deviation"] = mean.masked(jnp.abs(ratio - 1), mask)
            metrics["approx_kl"] = mean.masked(
                losses.k3(stats.logprob, batch["old_logprobs"], mask), mask
            )
        return terms, metrics

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        if model.drops_out:
            return {}
        expected = {}
        if needs.old:
            expected["ratio_deviation"] = algorithm.Expected(0.0, model.rounding)
        if needs.reference and reference is None:
            size = batch["tokens"].shape[1]
            expected["kl"] = algorithm.no_kl(model.rounding, size)
        return expected

    def verify(metrics: algorithm.Metrics) -> None:
        if needs.drawn:
            generate.check_drift(metrics["drift"].value, limit)

    carry = collection.start_carry(config, width + config.new_tokens)
    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=loss,
        collect=collect,
        plan=algorithm.Plan(
            epochs=config.epochs, minibatches=config.minibatches, rows=trained * config.group
        ),
        carry=(lambda params: collection.with_behind(carry, params)) if config.lag else carry,
        first=first,
        verify=verify,
        coupled=config.couples,
        programs=programs.make_programs(draw, config, needs, whole, chunks=chunks),
        passes=(program.Pass("policy", trained=True),),
    )


def _make(
    networks: Mapping[str, models.Model], config: PolicyGradientConfig, task: method.Task
) -> algorithm.Algorithm:
    limit = config.most_sampled
    chunks = config.minibatches * task.micro_batches
    return policy_gradient(
        networks["policy"],
        config,
        reward=rewards.of_config(config, networks, task, limit=limit, chunks=chunks),
        eos=task.ends,
        pad=task.pad,
        reference=method.another(networks, "reference", task) if config.needs_reference else None,
        micro_batches=task.micro_batches,
        prompts=task.batch_size,
        width=task.prompt_length,
        task=task,
    )


def _roles(config: PolicyGradientConfig) -> dict[str, method.Role]:
    roles = {"policy": method.Role(trained=True, source="policy", required=True)}
    if config.needs_reference:
        roles["reference"] = method.Role(source="reference", otherwise=("policy",))
    learns = config.reward == "model"
    roles["reward"] = method.Role(
        source="reward",
        part=method.SCORER,
        required=learns,
        head=True,
        reads_text=learns,
        only_evaluated=not learns,
    )
    return roles


def _evaluators(config: PolicyGradientConfig) -> tuple[evaluator.Evaluator, ...]:
    """What judges a policy: its episodes, or how often it is right at the first answer."""
    return pass_rate.of_config(config) if config.env is None else (episode_evals.EPISODES,)


def record(name: str) -> method.Method:
    """The record of a method on groups of samples."""
    return method.Method(
        name=name,
        make=_make,
        table=lambda config: "prompts",
        roles=_roles,
        evaluators=_evaluators,
        formula=PolicyGradientConfig.formula,
        sampling=lambda config: config.sampling,
        curves=("reward", "dead"),
    )
