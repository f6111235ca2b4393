"""Batches of completions by AlignJAX: `sampling.make_generate`, rows in chunks as docs/sampling.md
advises on CPUs."""

import jax
import numpy as np

from alignjax.models import transformer
from alignjax.sampling import generate, transforms
from bench import turns, workloads
from bench.arms import alignjax_common as common


def run(task: turns.Task, told: turns.Turns) -> None:
    rows, prompt, new = task.case.shape
    model = transformer.transformer(common.config_of(task))
    config = transforms.SamplingConfig(max_new_tokens=new, rungs=4)
    sample = generate.make_generate(model, config, eos=-1, pad=workloads.PAD)
    params = common.policy(task)
    told.ready(parameters=common.size(params), versions=common.versions())
    lengths = np.full(rows, prompt, np.int32)
    for step in range(task.count):
        told.begin()
        key = jax.random.fold_in(jax.random.key(0), step)
        found = sample(params, task.case.prompt_ids(step), lengths, key)
        tokens, mask = np.asarray(found.tokens), np.asarray(found.mask)
        told.end(tokens=len(tokens[mask]))


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
