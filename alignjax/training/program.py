"""Descriptions of a method's programs, so that `plan` can compile them for absent machines.

`alignjax plan` builds the run as `train` does, with shapes in place of arrays, and compiles
`annotate`, the programs of `collect`, and the update. A `collect` that is one traceable function
needs no description; one that works on the host lists its jitted parts here.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from alignjax.data import corpus, tables
from alignjax.models import model as models
from alignjax.parallel import axes, hosts


class Pass(NamedTuple):
    """A model's pass over all rows of a program's batch, once a row.

    role: of the model. head: whether the unembedding is used too. trained: with its backward pass.
    """

    role: str
    head: bool = True
    trained: bool = False


class Shapes(NamedTuple):
    """A run in shapes, on the mesh that is set.

    networks: models by role. params: the trained tree. bound: by role, the tree its model reads.
    frozen: trees by role. batch: columns of the data. key: of the step.
    """

    networks: Mapping[str, models.Model]
    params: models.Params
    bound: Mapping[str, Any]
    frozen: Mapping[str, Any]
    carry: Any
    batch: Mapping[str, Any]
    key: jax.Array


class Generation(NamedTuple):
    """A decode loop of a role: tokens of a prompt, new tokens of a row, rows of a prompt."""

    role: str
    prompt: int
    new: int
    size: int = 1


class Program(NamedTuple):
    """One jitted function with the shapes of its arguments.

    parts: those arguments by what they are: parameters, frozen, batch, other. rows, length: of the
    batch that it reads. passes: of models over all rows, None where that is not known; generation:
    the decode loop that it is instead. more_heads: roles whose logits are
    computed once more where they come in tiles. cache: shapes of its key-value cache. mesh: where
    it runs, if not on the run's mesh. rounds: of loops that the data ends, at most.
    """

    name: str
    run: Any
    arguments: tuple[Any, ...]
    parts: tuple[tuple[str, Any], ...]
    rows: int
    length: int
    passes: tuple[Pass, ...] | None = None
    generation: Generation | None = None
    more_heads: tuple[str, ...] = ()
    cache: Any = None
    mesh: Any = None
    rounds: int = 1


class Collected(NamedTuple):
    """The programs of one `collect`, and the rows that the update then trains on, in shapes."""

    programs: tuple[Program, ...]
    rows: Mapping[str, Any]


def rows(
    columns: Mapping[str, tuple[tuple[int, ...], Any]],
) -> dict[str, jax.ShapeDtypeStruct]:
    """Global arrays with the layout of a batch; columns: (shape, dtype) by name."""

    def place(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        where = hosts.sharding(len(shape)) if axes.has_mesh() else None
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    return {name: place(shape, dtype) for name, (shape, dtype) in columns.items()}


def batch(
    kind: str, count: int, data: corpus.Corpus, more: Collection[str] = ()
) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of a kind of table, in shapes; more: names of optional columns that it has."""
    sizes = tables.Sizes(
        data.length, data.prompt_length, data.answers, data.comparisons, len(data.categories)
    )
    return rows(tables.KINDS[kind].shapes(count, sizes, more, data.columns))


@contextlib.contextmanager
def columns_told(known: Collection[str]) -> Iterator[None]:
    """A column that is read and not among the `known` ones becomes a ValueError that names it."""
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else ""
        if not isinstance(name, str) or name in known:
            raise
        raise ValueError(
            f"a plan must know every column that the method reads; got {name!r}, which is none of "
            f"{', '.join(known)} (plan). Describe it in Corpus.columns and name it in "
            "Algorithm.columns."
        ) from error


def shapes_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """The shapes of a function's result, as from `jax.eval_shape`, except for aliases.

    A result that is an argument unchanged is the same object: one array, counted once.
    """
    traced, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
    same = {
        id(var): x for var, x in zip(traced.jaxpr.invars, jax.tree.leaves(arguments), strict=True)
    }
    leaves, structure = jax.tree.flatten(result)
    outputs = [same.get(id(v), x) for v, x in zip(traced.jaxpr.outvars, leaves, strict=True)]
    return jax.tree.unflatten(structure, outputs)
