"""Adapters from and to peft's folders: adapter_config.json and adapter_model.safetensors."""

import functools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import trees
from alignjax.models import params, rope, transformer
from alignjax.models.adapters import ia3, peft_config, peft_modules
from alignjax.models.checkpoints import safetensors_format, safetensors_io
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes

STEM = "adapter_model"
SUFFIXES = {
    "down": "lora_A.weight",
    "up": "lora_B.weight",
    "stretch": "lora_magnitude_vector",
    "gain": "ia3_l",
}
START = "base_model.model.model.layers"
PROMPT = "prompt_embeddings"
CONFIG_LIMIT = 10_000_000  # bytes


def load(
    path: str | os.PathLike[str], config: TransformerConfig, base: Any = None
) -> tuple[peft_config.Config, Any]:
    """(configuration, adapters) of a folder that peft wrote, for a model of that shape.

    base: the model's weights; DoRA needs them, since it is kept as the difference from the length
    of their columns.

    Raises:
      ValueError: no such folder, a field or tensor that is not understood, or other sizes; one
        line that names it.
    """
    path = pathlib.Path(path)
    file = path / "adapter_config.json"
    if not file.is_file() or file.stat().st_size > CONFIG_LIMIT:
        raise ValueError(f"an adapter's folder must hold adapter_config.json; got {path}.")
    values = safetensors_format.parse_json(file.read_bytes(), str(file))
    kind = peft_config.check(values, str(file))
    _check_shape(config, kind)
    folder = safetensors_io.open_folder(path, STEM)
    if kind == "PREFIX_TUNING":
        _check_names(set(folder.tensors), {PROMPT}, config, path)
        adapter = peft_config.parse(values, set(), config, str(file))
        adapter.validate()
        return adapter, _read_prefix(folder, adapter.declare(transformer.declare(config)), config)
    both = _wrapped_twice(set(folder.tensors))
    told = values.get("target_parameters") or ()  # one alone has the name of either
    known = {
        _tensor(module, layer, leaf, both): module.last
        for sparse, layers in config.stacks()
        for module in peft_modules.of_layer(config, sparse=sparse)
        if not module.parameter or module.last in told
        for layer in layers
        for leaf in SUFFIXES
    }
    _check_names(set(folder.tensors), set(known), config, path)
    adapter = peft_config.parse(values, {known[n] for n in folder.tensors}, config, str(file))
    adapter.validate()
    declared = adapter.declare(transformer.declare(config))
    infos = jax.tree_util.tree_leaves_with_path(declared, is_leaf=params.is_info)
    wanted = {trees.path_name(path): info for path, info in infos}
    leaves = _read_modules(folder, adapter, wanted, config, base, both)
    return adapter, trees.map_named(lambda n, _: leaves[n], declared, is_leaf=params.is_info)


def _check_names(names: set[str], known: set[str], config: TransformerConfig, path: Any) -> None:
    for name in sorted(names - known):
        raise ValueError(
            f"an adapter's tensors must be those of the model's layers; got {name!r:.200}, "
            f"which none of {config.layers} layers has ({path})."
        )


def _wrapped_twice(names: set[str]) -> bool:
    """Whether two parameters of one module of experts have tensors."""
    return any(".base_layer." in name for name in names)


