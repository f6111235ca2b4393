"""Prints which rows of a batch this process holds on several meshes, and what it samples there."""

import json

import jax
import numpy as np

from alignjax.models import transformer
from alignjax.parallel import hosts, processes
from alignjax.parallel import mesh as meshes
from alignjax.sampling import generate, transforms
from tests.training import tiny


def rows_of(sizes: tuple[int, int]) -> dict[str, list]:
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(data=sizes[0], model=sizes[1]))):
        own = hosts.own_rows(8)
        values = np.arange(16).reshape(8, 2) ** 2
        x = hosts.to_global({"x": values[own]}, 8)["x"]
        model = transformer.transformer(tiny.shape(kv_heads=4))
        config = transforms.SamplingConfig(max_new_tokens=6)
        sample = generate.make_generate(model, config, eos=-1, pad=0)
        prompts = {"prompts": np.full((8, 3), 7, np.int32), "lengths": np.full(8, 3, np.int32)}
        given = hosts.to_global({name: p[own] for name, p in prompts.items()}, 8)
        params = jax.jit(model.init)(jax.random.key(0))
        drawn = sample(params, given["prompts"], given["lengths"], jax.random.key(1))
        return {
            "own": own.tolist(),
            "local": hosts.to_local(x).tolist(),
            "whole": hosts.to_host(x).tolist(),
            "drawn": hosts.to_local(drawn.tokens).tolist(),
        }


processes.start()
print(json.dumps({str(sizes): rows_of(sizes) for sizes in ((4, 1), (2, 2), (1, 4))}))
processes.leave(0, "")
