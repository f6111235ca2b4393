"""Steps of SFT, DPO and reward models by TRL's SFTTrainer, DPOTrainer and RewardTrainer."""

from typing import Any

import datasets
import transformers
import trl

from bench import turns
from bench.arms import trl_common as common


def sft(task: turns.Task, shared: dict[str, Any]) -> Any:
    rows = [ids.tolist() for step in range(task.count) for ids in task.case.documents(step)]
    args = common.arguments(trl.SFTConfig, task, task.case.shape.rows, max_length=None)
    data = datasets.Dataset.from_dict({"input_ids": rows})
    return trl.SFTTrainer(common.policy(task), args, train_dataset=data, **shared)


def pairs(task: turns.Task) -> list[tuple[Any, Any, Any]]:
    return [
        row
        for step in range(task.count)
        for row in zip(*(ids.tolist() for ids in task.case.pairs(step)), strict=True)
    ]


def dpo(task: turns.Task, shared: dict[str, Any]) -> Any:
    names = ("prompt", "chosen", "rejected")
    rows = zip(*pairs(task), strict=True)
    data = {name: [common.text(ids) for ids in own] for name, own in zip(names, rows, strict=True)}
    _, prompt, new = task.case.shape
    args = common.arguments(
        trl.DPOConfig,
        task,
        task.case.shape.rows,
        beta=task.case.workload.beta,
        max_length=prompt + new,  # it puts an end behind every answer, which this cuts off
    )
    data = datasets.Dataset.from_dict(data)
    return trl.DPOTrainer(
        common.policy(task), common.policy(task), args, train_dataset=data, **shared
    )


def reward(task: turns.Task, shared: dict[str, Any]) -> Any:
    rows = pairs(task)
    data = {
        "chosen_ids": [prompt + chosen for prompt, chosen, _ in rows],
        "rejected_ids": [prompt + rejected for prompt, _, rejected in rows],
    }
    model = transformers.AutoModelForSequenceClassification.from_pretrained(task.weights / "scorer")
    args = common.arguments(trl.RewardConfig, task, task.case.shape.rows)
    data = datasets.Dataset.from_dict(data)
    return trl.RewardTrainer(model, args, train_dataset=data, **shared)


def run(task: turns.Task, told: turns.Turns) -> None:
    common.prepare(task)
    watch = common.Watch(told)
    shared = {
        "processing_class": common.tokenizer(task.case.model.vocab),
        "callbacks": [watch],
    }
    make = {"sft": sft, "dpo": dpo, "rm": reward}[task.case.workload.kind]
    trainer = make(task, shared)
    watch.noting(trainer)
    told.ready(parameters=common.size(trainer.model), versions=common.versions())
    trainer.train()


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