def _read_modules(
    folder: safetensors_io.TensorFolder,
    adapter: Any,
    wanted: dict[str, params.ParamInfo],
    config: TransformerConfig,
    base: Any,
    both: bool,
) -> dict[str, jax.Array]:
    """The leaves of an adapter by path.

    Raises:
      ValueError: a tensor is missing, has another size, or is not used.
    """
    leaves, left = {}, set(folder.tensors)
    for stack, leaf, module, layers in _leaves(config):
        sites = [f"blocks/{stack}/{part}" for part in module.parts]
        names = [f"{site}/{leaf}" for site in sites if f"{site}/{leaf}" in wanted]
        if not names:
            continue
        shapes = [wanted[name].shape[1:] for name in names]
        shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        parts = []
        for place_in_stack, layer in enumerate(layers):
            tensor = _tensor(module, layer, leaf, both)
            left.discard(tensor)
            values = _ours(
                _read(folder, tensor), tensor, module, leaf, shape, _of_input(adapter, sites[0])
            )
            if leaf == "stretch":
                values = values - _lengths(sites, base, place_in_stack)
            parts.append(values)
        ends = np.cumsum([shape[-1] for shape in shapes])[:-1]
        for name, values in zip(names, np.split(np.stack(parts), ends, axis=-1), strict=True):
            leaves[name] = place(values, wanted[name])
    if left:
        raise ValueError(f"an adapter's tensors must all be used; {sorted(left)[0]} is not.")
    return leaves


def _leaves(config: TransformerConfig) -> Iterator[tuple[int, str, peft_modules.Module, range]]:
    """(stack, leaf, module, its layers) of all that an adapter may have."""
    for stack, (sparse, layers) in enumerate(config.stacks()):
        for module in peft_modules.of_layer(config, sparse=sparse):
            for leaf in SUFFIXES:
                yield stack, leaf, module, layers


def _tensor(module: peft_modules.Module, layer: int, leaf: str, both: bool) -> str:
    """The name of a leaf's tensor; `both` parameters of experts are wrapped one around another."""
    suffix = SUFFIXES[leaf]
    if module.turned:
        suffix = SUFFIXES[{"down": "up", "up": "down"}.get(leaf, leaf)]
    within = ".base_layer" if both and module.inner else ""
    return f"{START}.{layer}.{module.name}{within}.{suffix}"


def save(
    path: str | os.PathLike[str],
    adapter: peft_config.Config,
    own: Any,
    config: TransformerConfig,
    *,
    base: Any = None,
    base_name: str = "",
) -> None:
    """Writes adapters as a folder that peft reads; whole, or not at all.

    base: the model's weights, which DoRA needs. base_name: their name in adapter_config.json.

    Raises:
      ValueError: peft has no such adapter, or the folder is in use.
    """
    if type(adapter) not in peft_config.Config.__args__:
        raise ValueError(
            f"adapters for peft must be LoRA, IA3 or a prefix; got {type(adapter).__name__}."
        )
    about = peft_config.fields(adapter, config, base_name)
    _check_shape(config, about["peft_type"])
    _check_sizes(own, adapter.declare(transformer.declare(config)))
    if about["peft_type"] == "PREFIX_TUNING":
        tensors = {PROMPT: _prefix_matrix(own, config)}
    else:
        tensors = _written(adapter, trees.named_leaves(own), config, base)
    safetensors_io.write_folder(
        path,
        [
            (name, x.shape, x.dtype, functools.partial(np.asarray, x))
            for name, x in sorted(tensors.items())
        ],
        stem=STEM,
        files={"adapter_config.json": json.dumps(about, indent=2, sort_keys=True).encode()},
    )


def place(values: np.ndarray, info: params.ParamInfo) -> jax.Array:
    """Host values as a parameter in the layout that is declared."""
    array = jnp.asarray(values, jnp.float32)
    if array.shape != info.shape:
        raise ValueError(f"an adapter must have the model's sizes; got {array.shape}.")
    return axes.shard(array, info.axes)


def _check_sizes(own: Any, declared: Any) -> None:
    """Refuses adapters of another configuration, or with a head of their own."""
    infos = jax.tree_util.tree_leaves_with_path(declared, is_leaf=params.is_info)
    wanted = {trees.path_name(path): info.shape for path, info in infos}
    actual = {name: x.shape for name, x in trees.named_leaves(own).items()}
    for name in sorted({*wanted, *actual}):
        if wanted.get(name) != actual.get(name):
            raise ValueError(
                f"adapters must be of the configuration they are saved with; got "
                f"{actual.get(name, 'nothing')} for {name}, not {wanted.get(name, 'nothing')}."
            )


