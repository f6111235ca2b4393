"""Proximal policy optimization of a reward, with a KL penalty to the reference."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import compat as presets
from alignjax import losses
from alignjax.algorithms import ppo_experience as experiences
from alignjax.core import mean, shapes
from alignjax.evals import pass_rate
from alignjax.models import model as models
from alignjax.rewards import learned
from alignjax.rollouts import collection, settings
from alignjax.rollouts import reward as rewards
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class PpoConfig(settings.ScoringConfig, method.MethodConfig):
    """PPO for language models (Ouyang et al. 2022; Huang et al. 2024).

    The policy and value losses are those of a preset of `alignjax.compat`; a number that is None
    takes the preset's value. Where the preset has a recipe "rewards" it also defines rewards and
    advantages; all other presets share the ones of `ppo_experience.token_rewards` and GAE.
    """

    compat: str = "paper"  # whose policy and value loss: formula, reduction and defaults
    kl_coefficient: float = 0.05  # beta, reward units per nat; where the adaptive one starts
    target_kl: float = 0.0  # nats a sequence that an adaptive coefficient aims at; 0 keeps it fixed
    kl_horizon: int = 10000  # sequences over which the adaptive coefficient moves
    discount: float = 1.0  # gamma, per token
    decay: float = 0.95  # lambda of generalised advantage estimation
    clip: float | None = None  # of the probability ratio
    dual_clip: float | None = None  # bound of the loss of tokens with A < 0, in units of -A
    value_clip: float | None = None  # of the value's move since collection; 0 is off
    value_coefficient: float | None = None  # weight of the value loss
    whiten_advantages: bool = True
    shared_critic: bool = False  # the value head sits on the policy's own body
    missing_eos_penalty: float = 0.0  # taken from the score of a completion without EOS
    epochs: int = 2  # passes over each collected batch
    minibatches: int = 2  # updates a pass
    max_drift: float = 0.0  # nats a token between sampler and trainer; 0 is 1e-3 in fp32, 0.5 else
    reward: str = "model"  # model (the trained reward model) | gold (the data's own) | rules
    sampling: transforms.SamplingConfig = dataclasses.field(
        default_factory=transforms.SamplingConfig
    )

    def validate(self) -> None:
        for name in ("kl_coefficient", "target_kl"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=0)
        for name in ("discount", "decay"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=0, maximum=1)
        for name in ("epochs", "minibatches", "kl_horizon"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=1)
        shapes.check_number("algorithm.missing_eos_penalty", self.missing_eos_penalty, minimum=0)
        for name in ("value_clip", "value_coefficient"):
            if getattr(self, name) is not None:
                shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=0)
        if self.clip is not None:
            shapes.check_number("algorithm.clip", self.clip, above=0, below=1)
        self.surrogate().options(**self.surrogate_options())
        self.value_loss().options(**self.value_options())
        if self.has_own_rewards() and not self.whiten_advantages:
            raise ValueError(
                f"algorithm.whiten_advantages must be true under compat={self.compat}; got False "
                "(algorithm): that code always whitens. Use compat=paper."
            )
        shapes.check_number("algorithm.max_drift", self.max_drift, minimum=0)
        self.validate_reward()
        self.sampling.validate()
        if self.sampling.is_truncated:
            raise ValueError(
                "algorithm.sampling must not cut tokens off (top_k, top_p, temperature 0): PPO's "
                "ratios would compare two different distributions; got "
                f"top_k={self.sampling.top_k}, top_p={self.sampling.top_p}, "
                f"temperature={self.sampling.temperature}. Set top_k=0, top_p=1, temperature>0."
            )

    def has_own_rewards(self) -> bool:
        """Whether the preset defines rewards and advantages of its own."""
        return "rewards" in presets.PRESETS[self.compat]

    def surrogate(self) -> presets.Recipe:
        return presets.recipe(self.compat, "ppo_clip")

    def value_loss(self) -> presets.Recipe:
        return presets.recipe(self.compat, "value_clip")

    def surrogate_options(self) -> dict[str, Any]:
        """The numbers of the policy loss that are set."""
        options = {"clip_low": self.clip, "clip_high": self.clip, "dual_clip": self.dual_clip}
        return {name: value for name, value in options.items() if value is not None}

    def value_options(self) -> dict[str, Any]:
        """The numbers of the value loss that are set; its weight is applied here."""
        weight = {"weight": 1.0} if "weight" in self.value_loss().defaults else {}
        return weight if self.value_clip is None else {**weight, "clip": self.value_clip or None}

    def value_weight(self) -> float:
        """The weight of the value loss."""
        if self.value_coefficient is not None:
            return self.value_coefficient
        return self.value_loss().defaults.get("weight", 1.0)

    def formula(self) -> str:
        """One line for the log: what is maximised, both losses and every number."""
        own = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None and name not in ("clip", "dual_clip", "value_clip", "compat")
        }
        numbers = ", ".join(f"{name}={value}" for name, value in own.items())
        names = ("rewards", "gae") if self.has_own_rewards() else ()
        collected = [presets.recipe(self.compat, n).formula for n in names]
        return (
            f"Maximises E[reward] - beta KL(policy || reference). {numbers}; "
            f"{''.join(f'{line}; ' for line in collected)}"
            f"{self.surrogate().echo(**self.surrogate_options())}; value loss times "
            f"{self.value_weight()}, {self.value_loss().echo(**self.value_options())}"
        )


def named(part: str, terms: algorithm.Terms) -> algorithm.Terms:
    """A recipe's terms under the name of their part of the loss: "policy" or "value"."""
    only = len(terms) == 1
    return {part if only else f"{part}_{name}": term for name, term in terms.items()}


