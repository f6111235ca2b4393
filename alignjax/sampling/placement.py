"""Sampling on another mesh of the same devices: in parts of matrices, where training is in rows."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alignjax.models import model as models
from alignjax.models import params as declared
from alignjax.parallel import axes, hosts
from alignjax.parallel import mesh as meshes


def mesh_of(model: models.Model, model_axis: int) -> Mesh | None:
    """The mesh for sampling under the one that is set; None where there is none.

    Raises:
      ValueError: the axis does not divide the devices or the model's sizes, or the model does not
        declare its axes.
    """
    home = jax.sharding.get_mesh()
    if not model_axis or home.empty:
        return None
    if model.declared is None:
        raise ValueError(
            "sampling.model_axis must be 0 for a model that does not declare its parameters' axes; "
            f"got {model_axis} (algorithm.sampling)."
        )
    mesh = meshes.for_sampling(home, model_axis)
    with meshes.use(mesh):
        for info in jax.tree.leaves(model.declared, is_leaf=declared.is_info):
            for name, size in zip(info.axes.split(), info.shape, strict=True):
                if size % axes.axis_size(name):
                    raise ValueError(
                        f"sampling.model_axis must leave the model's sizes whole: {name} = {size} "
                        f"over {axes.axis_size(name)} devices; got {model_axis} "
                        "(algorithm.sampling). Use another divisor of the devices."
                    )
    return mesh


def layouts(model: models.Model, params: Any, mesh: Mesh) -> Any:
    """Where each parameter lies on a mesh; what adapters add to the base is whole everywhere.

    params: without a scalar head.
    """

    def place(info: declared.ParamInfo | None, part: Any) -> Any:
        def where(x: jax.Array) -> NamedSharding:
            if info is None or x.shape != info.shape:
                return NamedSharding(mesh, PartitionSpec())
            return NamedSharding(mesh, axes.spec(info.axes))

        return jax.tree.map(where, part)

    with meshes.use(mesh):
        return declared.with_info(place, model.declared, params)


def rows(mesh: Mesh, tree: Any) -> Any:
    """Where arrays of one entry a row lie on a mesh."""
    with meshes.use(mesh):
        return jax.tree.map(lambda x: hosts.sharding(x.ndim), tree)


def moved(model: models.Model, generate: Callable[..., Any], model_axis: int) -> Callable[..., Any]:
    """`generate` on the mesh with this model axis; weights move there once, samples come back.

    Raises:
      ValueError: see mesh_of.
    """
    mesh = mesh_of(model, model_axis)
    if mesh is None:
        return generate

    narrow = jax.jit(model.narrow)  # what moves is half as large, and so is what is held there

    def run(
        params: Any, prompts: jax.Array, lengths: jax.Array, key: jax.Array, **columns: Any
    ) -> Any:
        home = jax.sharding.get_mesh()
        params = narrow(model.without_scalar(params))
        with meshes.use(mesh):
            params = jax.device_put(params, layouts(model, params, mesh))
            inputs = (prompts, lengths, columns)
            inputs = jax.device_put(inputs, rows(mesh, inputs))
            key = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
            prompts, lengths, columns = inputs
            samples = generate(params, prompts, lengths, key, **columns)
        return jax.device_put(samples, rows(home, samples))

    return run
