"""A dataclass that is a pytree."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the tree's structure, not of its leaves."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static,))
def pytree(cls: type[T]) -> type[T]:
    """The class as a frozen, keyword-only dataclass that jax flattens field by field.

    Fields declared with `static()` must be hashable: they belong to the tree definition, so another
    value recompiles.
    """
    data = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(data)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static")]
    leaves = [f.name for f in fields if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(data, data_fields=leaves, meta_fields=meta)


def replace(tree: T, **changes: Any) -> T:
    """`tree` with the named fields exchanged."""
    return dataclasses.replace(tree, **changes)  # type: ignore[type-var]