def ppo(
    model: models.Model,
    config: PpoConfig,
    *,
    reward: learned.RewardFn,
    eos: int | Sequence[int],
    pad: int,
    critic: models.Model | None = None,
    reference: models.Model | None = None,
    micro_batches: int = 1,
) -> algorithm.Algorithm:
    """Maximises E[reward] - beta KL(policy || reference) with the clipped surrogate.

    Batch: a table of prompts, right-padded. Frozen: "reference", and what `reward` reads. critic:
    its model, where it is not the policy's. reference: its model, where that is not the policy's or
    its parameters are not those that the policy starts from; without it the first KL is 0, and
    checked.
    Each token's reward is -beta (log pi - log ref); the last one also gets the score. Advantages
    are GAE over the completion, EOS included, with value 0 after it.
    Reference: Schulman et al. 2017, equation 7; Ouyang et al. 2022, equation 2.
    """
    config.validate()
    networks = experiences.Networks(model, critic or model, reference or model)
    draw = collection.Draw(model, config.sampling, reward, eos, pad)
    drawn = collection.make_draw(draw)
    chunks = config.minibatches * micro_batches
    experience = experiences.make_experience(networks, config, chunks=chunks)
    limit = generate.drift_limit(model, config.max_drift)
    surrogate, value_loss, weight = config.surrogate(), config.value_loss(), config.value_weight()
    numbers = surrogate.options(**config.surrogate_options())
    clip = {name: numbers[name] for name in ("clip_low", "clip_high")}

    def init(key: jax.Array, start: Mapping[str, models.Params]) -> models.Params:
        policy = algorithm.copy(start["policy"])
        if config.shared_critic:
            return model.with_scalar(policy)
        # A critic that starts as the reward model already knows what scores well.
        value = start["value"] if "value" in start else model.with_scalar(start["policy"])
        return {"policy": policy, "value": algorithm.copy(value)}

    def collect(
        state: algorithm.TrainState, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        policy, _ = experiences.critic_of(state.params, config)
        samples, found = drawn(policy, frozen, batch, key, state.step)
        rewards.check_failures(found, config.max_failures)
        coefficient = state.carry["kl_coefficient"]
        rows, metrics = experience(state.params, frozen, samples, found.reward, coefficient)
        generate.check_drift(metrics["drift"].total, limit)
        if config.target_kl:
            coefficient = losses.adaptive_kl(
                coefficient,
                metrics["kl"].value,
                batch["lengths"].shape[0],
                target=config.target_kl,
                horizon=config.kl_horizon,
            )
        return rows, {"kl_coefficient": jnp.asarray(coefficient, jnp.float32)}, metrics

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        mask, old, advantages = batch["loss_mask"], batch["old_logprobs"], batch["advantages"]
        stats, values, penalties = experiences.policy_and_values(
            networks, config, params, frozen, batch, key
        )
        arrays = {
            "logprobs": stats.logprob,
            "old_logprobs": old,
            "advantages": advantages,
            "values": values,
            "old_values": batch["old_values"],
            "returns": batch["returns"],
            "mask": mask,
        }
        policy_terms = surrogate(arrays, **config.surrogate_options())
        value_terms = {
            name: mean.Mean(total=weight * term.total, weight=term.weight)
            for name, term in value_loss(arrays, **config.value_options()).items()
        }
        terms = {**named("policy", policy_terms), **named("value", value_terms), **penalties}
        ratio = losses.importance_ratio(stats.logprob, old, mask)
        clipped = losses.clip_fraction(stats.logprob, old, advantages, mask, **clip)
        return terms, {
            **{f"{name}_loss": term for name, term in terms.items()},
            "ratio_deviation": mean.masked(jnp.abs(ratio - 1), mask),
            "clip_fraction": mean.masked(clipped, mask),
        }

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        if model.drops_out:  # adapters that were trained before drop out too
            return {}
        expected = {"ratio_deviation": algorithm.Expected(0.0, model.rounding)}
        if reference is None:
            size = batch["tokens"].shape[1]
            expected["kl"] = algorithm.no_kl(model.rounding, size)
        return expected

    value = (program.Pass("value", head=False, trained=True),)
    return algorithm.Algorithm(
        init=init,
        loss=loss,
        collect=collect,
        plan=algorithm.Plan(epochs=config.epochs, minibatches=config.minibatches),
        carry={"kl_coefficient": np.float32(config.kl_coefficient)},
        first=first,
        programs=experiences.make_programs(draw, networks, config, chunks=chunks),
        passes=(program.Pass("policy", trained=True), *(() if config.shared_critic else value)),
    )


def _make(
    networks: Mapping[str, models.Model], config: PpoConfig, task: method.Task
) -> algorithm.Algorithm:
    limit = config.sampling.max_new_tokens
    chunks = config.minibatches * task.micro_batches
    reward = rewards.of_config(config, networks, task, limit=limit, chunks=chunks)
    return ppo(
        networks["policy"],
        config,
        reward=reward,
        eos=task.ends,
        pad=task.pad,
        critic=networks.get("value"),
        reference=method.another(networks, "reference", task),
        micro_batches=task.micro_batches,
    )


def _roles(config: PpoConfig) -> dict[str, method.Role]:
    learns = config.reward == "model"
    start = method.Role(trained=True, source="policy", required=True, head=config.shared_critic)
    roles = {"policy": start}
    if not config.shared_critic:
        roles["value"] = method.Role(
            trained=True,
            source="critic",
            part=method.CRITIC,
            otherwise=("reward", "policy"),
            head=True,
        )
    return {
        **roles,
        "reference": method.Role(source="reference", otherwise=("policy",)),
        # Where the true reward is maximised the reward model may still be where the critic begins.
        "reward": method.Role(
            source="reward",
            part=method.SCORER,
            required=learns,
            head=True,
            reads_text=learns,
            only_evaluated=not learns,
        ),
    }


def _product(config: PpoConfig) -> dict[str, method.Part]:
    if config.shared_critic:
        return {method.POLICY: method.without_head(), method.CRITIC: method.whole()}
    return {method.POLICY: method.entry("policy"), method.CRITIC: method.entry("value")}


PpoConfig.METHOD = method.Method(
    name="ppo",
    make=_make,
    table=lambda config: "prompts",
    roles=_roles,
    product=_product,
    evaluators=pass_rate.of_config,
    formula=PpoConfig.formula,
    sampling=lambda config: config.sampling,
    curves=("score", "kl"),
)
