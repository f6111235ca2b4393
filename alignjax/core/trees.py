"""Trees by path: names, selection, differences in words."""

import re
from collections.abc import Callable
from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """A key path as "layers/attention/query"."""
    parts = []
    for entry in path:
        for attribute in ("name", "key", "idx"):
            if hasattr(entry, attribute):
                parts.append(str(getattr(entry, attribute)))
                break
    return "/".join(parts)


def map_named(fn: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Any = None) -> Any:
    """`jax.tree.map` whose function also gets each leaf's path name first."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest, is_leaf=is_leaf
    )


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path name, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def matching(tree: Any, pattern: str) -> Any:
    """A tree of booleans: true where the regular expression matches within the leaf's path name."""
    expression = re.compile(pattern)
    return map_named(lambda name, _: expression.search(name) is not None, tree)


def size(tree: Any) -> int:
    """Number of elements in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def differences(expected: Any, actual: Any) -> list[str]:
    """One line for every leaf name, shape or dtype in which two trees differ."""
    left, right = named_leaves(expected), named_leaves(actual)
    lines = [f"{name}: missing" for name in left if name not in right]
    lines += [f"{name}: not expected" for name in right if name not in left]
    for name in left:
        if name in right:
            a, b = left[name], right[name]
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                lines.append(
                    f"{name}: {a.dtype}{list(a.shape)} expected, {b.dtype}{list(b.shape)} given"
                )
    return lines
