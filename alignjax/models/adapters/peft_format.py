"""Adapters from and to peft's folders: adapter_config.json and adapter_model.safetensors."""

import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import trees
from alignjax.models import params, rope, transformer
from alignjax.models.adapters import ia3, peft_config
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
NAME = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.(\w+\.\w+)\.("
    + "|".join(re.escape(suffix) for suffix in SUFFIXES.values())
    + ")"
)
PROMPT = "prompt_embeddings"
CONFIG_LIMIT = 10_000_000  # bytes


def load(
    path: str | os.PathLike, config: TransformerConfig, base: Any = None
) -> tuple[peft_config.Config, Any]:
    """(configuration, adapters) of a folder that peft wrote, for a model of that shape.

    base: the model's weights; DoRA needs them, since it is kept as the difference from the length
    of their columns.

    Raises:
      ValueError: no such folder, a field or tensor that is not understood, or other sizes; one
        line that names it.
    """
    path = pathlib.Path(path)
    _check_shape(config)
    file = path / "adapter_config.json"
    if not file.is_file() or file.stat().st_size > CONFIG_LIMIT:
        raise ValueError(f"an adapter's folder must hold adapter_config.json; got {path}.")
    values = safetensors_format.parse_json(file.read_bytes(), str(file))
    kind = peft_config.check(values, str(file))
    folder = safetensors_io.open_folder(path, STEM)
    modules = []
    for name in folder.tensors:
        match = NAME.fullmatch(name)
        module = match[2] if match else ""
        known = module in peft_config.MODULES.values() and int(match[1]) < config.layers  # type: ignore[index]
        if name != PROMPT if kind == "PREFIX_TUNING" else not known:
            raise ValueError(
                f"an adapter's tensors must be those of the model's layers; got {name!r:.200}, "
                f"which none of {config.layers} layers has ({path})."
            )
        modules.append(module.rpartition(".")[2])
    adapter = peft_config.parse(values, modules, config, str(file))
    adapter.validate()
    declared = adapter.declare(transformer.declare(config))
    if kind == "PREFIX_TUNING":
        return adapter, _read_prefix(folder, declared, config)
    left = set(folder.tensors)

    def one(name: str, info: params.ParamInfo) -> jax.Array:
        parts = []
        for site, layer, tensor in _tensors(name, config):
            left.discard(tensor)
            values = _ours(_read(folder, tensor), name, info, _of_input(adapter, site))
            if name.endswith("stretch"):
                values = values - _lengths(site, base, layer)
            parts.append(values)
        return place(np.stack(parts), info)

    tree = trees.map_named(one, declared, is_leaf=params.is_info)
    if left:
        raise ValueError(
            f"an adapter's tensors must all be used; {sorted(left)[0]} is not ({path})."
        )
    return adapter, tree


def save(
    path: str | os.PathLike,
    adapter: peft_config.Config,
    own: Any,
    config: TransformerConfig,
    *,
    base: Any = None,
    base_name: str = "",
) -> None:
    """Writes adapters as a folder that peft reads; whole, or not at all.

    base: the model's weights, which DoRA needs. base_name: what adapter_config.json says of them.

    Raises:
      ValueError: peft has no such adapter, or the folder is in use.
    """
    _check_shape(config)
    if type(adapter) not in peft_config.Config.__args__:
        raise ValueError(
            f"adapters for peft must be LoRA, IA3 or a prefix; got {type(adapter).__name__}."
        )
    about = peft_config.fields(adapter, config, base_name)
    _check_sizes(own, adapter.declare(transformer.declare(config)))
    if about["peft_type"] == "PREFIX_TUNING":
        tensors = {PROMPT: _prefix_matrix(own, config)}
    else:
        tensors = {}
        leaves = trees.named_leaves(own)
        for name, whole in leaves.items():
            for site, layer, tensor in _tensors(name, config):
                values = np.asarray(whole[layer], np.float32)
                if name.endswith("stretch"):
                    values = values + _lengths(site, base, layer)
                tensors[tensor] = _theirs(values, name, _of_input(adapter, site))
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
    found = {name: x.shape for name, x in trees.named_leaves(own).items()}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"adapters must be of the configuration they are saved with; got "
                f"{found.get(name, 'nothing')} for {name}, not {wanted.get(name, 'nothing')}."
            )


def _of_input(adapter: peft_config.Config, site: str) -> bool:
    """Whether a gain is of a weight's input."""
    return isinstance(adapter, ia3.Ia3Config) and site.rsplit("/", 1)[-1] in adapter.inputs


def _check_shape(config: TransformerConfig) -> None:
    if config.mla.kv_rank or config.moe.experts:
        raise ValueError(
            "peft's adapters are read and written for dense grouped-query models; this one has "
            "latents or experts (model.mla, model.moe)."
        )


def _tensors(name: str, config: TransformerConfig) -> Iterator[tuple[str, int, str]]:
    """(weight's path, place in its stack, tensor's name) of every layer of a leaf's path."""
    site, leaf = name.rsplit("/", 1)
    _, stack, _, target = site.split("/")
    for place, layer in enumerate(config.stacks()[int(stack)][1]):
        module = f"base_model.model.model.layers.{layer}.{peft_config.MODULES[target]}"
        yield site, place, f"{module}.{SUFFIXES[leaf]}"


def _read(folder: safetensors_io.TensorFolder, tensor: str) -> np.ndarray:
    if tensor not in folder.tensors:
        raise ValueError(f"an adapter must have all layers' tensors; {tensor} is missing.")
    return np.asarray(folder.read(tensor), np.float32)


def _lengths(site: str, base: Any, layer: int) -> np.ndarray:
    """Lengths of a base weight's columns, [outputs...]."""
    if base is None:
        raise ValueError("DoRA from or to peft needs the base's weights; got none (base).")
    weight = np.asarray(trees.named_leaves(base)[site][layer], np.float64)
    summed = tuple(range(weight.ndim - 1)) if site.endswith("attention/out") else (0,)
    return np.sqrt(np.sum(weight * weight, axis=summed))


def _ours(x: np.ndarray, name: str, info: params.ParamInfo, of_input: bool) -> np.ndarray:
    """A tensor [out, in] as a leaf [inputs..., outputs...] of one layer."""
    shape = info.shape[1:]
    wanted = _stored_shape(name, shape, of_input)
    if x.shape != wanted:
        raise ValueError(
            f"an adapter must have the model's sizes; got {list(x.shape)} for {name}, which is "
            f"{list(wanted)}. Load it over the model that it was trained on."
        )
    return x.T.reshape(shape)


def _theirs(x: np.ndarray, name: str, of_input: bool) -> np.ndarray:
    """The inverse of `_ours`."""
    turned = x.reshape(_stored_shape(name, x.shape, of_input)[::-1]).T
    return np.ascontiguousarray(turned, np.float32)


def _stored_shape(name: str, shape: tuple[int, ...], of_input: bool) -> tuple[int, ...]:
    """A [R, in], B [out, R], a magnitude [out], a gain [out, 1] or [1, in] of one layer."""
    size, leaf = int(np.prod(shape)), name.rsplit("/", 1)[-1]
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
    each = jnp.asarray(matrix).reshape(slots, *shape)
    kinds = config.kinds()

    def one(name: str, info: params.ParamInfo) -> jax.Array:
        numbers = config.stacks()[int(name.split("/")[1])][1]
        if name.endswith("keys"):
            parts = [_turned(each[:, n, 0], config, kinds[n], -slots) for n in numbers]
        else:
            parts = [each[:, n, 1] for n in numbers]
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
