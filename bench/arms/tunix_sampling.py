"""Batches of completions by Tunix's own sampler; no token ends a row."""

from tunix.generate import sampler

from bench import turns
from bench.arms import tunix_common as common

NEVER = -1


def run(task: turns.Task, told: turns.Turns) -> None:
    _, prompt, new = task.case.shape
    model, shape = common.policy(task), task.case.model
    cache = sampler.CacheConfig(
        cache_size=prompt + new,
        num_layers=shape.layers,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
    )
    made = sampler.Sampler(model, common.Words(), cache)
    told.ready(parameters=common.size(model), versions=common.versions())
    for step in range(task.count):
        told.begin()
        prompts = [common.Words().decode(ids) for ids in task.case.prompt_ids(step)]
        found = made(
            prompts,
            max_generation_steps=new,
            max_prompt_length=prompt,
            eos_tokens=[NEVER],
            temperature=1.0,
            top_p=1.0,
            seed=step,
        )
        told.end(tokens=sum(len(ids) for ids in found.tokens))


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
