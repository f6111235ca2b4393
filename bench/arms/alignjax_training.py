"""Steps of SFT, DPO and reward models by AlignJAX: `training.annotated` and `training.steps`.

Rows go through its own tables: laid out, packed where lengths differ, read in its own order. DPO's
reference is read once for all rows before the first step, as a run does, in turns of its own whose
costs the steps share.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from alignjax import training
from alignjax.algorithms import dpo, reward, sft
from alignjax.core import struct
from alignjax.data import padding, pipeline, tables
from alignjax.models import transformer
from alignjax.training import algorithm
from bench import turns, workloads
from bench.arms import alignjax_common as common

SEED = 0


def demonstrations(task: turns.Task) -> tables.Table:
    documents = [ids for step in range(task.count) for ids in task.case.documents(step)]
    examples: list[Any] = [{"ids": ids, "mask": np.ones(len(ids), bool)} for ids in documents]
    uneven = task.case.workload.lengths is not None
    return padding.table(
        examples,
        "demonstrations",
        length=task.case.shape.new,
        prompt_length=0,
        pad_id=workloads.PAD,
        pack=uneven,
    )


def pairs(task: turns.Task) -> tables.Table:
    examples: list[Any] = []
    for step in range(task.count):
        for prompt, chosen, rejected in zip(*task.case.pairs(step), strict=True):
            answers = np.concatenate([chosen, rejected])
            examples.append(
                {
                    "prompt": prompt,
                    "answers": answers,
                    "mask": np.ones(len(answers), bool),
                    "sizes": np.array([len(chosen), len(rejected)]),
                    "preferred": np.array([0, 1], np.int32),
                    "preference": np.ones(1, np.float32),
                    "weight": np.ones(1, np.float32),
                    "row": np.array([len(examples)]),
                }
            )
    _, prompt_length, new = task.case.shape
    return padding.table(
        examples,
        "pairs",
        length=prompt_length + new,
        prompt_length=prompt_length,
        pad_id=workloads.PAD,
    )


def method_of(task: turns.Task) -> tuple[algorithm.Algorithm, Any]:
    """(the method, the parameters that it starts with)."""
    workload, model = task.case.workload, transformer.transformer(common.config_of(task))
    params = common.policy(task)
    if workload.kind == "sft":
        return sft.sft(model, sft.SftConfig()), params
    if workload.kind == "dpo":
        return dpo.dpo(model, dpo.DpoConfig(beta=workload.beta)), params
    # A head of its own in place of the zero one: the first loss says more than log 2.
    method = reward.reward(model, reward.RewardConfig())
    scored = struct.replace(params, scalar=jax.numpy.asarray(workloads.head(task.case.model)))
    return (
        method._replace(init=lambda key, start: start["policy"], first=lambda batch: {}),
        scored,
    )


def in_turn(table: tables.Table, batch: int) -> pipeline.Batches:
    """Its shuffled stream over the table, whose rows are laid so that they come in their order."""
    rows = tables.count(table)
    stream = pipeline.Batches(table, batch_size=batch, seed=SEED)
    order = np.concatenate([stream.indices(step) for step in range(-(-rows // batch))])[:rows]
    laid = tables.take(table, np.argsort(order))
    return pipeline.Batches(laid, batch_size=batch, seed=SEED)


def references(
    method: algorithm.Algorithm, params: Any, batches: pipeline.Batches, task: turns.Task
) -> Iterator[tables.Table]:
    """The rows of each step with the columns that the method computes once for all."""
    for step in range(task.count):
        rows = batches.batch(step)
        yield training.annotated(method, {"reference": params}, rows, task.case.shape.rows)


def run(task: turns.Task, told: turns.Turns) -> None:
    uneven = task.case.workload.lengths is not None
    table = demonstrations(task) if task.case.workload.kind == "sft" else pairs(task)
    rows, tokens = tables.count(table), int((table["segments"] > 0).sum())
    assert tokens == sum(task.case.tokens(step) for step in range(task.count)), tokens
    # Packed rows of as many documents as other code bases take a step.
    batch = max(round(rows / task.count), 1) if uneven else task.case.shape.rows
    batches = in_turn(table, batch)
    method, params = method_of(task)
    tx = common.optimizer(params, task.count)
    before = 0 if method.annotate is None else task.count
    told.ready(parameters=common.size(params), versions=common.versions(), before=before)
    rows_of = batches.batch
    if before:
        whole = []
        sets = references(method, params, batches, task)
        for _ in range(before):
            told.begin()
            whole.append(next(sets))
            told.end(tokens=int((whole[-1]["segments"] > 0).sum()))
        rows_of = whole.__getitem__
    state = training.initial_state(method, tx, start={"policy": params}, seed=SEED)
    del params
    counted = [0]

    def batch_at(step: int) -> tables.Table:
        rows = rows_of(step)
        counted[0] = int((rows["segments"] > 0).sum())
        return rows

    steps = training.steps(method, batch_at, tx, state=state, until=task.count, seed=SEED)
    del state
    for _ in range(task.count):
        told.begin()
        state, metrics = next(steps)
        jax.block_until_ready((state, metrics))
        told.end(tokens=counted[0], loss=float(metrics["loss"].value))


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