def _of_input(adapter: peft_config.Config, site: str) -> bool:
    """Whether a gain is of a weight's input."""
    return isinstance(adapter, ia3.Ia3Config) and site.rsplit("/", 1)[-1] in adapter.inputs


def _check_shape(config: TransformerConfig, kind: str) -> None:
    if config.mla.kv_rank and kind == "PREFIX_TUNING":
        raise ValueError(
            "a prefix needs keys and values of its own; this model makes them of latents "
            "(model.mla)."
        )


def _written(
    adapter: Any, own: dict[str, Any], config: TransformerConfig, base: Any
) -> dict[str, np.ndarray]:
    """The inverse of `_read_modules`."""
    tensors = {}
    both = {"experts_in", "experts_down"} <= set(adapter.targets)
    for stack, leaf, module, layers in _leaves(config):
        sites = [f"blocks/{stack}/{part}" for part in module.parts]
        held = [own[f"{site}/{leaf}"] for site in sites if f"{site}/{leaf}" in own]
        if not held:
            continue
        joined = np.concatenate([np.asarray(x, np.float32) for x in held], axis=-1)
        for place_in_stack, layer in enumerate(layers):
            values = joined[place_in_stack]
            if leaf == "stretch":
                values = values + _lengths(sites, base, place_in_stack)
            values = _theirs(values, module, leaf, _of_input(adapter, sites[0]))
            tensors[_tensor(module, layer, leaf, both)] = values
    return tensors


def _read(folder: safetensors_io.TensorFolder, tensor: str) -> np.ndarray:
    if tensor not in folder.tensors:
        raise ValueError(f"an adapter must have all layers' tensors; {tensor} is missing.")
    return np.asarray(folder.read(tensor), np.float32)


def _lengths(sites: list[str], base: Any, layer: int) -> np.ndarray:
    """Lengths of a base weight's columns, [outputs...]; of the parts of a matrix side by side."""
    if base is None:
        raise ValueError("DoRA from or to peft needs the base's weights; got none (base).")
    leaves, lengths = trees.named_leaves(base), []
    for site in sites:
        weight = np.asarray(leaves[site][layer], np.float64)
        summed = tuple(range(weight.ndim - 1)) if site.endswith("attention/out") else (0,)
        lengths.append(np.sqrt(np.sum(weight * weight, axis=summed)))
    return np.concatenate(lengths, axis=-1)


def _ours(
    x: np.ndarray,
    tensor: str,
    module: peft_modules.Module,
    leaf: str,
    shape: tuple[int, ...],
    of_input: bool,
) -> np.ndarray:
    """A tensor [out, in] as a leaf [inputs..., outputs...] of one layer; of experts [E, ...]."""
    wanted = _stored_shape(module, leaf, shape, of_input)
    if x.shape != wanted:
        raise ValueError(
            f"an adapter must have the model's sizes; got {list(x.shape)} for {tensor}, which is "
            f"{list(wanted)}. Load it over the model that it was trained on."
        )
    if not module.parameter:
        return x.T.reshape(shape)
    count = shape[0]  # A holds the ranks of one expert together, B those of one number
    if _is_first(module, leaf):
        by_rank = x.reshape(count, -1, x.shape[1])
        return by_rank.transpose(0, 2, 1) if leaf == "down" else by_rank
    by_rank = x.reshape(x.shape[0], -1, count)
    return by_rank.transpose(2, 0, 1) if leaf == "down" else by_rank.transpose(2, 1, 0)


def _theirs(x: np.ndarray, module: peft_modules.Module, leaf: str, of_input: bool) -> np.ndarray:
    """The inverse of `_ours`."""
    stored = _stored_shape(module, leaf, x.shape, of_input)
    if not module.parameter:
        return np.ascontiguousarray(x.reshape(stored[::-1]).T, np.float32)
    if _is_first(module, leaf):
        by_rank = x.transpose(0, 2, 1) if leaf == "down" else x
    else:
        by_rank = x.transpose(1, 2, 0) if leaf == "down" else x.transpose(2, 1, 0)
    return np.ascontiguousarray(by_rank.reshape(stored), np.float32)


