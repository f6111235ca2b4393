"""Iterations of GRPO and PPO by Tunix's GRPOLearner and PPOLearner, over its own sampler.

A row's length is forced on the logits that its sampler draws from: no end before it, nothing else
at it.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.generate import sampler
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

from bench import turns, workloads
from bench.arms import tunix_common as common

EOS = workloads.EOS


def force(lengths: np.ndarray) -> None:
    """Rows of its sampler end at these lengths."""
    plain = sampler.Sampler._sample

    def sample(self: Any, logits: Any, eos: Any, cache: Any, sampler_state: Any) -> Any:
        last = sampler_state.decoding_step + 1 - sampler_state.num_input_tokens + 1 >= lengths
        is_end = jnp.arange(logits.shape[-1]) == EOS
        logits = jnp.where((last[:, None] == is_end[None])[:, None], logits[:, -1:], -1e9)
        return plain(self, logits=logits, eos=eos, cache=cache, sampler_state=sampler_state)

    sampler.Sampler._sample = sample


def cluster(task: turns.Task) -> Any:
    case, is_ppo = task.case, task.case.workload.kind == "ppo"
    roles = [rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT]
    more = {}
    if is_ppo:
        roles.append(rl_cluster.Role.CRITIC)
        more["critic_optimizer"] = common.optimizer()
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, common.mesh()),
        rollout_engine="vanilla",
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=common.optimizer(),
            eval_every_n_steps=10**6,
            max_steps=task.count,
            mini_batch_size=case.prompts,
            train_micro_batch_size=case.prompts,
            rollout_micro_batch_size=case.prompts,
            **more,
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=case.shape.new,
            max_prompt_length=case.shape.prompt,
            kv_cache_size=case.shape.prompt + case.shape.new,
            temperature=1.0,
            top_p=1.0,
        ),
    )
    return rl_cluster.RLCluster(
        actor=common.policy(task),
        critic=common.scorer(task) if is_ppo else None,
        reference=common.policy(task),
        tokenizer=common.Words(),
        cluster_config=config,
    )


def learner_of(task: turns.Task, made: Any, reward: Any) -> Any:
    workload = task.case.workload
    if workload.kind == "ppo":
        config = ppo_learner.PPOConfig(num_iterations=1, beta=workload.beta)
        return ppo_learner.PPOLearner(rl_cluster=made, ppo_config=config, reward_fns=reward)
    config = grpo_learner.GRPOConfig(
        num_generations=workload.group, num_iterations=1, beta=workload.beta
    )
    return grpo_learner.GRPOLearner(rl_cluster=made, algo_config=config, reward_fns=reward)


def run(task: turns.Task, told: turns.Turns) -> None:
    case, lengths = task.case, task.case.lengths(0)
    force(lengths)
    made = cluster(task)
    is_ppo = case.workload.kind == "ppo"
    counted = [0]

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        ids = [common.Words().encode(text) for text in completions]
        # Its rows count an end that its sampler leaves out.
        found = [len(own) + (len(own) < most) for own, most in zip(ids, lengths, strict=True)]
        assert found == lengths.tolist(), found
        counted[0] = sum(found)
        return [workloads.reward(own) for own in ids]

    learner = learner_of(task, made, reward)
    last = "update_critic" if is_ppo else "update_actor"  # of an iteration
    plain = getattr(made, last)

    def update(*args: Any, **options: Any) -> None:
        plain(*args, **options)
        jax.block_until_ready(nnx.state(made.actor_trainer.model))
        if is_ppo:
            jax.block_until_ready(nnx.state(made.critic_trainer.model))
        told.end(tokens=counted[0])

    setattr(made, last, update)
    size = common.size(made.actor_trainer.model)
    if is_ppo:
        size += common.size(made.critic_trainer.model)
    told.ready(parameters=size, versions=common.versions())

    def batches() -> Iterator[dict[str, Any]]:
        for step in range(task.count):
            if step:  # the learner looks at the first one ahead of its loop
                told.begin()
            prompts = [common.Words().decode(ids) for ids in case.prompt_ids(step)]
            yield {"prompts": np.array(prompts)}

    told.begin()
    learner.train(batches())


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
