"""Proximal policy optimization of a reward, with a KL penalty to the reference."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import compat as presets
from alignjax import losses
from alignjax.core import mean, shapes
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes
from alignjax.rewards import learned
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm


@dataclasses.dataclass(kw_only=True)
class PpoConfig:
    """PPO for language models (Ouyang et al. 2022; Huang et al. 2024).

    The losses of an update are those of a preset of `alignjax.compat`; a number of theirs that is
    None is the preset's own. Rewards and advantages are the preset's too where it has "rewards",
    and otherwise the same for all.
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
    reward: str = "model"  # model (the trained reward model) | gold (the data's own, if it has one)
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
        shapes.check_choice("algorithm.reward", self.reward, ("model", "gold"))
        self.sampling.validate()
        if self.sampling.is_truncated:
            raise ValueError(
                "algorithm.sampling must not cut tokens off (top_k, top_p, temperature 0): PPO's "
                "ratios would compare two different laws; got "
                f"top_k={self.sampling.top_k}, top_p={self.sampling.top_p}, "
                f"temperature={self.sampling.temperature}. Set top_k=0, top_p=1, temperature>0."
            )

    def has_own_rewards(self) -> bool:
        """Whether the preset says how rewards and advantages are made."""
        return "rewards" in presets.PRESETS[self.compat]

    def surrogate(self) -> presets.Recipe:
        return presets.recipe(self.compat, "ppo_clip")

    def value_loss(self) -> presets.Recipe:
        return presets.recipe(self.compat, "value_clip")

    def surrogate_options(self) -> dict[str, Any]:
        """The numbers of the policy loss that are set."""
        given = {"clip_low": self.clip, "clip_high": self.clip, "dual_clip": self.dual_clip}
        return {name: value for name, value in given.items() if value is not None}

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


def critic_of(params: Any, config: PpoConfig) -> tuple[Any, Any]:
    """(policy, critic) trees; one and the same with a shared critic.

    Under adapters both are adapters over one base, each its own unless the critic is shared.
    """
    return (params, params) if config.shared_critic else (params["policy"], params["value"])


def policy_and_values(
    model: models.Model,
    config: PpoConfig,
    params: Any,
    frozen: models.Frozen,
    batch: algorithm.Batch,
    key: jax.Array | None = None,
) -> tuple[losses.TokenStats, jax.Array, dict[str, mean.Mean]]:
    """(token statistics under the sampled temperature, values of the prefixes, each [B, T]; the
    models' own losses). With a key adapters drop out, policy and critic each by itself."""
    each = (None, None) if key is None else jax.random.split(key)
    policy, critic = (
        model.bind(tree, frozen, own)
        for tree, own in zip(critic_of(params, config), each, strict=True)
    )
    hidden, penalties = scoring.hidden_and_penalties(model, policy, batch)
    stats = scoring.stats_of(
        model, policy, hidden, batch["tokens"], temperature=config.sampling.temperature
    )
    if config.shared_critic:
        return stats, scoring.align(model.scalar(policy, hidden)), penalties
    hidden, more = scoring.hidden_and_penalties(model, critic, batch)
    penalties |= {f"value_{name}": term for name, term in more.items()}
    return stats, scoring.align(model.scalar(critic, hidden)), penalties


def token_rewards(
    samples: generate.Samples, scores: jax.Array, kl: jax.Array, coefficient: jax.Array
) -> jax.Array:
    """[B, T]: -coefficient * kl on every token, plus the row's score on its last one.

    The last token is EOS where the completion ended, else the last before the limit. kl is 0
    outside the completion.
    """
    is_last = jnp.arange(kl.shape[1])[None] == (samples.lengths - 1)[:, None]
    return jnp.where(is_last, scores[:, None], 0.0) - coefficient * kl


