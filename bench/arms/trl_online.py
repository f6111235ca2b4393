"""Iterations by TRL's GRPOTrainer and RLOOTrainer, over transformers' own `generate`.

A row's length is forced by a logits processor: no end before it, nothing else at it.
"""

import functools
from typing import Any

import datasets
import torch
import transformers
import trl

from bench import turns, workloads
from bench.arms import trl_common as common

EOS = workloads.EOS


class Ends(transformers.LogitsProcessor):
    """Rows end at these lengths, [rows]."""

    def __init__(self, lengths: Any, prompt: int):
        self._lengths, self._prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        last = self._lengths <= input_ids.shape[1] - self._prompt + 1
        scores[:, EOS] = torch.where(last, scores[:, EOS], -torch.inf)
        scores[last] = -torch.inf
        scores[last, EOS] = 0.0
        return scores


def run(task: turns.Task, told: turns.Turns) -> None:
    common.prepare(task)
    case, workload, shape = task.case, task.case.workload, task.case.shape
    watch = common.Watch(told)
    lengths = case.lengths(0)

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        found = [len(ids) for ids in completion_ids]
        assert found == lengths.tolist(), found
        watch.tokens = sum(found)
        return [workloads.reward(ids) for ids in completion_ids]

    grpo = workload.kind == "grpo"
    args = common.arguments(
        trl.GRPOConfig if grpo else trl.RLOOConfig,
        task,
        shape.rows,
        num_generations=workload.group,
        num_iterations=1,
        max_completion_length=shape.new,
        beta=workload.beta,
        temperature=1.0,
        shuffle_dataset=False,
        **({"loss_type": "grpo"} if grpo else {}),
    )
    prompts = [common.text(ids) for step in range(task.count) for ids in case.prompt_ids(step)]
    policy = common.policy(task)
    trainer = (trl.GRPOTrainer if grpo else trl.RLOOTrainer)(
        model=policy,
        reward_funcs=reward,
        args=args,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        processing_class=common.tokenizer(case.model.vocab),
        callbacks=[watch],
    )
    ends = transformers.LogitsProcessorList([Ends(lengths, shape.prompt)])
    policy.generate = functools.partial(policy.generate, logits_processor=ends)
    told.ready(parameters=common.size(trainer.model), versions=common.versions())
    trainer.train()


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
