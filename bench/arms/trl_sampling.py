"""Batches of completions by transformers' `generate`, by which TRL samples."""

import torch
import transformers

from bench import turns, workloads
from bench.arms import trl_common as common


def run(task: turns.Task, told: turns.Turns) -> None:
    common.prepare(task)
    _, prompt, new = task.case.shape
    model = common.policy(task).eval()
    config = transformers.GenerationConfig(
        max_new_tokens=new,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        eos_token_id=None,
        pad_token_id=workloads.PAD,
    )
    model.generation_config = config
    told.ready(parameters=common.size(model), versions=common.versions())
    for step in range(task.count):
        told.begin()
        prompts = torch.from_numpy(task.case.prompt_ids(step)).long()
        with torch.inference_mode():
            found = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), generation_config=config
            )
        told.end(tokens=found[:, prompt:].numpy().size)


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
