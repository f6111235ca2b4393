"""The work of a run's programs by the formulas: what they pass over, as each role's tree has it."""

from collections.abc import Mapping
from typing import Any

from alignjax.models import config as model_config
from alignjax.models.adapters import adapt
from alignjax.parallel import axes
from alignjax.parallel import mesh as meshes
from alignjax.planning import analytic
from alignjax.runs import assembly
from alignjax.training import program

Shapes = Mapping[str, analytic.Shape | None]  # networks by name; None is not counted


def shapes(
    parts: assembly.Assembly, trees: Mapping[str, tuple[str, Any]], dense: bool
) -> dict[str, analytic.Shape | None]:
    """How the products of networks are counted; None where the formulas do not hold.

    trees: by name, (role, parameters of its network). dense: as in `programs.build`.
    """
    counted: dict[str, analytic.Shape | None] = {}
    for name, (role, tree) in trees.items():
        config: Any = parts.network(role).config
        known = isinstance(config, model_config.TransformerConfig) and not parts.config.optim.freeze
        adapter = _adapter(parts, role, tree)
        counted[name] = analytic.shape_of(config, adapter, dense) if known else None
    return counted


def _adapter(parts: assembly.Assembly, role: str, tree: Any) -> adapt.AdapterConfig:
    """The adapter that a role's parameters have."""
    if not adapt.has_adapters(tree):
        return adapt.FullConfig()
    if parts.roles[role].trained:
        return parts.config.adapter
    network = parts.network(role)
    if network.origin is not None:
        return network.origin.network(network.part)[1]
    assert parts.own_origin is not None
    return parts.own_origin.adapter


def of(own: program.Program, known: Shapes, shards: tuple[int, int]) -> analytic.Work | None:
    """The work of a program; None where the formulas do not hold. shards: as in `analytic.head`."""
    if own.generation is not None:
        loop = own.generation
        shape = known.get(loop.role)
        if shape is None:
            return None
        if own.mesh is not None:
            with meshes.use(own.mesh):
                shape = shape._replace(model=axes.axis_size("ff"), seq=axes.axis_size("time"))
        return analytic.generation(shape, own.rows, loop.prompt, loop.new, loop.size)
    if own.passes is None:
        return None
    works = []
    for one in own.passes:
        shape = known.get(one.role)
        if shape is None:
            return None
        works.append(analytic.body(shape, own.rows, own.length, trained=one.trained))
        if one.head:
            head = analytic.head(shape, own.rows, own.length, shards, trained=one.trained)
            is_tiled = analytic.tiled(shape, own.rows, own.length, shards)
            works += [head] * (2 if one.role in own.more_heads and is_tiled else 1)
    return analytic.together(*works)
