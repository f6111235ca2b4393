"""Iterations by Tunix's GRPOLearner, over its own sampler: `learner.train()`.

A row's length is forced on the logits that its sampler draws from: no end before it, nothing else
at it.
"""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import workload
from flax import nnx
from tunix.generate import sampler
from tunix.models.llama3 import model as llama
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

EOS = workload.EOS


def mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def model() -> Any:
    config = llama.ModelConfig(
        num_layers=workload.LAYERS,
        vocab_size=workload.VOCAB,
        embed_dim=workload.WIDTH,
        hidden_dim=workload.FF,
        num_heads=workload.HEADS,
        head_dim=workload.HEAD_DIM,
        num_kv_heads=workload.HEADS,
        rope_theta=workload.THETA,
        norm_eps=workload.NORM_EPS,
        weight_tying=True,
    )
    made = llama.Llama3(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    graph, state = nnx.split(made)

    def spread(x: jax.Array) -> jax.Array:
        # Its linear layers begin at 0.
        drawn = 0.02 * rng.standard_normal(x.shape) if x.ndim > 1 else np.ones(x.shape)
        return jnp.asarray(drawn, jnp.float32)

    return nnx.merge(graph, jax.tree.map(spread, state))


class Words:
    """A tokenizer with a word for each id."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(i)) for i in ids)

    def bos_id(self) -> int:
        return workload.PAD  # none

    def eos_id(self) -> int:
        return EOS

    def pad_id(self) -> int:
        return workload.PAD


def force(lengths: np.ndarray) -> None:
    """Rows of its sampler end at these lengths."""
    plain = sampler.Sampler._sample

    def sample(self: Any, logits: Any, eos: Any, cache: Any, sampler_state: Any) -> Any:
        last = sampler_state.decoding_step + 1 - sampler_state.num_input_tokens + 1 >= lengths
        is_end = jnp.arange(logits.shape[-1]) == EOS
        logits = jnp.where((last[:, None] == is_end[None])[:, None], logits[:, -1:], -1e9)
        return plain(self, logits=logits, eos=eos, cache=cache, sampler_state=sampler_state)

    sampler.Sampler._sample = sample


def cluster(case: workload.Case, count: int, micro: int) -> Any:
    optim = workload.OPTIM
    optimizer = optax.chain(
        optax.clip_by_global_norm(optim["clip_norm"]),
        optax.adamw(
            optim["learning_rate"],
            b1=optim["b1"],
            b2=optim["b2"],
            eps=optim["eps"],
            weight_decay=0.0,
        ),
    )
    roles = rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, mesh()),
        rollout_engine="vanilla",
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optimizer,
            eval_every_n_steps=1000,
            max_steps=count,
            mini_batch_size=case.prompts,
            train_micro_batch_size=case.prompts // micro,
            rollout_micro_batch_size=case.prompts,
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=case.new,
            max_prompt_length=case.prompt,
            kv_cache_size=case.prompt + case.new,
            temperature=1.0,
            top_p=1.0,
        ),
    )
    return rl_cluster.RLCluster(
        actor=model(), reference=model(), tokenizer=Words(), cluster_config=config
    )


def iterations(task: workload.Task, turns: workload.Turns) -> None:
    case, count, micro = task
    force(case.lengths())
    made = cluster(case, count, micro)
    found: list[list[int]] = []

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        ids = [Words().encode(text) for text in completions]
        found.append([len(one) for one in ids])
        return [workload.reward(one) for one in ids]

    algorithm = grpo_learner.GRPOConfig(
        num_generations=workload.GROUP, num_iterations=1, beta=workload.BETA
    )
    learner = grpo_learner.GRPOLearner(rl_cluster=made, algo_config=algorithm, reward_fns=reward)
    plain = made.update_actor

    def update(*args: Any, **options: Any) -> None:
        plain(*args, **options)
        jax.block_until_ready(nnx.state(made.actor_trainer.model))
        turns.end()

    made.update_actor = update
    names = {"tunix": "google-tunix", "jax": "jax", "flax": "flax"}
    turns.ready(**{name: importlib.metadata.version(which) for name, which in names.items()})

    def batches() -> Iterator[dict[str, Any]]:
        for step in range(count):
            if step:  # the learner looks at the first one ahead of its loop
                turns.begin()
            yield {"prompts": np.array([Words().decode(ids) for ids in case.batch(step)])}

    turns.begin()
    learner.train(batches())
    # Its rows count an end that its sampler leaves out.
    whole = [
        [n + (n < length) for n, length in zip(one, case.lengths(), strict=True)] for one in found
    ]
    assert all(one == case.lengths().tolist() for one in whole), found


if __name__ == "__main__":
    iterations(workload.task(), workload.Turns())