def estimate(
    config: PpoConfig,
    samples: generate.Samples,
    arrays: dict[str, jax.Array],
    kl: jax.Array,
    coefficient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(advantages, returns), each [B, T]: GAE of the token rewards, as the preset makes them."""
    numbers = {"discount": config.discount, "decay": config.decay}
    if config.has_own_rewards():
        make = {n: presets.recipe(config.compat, n) for n in ("rewards", "gae", "returns")}
        rewards = make["rewards"](arrays, kl_weight=coefficient)
        given = {**arrays, "rewards": rewards}
        return make["gae"](given, **numbers), make["returns"](given, **numbers)
    mask = arrays["mask"]
    rewards = token_rewards(samples, arrays["scores"], kl, coefficient)
    advantages, returns = losses.gae(rewards, arrays["values"], mask, **numbers)
    return losses.whiten(advantages, mask) if config.whiten_advantages else advantages, returns


def named(part: str, terms: dict[str, mean.Mean]) -> dict[str, mean.Mean]:
    """A recipe's terms under the name of the part of the loss that they make up."""
    only = len(terms) == 1
    return {part if only else f"{part}_{name}": term for name, term in terms.items()}


def make_experience(model: models.Model, config: PpoConfig) -> Callable[..., Any]:
    """Jitted (params, frozen, samples, scores, coefficient) -> (rows to train on, Metrics)."""

    @jax.jit
    def experience(params, frozen, samples, scores, coefficient):
        batch, mask = learned.as_batch(samples), samples.mask
        stats, values, _ = policy_and_values(model, config, params, frozen, batch)
        reference = model.bind(frozen["reference"], frozen)
        reference_logprobs = scoring.token_stats(
            model, reference, batch, temperature=config.sampling.temperature
        ).logprob
        kl = losses.k1(stats.logprob, reference_logprobs, mask)
        scores = scores - config.missing_eos_penalty * ~samples.ended
        arrays = {
            "old_logprobs": stats.logprob,
            "reference_logprobs": reference_logprobs,
            "scores": scores,
            "values": values,
            "mask": mask,
        }
        advantages, returns = estimate(config, samples, arrays, kl, coefficient)
        drift = jnp.max(jnp.where(mask, jnp.abs(stats.logprob - samples.logprobs), 0.0))
        rows = {
            **batch,
            "old_logprobs": stats.logprob,
            "old_values": values,
            "advantages": advantages,
            "returns": returns,
        }
        return rows, {
            "score": mean.of(scores),
            "kl": mean.of(jnp.sum(kl, axis=1)),
            "kl_coefficient": mean.of(coefficient),
            "length": mean.of(jnp.sum(mask, axis=1)),
            "ended": mean.of(samples.ended),
            "entropy": mean.masked(stats.entropy, mask),
            "drift": mean.of(drift),
        }

    return experience


def ppo(
    model: models.Model, config: PpoConfig, *, reward: learned.RewardFn, eos: int, pad: int
) -> algorithm.Algorithm:
    """Maximises E[reward] - beta KL(policy || reference) with the clipped surrogate.

    Batch: prompts [B, P] right-padded, lengths [B]. Frozen: "reference", and what `reward` reads.
    Each token's reward is -beta (log pi - log ref); the last one also gets the score. Advantages
    are GAE over the completion, EOS included, with value 0 after it.
    Reference: Schulman et al. 2017, equation 7; Ouyang et al. 2022, equation 2.
    """
    config.validate()
    sample = generate.make_generate(model, config.sampling, eos=eos, pad=pad)
    experience = make_experience(model, config)
    limit = generate.drift_limit(model, config.max_drift)
    surrogate, value_loss, weight = config.surrogate(), config.value_loss(), config.value_weight()
    numbers = surrogate.options(**config.surrogate_options())
    clip = {name: numbers[name] for name in ("clip_low", "clip_high")}

    def init(key, start):
        policy = algorithm.copy(start["policy"])
        if config.shared_critic:
            return model.with_scalar(policy)
        # A critic that starts as the reward model already knows what scores well.
        critic = start["reward"] if "reward" in start else model.with_scalar(start["policy"])
        return {"policy": policy, "value": algorithm.copy(critic)}

    def collect(state, frozen, batch, key):
        policy, _ = critic_of(state.params, config)
        policy = model.bind(policy, frozen)
        samples = sample(policy, batch["prompts"], batch["lengths"], key)
        # A reward computed on the host comes back without a layout.
        scores = axes.shard(jnp.asarray(reward(frozen, samples), jnp.float32), "batch")
        coefficient = state.carry["kl_coefficient"]
        rows, metrics = experience(state.params, frozen, samples, scores, coefficient)
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

    def loss(params, frozen, batch, key):
        mask, old, advantages = batch["loss_mask"], batch["old_logprobs"], batch["advantages"]
        stats, values, penalties = policy_and_values(model, config, params, frozen, batch, key)
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

    return algorithm.Algorithm(
        init=init,
        loss=loss,
        collect=collect,
        plan=algorithm.Plan(epochs=config.epochs, minibatches=config.minibatches),
        carry={"kl_coefficient": np.float32(config.kl_coefficient)},
        # Adapters that were trained before drop out too.
        first={}
        if model.drops_out
        else {"ratio_deviation": algorithm.Expected(0.0, model.rounding)},
    )
