"""Sampling in shapes, for machines that are not here."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from alignjax.models import model as models
from alignjax.parallel import mesh as meshes
from alignjax.sampling import generate, placement, transforms
from alignjax.training import program


def samples(count: int, length: int) -> generate.Samples:
    """Samples of `count` rows, in shapes."""
    wide = {"tokens": np.int32, "mask": np.bool_, "logprobs": np.float32}
    narrow = {"lengths": np.int32, "prompt_lengths": np.int32, "ended": np.bool_}
    fields: dict[str, Any] = {
        **program.rows({name: ((count, length), dtype) for name, dtype in wide.items()}),
        **program.rows({name: ((count,), dtype) for name, dtype in narrow.items()}),
    }
    return generate.Samples(**fields)


def laid_out(tree: Any, layouts: Any) -> Any:
    """The same shapes with these layouts."""
    return jax.tree.map(
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), tree, layouts
    )


def generation(
    model: models.Model,
    sampling: transforms.SamplingConfig,
    policy: Any,
    *,
    parts: tuple[tuple[str, Any], ...],
    rows: int,
    prompt_length: int,
    eos: int | Sequence[int],
    pad: int,
    key: Any,
    name: str = "generate",
    samples_per_prompt: int = 1,
    role: str = "policy",
) -> program.Program:
    """The program that samples `rows` completions with a bound policy, given in shapes.

    Where sampling goes in chunks it stands for them: one program of all slots, that no row leaves,
    needs as much memory as their largest and more time than all.

    parts: the policy's arguments by category, as `program.Program` wants them.
    """
    new = sampling.max_new_tokens
    rows = min(sampling.slots or rows, rows)
    read = max(1, rows // samples_per_prompt)
    rows = read * samples_per_prompt
    columns = program.rows(
        {"prompts": ((read, prompt_length), np.int32), "lengths": ((read,), np.int32)}
    )
    prompts: Any = (columns["prompts"], columns["lengths"])
    mesh = placement.mesh_of(model, sampling.model_axis)
    if mesh is not None:
        policy = jax.eval_shape(model.narrow, model.without_scalar(policy))
        policy = laid_out(policy, placement.layouts(model, policy, mesh))
        prompts = laid_out(prompts, placement.rows(mesh, prompts))
        parts = (("parameters", policy),)
    plain = dataclasses.replace(sampling, model_axis=0, rungs=1, slots=0, stop=())
    make = functools.partial(generate.make_generate, model, plain, eos=eos, pad=pad)
    with contextlib.nullcontext() if mesh is None else meshes.use(mesh):
        cache = jax.eval_shape(lambda: model.cache(rows, prompt_length + new))
    return program.Program(
        name,
        make(samples_per_prompt=samples_per_prompt),
        (policy, *prompts, key),
        (*parts, ("batch", prompts), ("other", key)),
        rows=rows,
        length=prompt_length + new,
        generation=program.Generation(role, prompt_length, new, samples_per_prompt),
        cache=cache,
        mesh=mesh,
        rounds=new,
    )
