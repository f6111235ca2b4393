"""The smallest model, ragged batches, and every method ready to train on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import struct
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models import transformer
from alignjax.parallel import hosts
from alignjax.rewards import learned
from alignjax.sampling import transforms
from alignjax.training import algorithm, optim, stepping, update

VOCAB, LENGTH, PROMPT, NEW = 24, 12, 4, 6
PAD, EOS = 0, 1
METHODS = ("pretrain", "sft", "reward", "dpo", "ppo", "ppo-shared")


def shape(**changes: Any) -> model_config.TransformerConfig:
    sizes = {"layers": 1, "width": 16, "heads": 4, "kv_heads": 2, "head_dim": 4, "ff": 16}
    return model_config.TransformerConfig(vocab_size=VOCAB, **{**sizes, **changes})


def rows(seed: int, *lead: int, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Right-padded rows [*lead, T] of ragged lengths; the first PROMPT tokens are not trained."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(PROMPT + 1, length + 1, lead)[..., None]
    slot = np.arange(length, dtype=np.int32)
    real = slot < lengths
    return {
        "tokens": np.where(real, rng.integers(2, VOCAB, (*lead, length)), PAD).astype(np.int32),
        "loss_mask": real & (slot >= PROMPT),
        "segments": real.astype(np.int32),
        "positions": np.broadcast_to(slot, (*lead, length)).copy(),
    }


def prompts(seed: int, count: int) -> dict[str, np.ndarray]:
    """Ragged right-padded prompts."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, PROMPT + 1, count).astype(np.int32)
    tokens = rng.integers(2, VOCAB, (count, PROMPT)).astype(np.int32)
    return {
        "prompts": np.where(np.arange(PROMPT) < lengths[:, None], tokens, PAD),
        "lengths": lengths,
    }


def batch(name: str, seed: int, count: int) -> dict[str, np.ndarray]:
    """A host batch for a method."""
    if name.startswith("ppo"):
        return prompts(seed, count)
    return rows(seed, count, 2) if name in ("reward", "dpo") else rows(seed, count)


def count_fives(frozen: Any, samples: Any, columns: Any) -> Any:
    """A reward rule: how often a completion holds token 5."""
    return jnp.sum((samples.tokens == 5) & samples.mask, axis=1).astype(jnp.float32)


def ppo_config(**changes: Any) -> ppo.PpoConfig:
    sampling = transforms.SamplingConfig(max_new_tokens=NEW)
    return ppo.PpoConfig(**{"sampling": sampling, "kl_coefficient": 0.1, **changes})


def make(name: str, model: models.Model, **changes: Any) -> algorithm.Algorithm:
    """A method by name. PPO maximises the learned reward."""
    match name:
        case "pretrain":
            return pretrain.pretrain(model, pretrain.PretrainConfig(z_loss=1e-3, **changes))
        case "sft":
            return sft.sft(model, sft.SftConfig(**changes))
        case "reward":
            return reward.reward(model, reward.RewardConfig(**{"centering": 0.01, **changes}))
        case "dpo":
            return dpo.dpo(model, dpo.DpoConfig(**{"beta": 0.5, **changes}))
    score = changes.pop("reward", None) or learned.learned(model)
    config = ppo_config(shared_critic=name == "ppo-shared", **changes)
    return ppo.ppo(model, config, reward=score, eos=EOS, pad=PAD)


class Ready(NamedTuple):
    """A method with all that its first step needs, on the current mesh."""

    method: algorithm.Algorithm
    state: algorithm.TrainState
    frozen: dict[str, Any]
    tx: Any


def optimizer(**changes: Any) -> optim.OptimConfig:
    plain = {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 0}
    return optim.OptimConfig(**{**plain, **changes})


def ready(name: str, model: models.Model, config: Any = None, **changes: Any) -> Ready:
    """A fresh state. The reward model's head is not zero."""
    method = make(name, model, **changes)
    key = jax.random.key(7)

    def trees() -> Any:
        policy = model.init(key)
        head = jax.random.normal(jax.random.key(8), (policy.norm.size,))
        return policy, struct.replace(model.with_scalar(policy), scalar=head)

    policy, scored = jax.jit(trees)()
    start = {"policy": policy, "value": scored}
    frozen = {"reference": policy, "reward": scored}
    txs = {}

    def tx_of(params: Any) -> Any:
        txs["tx"] = optim.make_optimizer(config or optimizer(), params, 100)
        return txs["tx"]

    state = jax.jit(lambda s: stepping.make_state(method, tx_of, key, s))(start)
    return Ready(method, state, frozen, txs["tx"])


def first_losses(
    name: str, steps: int = 3, rows_of_batch: int = 16, model: Any = None, **changes: Any
) -> list[Any]:
    """Losses and gradient norms of the first steps on the current mesh, one update a step.

    model: changes of its shape.
    """
    model = transformer.transformer(shape(**(model or {})))
    method, state, frozen, _ = ready(name, model, **changes)
    # Small steps: large ones multiply what rounding makes of the gradients of another mesh.
    tx = optim.make_optimizer(optimizer(learning_rate=1e-3), state.params, steps)
    run = update.make_update(method.loss, tx)
    annotate = jax.jit(method.annotate) if method.annotate else lambda frozen, rows: {}
    numbers = []
    for step in range(steps):
        columns = hosts.to_global(batch(name, step, rows_of_batch))
        columns = {**columns, **annotate(frozen, columns)}
        key = jax.random.key(step)
        columns, carry, _ = method.collect(state, frozen, columns, key)
        state, metrics = run(struct.replace(state, carry=carry), frozen, columns, key)
        numbers.append([float(metrics["loss"].value), float(metrics["grad_norm"].value)])
    return numbers