def _is_first(module: peft_modules.Module, leaf: str) -> bool:
    """Whether an experts' leaf is stored as peft's A."""
    return (leaf == "down") != module.turned


def _stored_shape(
    module: peft_modules.Module, leaf: str, shape: tuple[int, ...], of_input: bool
) -> tuple[int, ...]:
    """A [R, in], B [out, R], a magnitude [out], a gain [out, 1] or [1, in] of one layer; of experts
    A [E R, in] and B [out, R E]."""
    if module.parameter:
        count, first, second = shape
        rank, width = (second, first) if leaf == "down" else (first, second)
        return (count * rank, width) if _is_first(module, leaf) else (width, rank * count)
    size = int(np.prod(shape))
    return {
        "down": (shape[-1], size // shape[-1]),
        "up": (size // shape[0], shape[0]),
        "stretch": (size,),
        "gain": (1, size) if of_input else (size, 1),
    }[leaf]


def _turned(keys: jax.Array, config: TransformerConfig, kind: str, by: int) -> jax.Array:
    """Keys [P, K, H] rotated by `by` positions, as a layer of that kind rotates them.

    peft counts the tokens' positions from the prefix's length on and rotates them alone; here
    they count from 0. Only differences of positions matter, so the prefix turns back instead.
    """
    if kind == "nope":
        return keys
    # The last of |by| positions: angles are linear in the position.
    cos, sin = rope.angles(config, kind, jnp.full((1, 1), abs(by), jnp.int32), config.head_dim)
    size = jnp.sqrt(cos * cos + sin * sin)  # YaRN lengthens queries and keys; not these
    sin = sin if by >= 0 else -sin
    turn = {"interleaved": config.rope_interleaved}
    return rope.rotate(keys[None].astype(jnp.float32), cos / size, sin / size, **turn)[0]


def _read_prefix(
    folder: safetensors_io.TensorFolder, declared: Any, config: TransformerConfig
) -> Any:
    """Prefixes of all layers from peft's one matrix [P, layers 2 K H]."""
    matrix = _read(folder, PROMPT)
    slots, shape = matrix.shape[0], (config.layers, 2, config.kv_heads, config.head_dim)
    if matrix.ndim != 2 or matrix.shape[1] != np.prod(shape):
        raise ValueError(
            f"prompt_embeddings must be [P, {np.prod(shape)}] for this model; got "
            f"{list(matrix.shape)}. Load it over the model that it was trained on."
        )
    stored = jnp.asarray(matrix).reshape(slots, *shape)
    kinds = config.kinds()

    def one(name: str, info: params.ParamInfo) -> jax.Array:
        numbers = config.stacks()[int(name.split("/")[1])][1]
        if name.endswith("keys"):
            parts = [_turned(stored[:, n, 0], config, kinds[n], -slots) for n in numbers]
        else:
            parts = [stored[:, n, 1] for n in numbers]
        return place(np.stack(parts), info)

    return trees.map_named(one, declared, is_leaf=params.is_info)


def _prefix_matrix(own: Any, config: TransformerConfig) -> np.ndarray:
    """The inverse of `_read_prefix`."""
    kinds, columns = config.kinds(), []
    for block, (_, numbers) in zip(own.blocks, config.stacks(), strict=True):
        prefix = block.attention.prefix
        for place, n in enumerate(numbers):
            slots = prefix.keys.shape[1]
            keys = _turned(prefix.keys[place], config, kinds[n], slots)
            columns += [np.asarray(keys, np.float32), np.asarray(prefix.values[place], np.float32)]
    stacked = np.stack(columns, axis=1)
    return np.ascontiguousarray(stacked.reshape(stacked.shape[0], -1))
