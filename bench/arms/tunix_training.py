"""Steps of SFT and DPO by Tunix's PeftTrainer and DPOTrainer.

It has no trainer of reward models: its PeftTrainer is given the Bradley-Terry loss and a model with
one output, as its critics have. Uneven rows are padded to the workload's length, for each shape of
a batch is compiled anew.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import common as rl_common
from tunix.sft import peft_trainer
from tunix.sft.dpo import dpo_trainer

from bench import turns, workloads
from bench.arms import tunix_common as common


def padded(documents: list[np.ndarray], length: int) -> peft_trainer.TrainingInput:
    tokens = np.full((len(documents), length), workloads.PAD, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(documents):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return peft_trainer.TrainingInput(input_tokens=tokens, input_mask=mask)


def model_input(batch: peft_trainer.TrainingInput) -> dict[str, Any]:
    """As its own examples make it."""
    mask = batch.input_mask
    return {
        "input_tokens": batch.input_tokens,
        "input_mask": mask,
        "positions": rl_common.build_positions_from_mask(mask),
        "attention_mask": rl_common.make_causal_attn_mask(mask),
    }


def bradley_terry(
    model: Any, input_tokens: Any, input_mask: Any, positions: Any, attention_mask: Any
) -> jax.Array:
    """Chosen rows stand before rejected ones; a row is scored at its last token."""
    scores, _ = model(input_tokens, positions, None, attention_mask)
    last = jnp.sum(input_mask, axis=1) - 1
    scores = jnp.take_along_axis(scores[..., 0], last[:, None], axis=1)[:, 0]
    chosen, rejected = jnp.split(scores, 2)
    return -jnp.mean(jax.nn.log_sigmoid(chosen - rejected))


def trainer_of(task: turns.Task) -> Any:
    config = {"eval_every_n_steps": 10**6, "max_steps": task.count}
    kind = task.case.workload.kind
    if kind == "dpo":
        options = dpo_trainer.DPOTrainingConfig(beta=task.case.workload.beta, **config)
        made = common.policy(task), common.policy(task), common.optimizer(), options
        return dpo_trainer.DPOTrainer(*made)
    model = common.policy(task) if kind == "sft" else common.scorer(task)
    options = peft_trainer.TrainingConfig(**config)
    trainer = peft_trainer.PeftTrainer(model, common.optimizer(), options)
    trainer.with_gen_model_input_fn(model_input)
    return trainer if kind == "sft" else trainer.with_loss_fn(bradley_terry)


def batch_of(task: turns.Task, step: int) -> tuple[Any, int]:
    """(a batch of rows, tokens in it)."""
    case = task.case
    if case.workload.kind == "sft":
        batch = padded(case.documents(step), case.shape.new)
        return batch, int(batch.input_mask.sum())
    prompts, chosen, rejected = case.pairs(step)
    if case.workload.kind == "rm":
        sides = [np.concatenate([prompts, answers], axis=1) for answers in (chosen, rejected)]
        batch = padded(list(np.concatenate(sides)), sum(case.shape[1:]))
        return batch, int(batch.input_mask.sum())
    masks = {
        f"{name}_mask": np.ones(ids.shape, bool)
        for name, ids in (("prompt", prompts), ("chosen", chosen), ("rejected", rejected))
    }
    batch = dpo_trainer.TrainingInput(
        prompt_ids=prompts, chosen_ids=chosen, rejected_ids=rejected, **masks
    )
    return batch, 2 * prompts.size + chosen.size + rejected.size


def run(task: turns.Task, told: turns.Turns) -> None:
    trainer = trainer_of(task)
    losses: list[Any] = []
    plain = trainer._buffer_metrics

    def noted(buffer: Any, loss: Any, *args: Any, **options: Any) -> Any:
        losses.append(loss)
        return plain(buffer, loss, *args, **options)

    trainer._buffer_metrics = noted
    told.ready(parameters=common.size(trainer.model), versions=common.versions())

    def batches() -> Iterator[Any]:
        """Asked for a batch, ends the turn of the one before: all of its work is waited for."""
        for step in range(task.count):
            told.begin()
            batch, tokens = batch_of(task, step)
            yield batch
            jax.block_until_ready(nnx.state(trainer.model))
            told.end(tokens=tokens, loss=float(losses[-1]))

    with common.mesh():
        trainer.train(batches())


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
