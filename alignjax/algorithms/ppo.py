"""Proximal policy optimization of a reward, with a KL penalty to the reference."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    """PPO for language models (Ouyang et al. 2022; Huang et al. 2024)."""

    kl_coefficient: float = 0.05  # beta, reward units per nat; where the adaptive one starts
    target_kl: float = 0.0  # nats a sequence that an adaptive coefficient aims at; 0 keeps it fixed
    kl_horizon: int = 10000  # sequences over which the adaptive coefficient moves
    discount: float = 1.0  # gamma, per token
    decay: float = 0.95  # lambda of generalised advantage estimation
    clip: float = 0.2  # of the probability ratio
    value_clip: float = 0.2  # of the value's move since collection; 0 is off
    value_coefficient: float = 1.0  # weight of the value loss
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
        for name in ("kl_coefficient", "target_kl", "value_clip", "value_coefficient"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=0)
        for name in ("discount", "decay"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=0, maximum=1)
        for name in ("epochs", "minibatches", "kl_horizon"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=1)
        shapes.check_number("algorithm.missing_eos_penalty", self.missing_eos_penalty, minimum=0)
        shapes.check_number("algorithm.clip", self.clip, above=0, below=1)
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
) -> tuple[losses.TokenStats, jax.Array]:
    """(token statistics under the sampled temperature, values of the prefixes), each [B, T]."""
    policy, critic = (model.bind(tree, frozen) for tree in critic_of(params, config))
    hidden = scoring.hidden_before(model, policy, batch)
    stats = scoring.stats_of(
        model, policy, hidden, batch["tokens"], temperature=config.sampling.temperature
    )
    if config.shared_critic:
        return stats, scoring.align(model.scalar(policy, hidden))
    return stats, scoring.token_values(model, critic, batch)


def token_rewards(
    samples: generate.Samples, scores: jax.Array, kl: jax.Array, coefficient: jax.Array
) -> jax.Array:
    """[B, T]: -coefficient * kl on every token, plus the row's score on its last one.

    The last token is EOS where the completion ended, else the last before the limit. kl is 0
    outside the completion.
    """
    is_last = jnp.arange(kl.shape[1])[None] == (samples.lengths - 1)[:, None]
    return jnp.where(is_last, scores[:, None], 0.0) - coefficient * kl


def make_experience(model: models.Model, config: PpoConfig) -> Callable[..., Any]:
    """Jitted (params, frozen, samples, scores, coefficient) -> (rows to train on, Metrics)."""

    @jax.jit
    def experience(params, frozen, samples, scores, coefficient):
        batch, mask = learned.as_batch(samples), samples.mask
        stats, values = policy_and_values(model, config, params, frozen, batch)
        reference = model.bind(frozen["reference"], frozen)
        reference_logprobs = scoring.token_stats(
            model, reference, batch, temperature=config.sampling.temperature
        ).logprob
        kl = losses.k1(stats.logprob, reference_logprobs, mask)
        scores = scores - config.missing_eos_penalty * ~samples.ended
        rewards = token_rewards(samples, scores, kl, coefficient)
        advantages, returns = losses.gae(
            rewards, values, mask, discount=config.discount, decay=config.decay
        )
        if config.whiten_advantages:
            advantages = losses.whiten(advantages, mask)
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
        stats, values = policy_and_values(model, config, params, frozen, batch)
        clip = {"clip_low": config.clip, "clip_high": config.clip}
        surrogate = losses.ppo_clip(stats.logprob, old, advantages, mask, **clip)
        value_loss = losses.value_clip(
            values, batch["old_values"], batch["returns"], mask, clip=config.value_clip or None
        )
        ratio = losses.importance_ratio(stats.logprob, old, mask)
        clipped = losses.clip_fraction(stats.logprob, old, advantages, mask, **clip)
        terms = {
            "policy": mean.masked(surrogate, mask),
            "value": mean.masked(config.value_coefficient * value_loss, mask),
        }
        return terms, {
            "policy_loss": terms["policy"],
            "value_loss": mean.masked(value_loss, mask),
            "ratio_deviation": mean.masked(jnp.abs(ratio - 1), mask),
            "clip_fraction": mean.masked(clipped, mask),
        }

    return algorithm.Algorithm(
        init=init,
        loss=loss,
        collect=collect,
        plan=algorithm.Plan(epochs=config.epochs, minibatches=config.minibatches),
        carry={"kl_coefficient": np.float32(config.kl_coefficient)},
        first={"ratio_deviation": algorithm.Expected(0.0, model.rounding)},
    )
