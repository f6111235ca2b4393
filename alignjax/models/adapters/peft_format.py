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

from alignjax.core import trees, untrusted
from alignjax.models import params, transformer
from alignjax.models.adapters import (
    ia3,
    lora,
    peft_config,
    peft_modules,
    peft_prefix,
    peft_vocabulary,
)
from alignjax.models.checkpoints import safetensors_format, safetensors_io
from alignjax.models.config import TransformerConfig

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
    if not file.exists():
        raise ValueError(f"an adapter's folder must hold adapter_config.json; got {path}.")
    content = untrusted.read_bytes(file, CONFIG_LIMIT)
    values = safetensors_format.parse_json(content, str(file))
    kind = peft_config.check(values, str(file))
    peft_config.check_shape(config, kind)
    folder = safetensors_io.open_folder(path, STEM)
    if kind == "PREFIX_TUNING":
        _check_names(set(folder.tensors), {PROMPT}, config, path)
        adapter = peft_config.parse(values, set(), config, str(file))
        adapter.validate()
        return adapter, _prefix(folder, adapter, config)
    found, is_lora = set(folder.tensors), kind == "LORA"
    both = _wrapped_twice(found)
    told = values.get("target_parameters") or ()  # one alone has the name of either
    known = {
        _tensor(module, layer, leaf, both, number): module.key
        for sparse, layers in config.stacks()
        for module in peft_modules.of_layer(config, sparse=sparse)
        if not module.parameter or module.last in told
        for layer in layers
        for leaf in SUFFIXES
        for number in range(config.moe.experts if module.per_expert else 1)
    }
    own = peft_vocabulary.known(config) if is_lora else set()
    _check_names(found, {*known, *own}, config, path)
    tie = is_lora and peft_config.ties(values, config)
    modules = {known[name] for name in found if name in known}
    adapter = peft_config.parse(
        values,
        modules,
        config,
        str(file),
        vocabulary=peft_vocabulary.targets(found, tie=tie) if is_lora else (),
        whole=peft_vocabulary.held(found, config, tie=tie) if is_lora else (),
    )
    adapter.validate()
    declared = adapter.declare(transformer.declare(config))
    infos = jax.tree_util.tree_leaves_with_path(declared, is_leaf=params.is_info)
    wanted = {trees.path_name(path): info for path, info in infos}
    leaves = _read_modules(folder, adapter, wanted, config, base, both, modules)
    leaves |= _read_vocabulary(folder, wanted, config)
    _check_tables(folder, base)
    return adapter, trees.map_named(lambda n, _: leaves[n], declared, is_leaf=params.is_info)


def _prefix(folder: safetensors_io.TensorFolder, adapter: Any, config: TransformerConfig) -> Any:
    declared = adapter.declare(transformer.declare(config))
    return peft_prefix.leaves(_read(folder, PROMPT), declared, config)


def _check_names(names: set[str], known: set[str], config: TransformerConfig, path: Any) -> None:
    for name in sorted(names - known)[:1]:
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
    modules: set[str],
) -> dict[str, jax.Array]:
    """The leaves of an adapter's modules, by path.

    Raises:
      ValueError: a tensor is missing, has another size, or is not used.
    """
    leaves = {}
    left = set(folder.tensors) - peft_vocabulary.known(config)
    for stack, leaf, module, layers in _leaves(config, modules):
        sites = [f"blocks/{stack}/{part}" for part in module.parts]
        names = [f"{site}/{leaf}" for site in sites if f"{site}/{leaf}" in wanted]
        if not names:
            continue
        shapes = [wanted[name].shape[1:] for name in names]
        shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        parts = []
        for place_in_stack, layer in enumerate(layers):
            ours = []
            for number in range(shape[0] if module.per_expert else 1):
                tensor = _tensor(module, layer, leaf, both, number)
                left.discard(tensor)
                one = shape[1:] if module.per_expert else shape
                x, of_input = _read(folder, tensor), _of_input(adapter, sites[0])
                ours.append(_ours(x, tensor, module, leaf, one, of_input))
            values = np.stack(ours) if module.per_expert else ours[0]
            if leaf == "stretch":
                values = values - _lengths(sites, base, place_in_stack)
            parts.append(values)
        ends = np.cumsum([shape[-1] for shape in shapes])[:-1]
        for name, values in zip(names, np.split(np.stack(parts), ends, axis=-1), strict=True):
            leaves[name] = params.place(values, wanted[name])
    if left:
        raise ValueError(f"an adapter's tensors must all be used; {sorted(left)[0]} is not.")
    return leaves


def _read_vocabulary(
    folder: safetensors_io.TensorFolder, wanted: dict[str, params.ParamInfo], config: Any
) -> dict[str, jax.Array]:
    """The leaves of embedding and unembedding, and of what is trained whole, by path."""

    class Tensors(dict[str, np.ndarray]):
        def __missing__(self, name: str) -> np.ndarray:
            return _read(folder, name)

    leaves = {}
    for path, info in wanted.items():
        if path in peft_vocabulary.LOW or path.endswith("/value"):
            values = peft_vocabulary.read(Tensors(), path, config)
            if values.shape != info.shape:
                raise ValueError(
                    f"an adapter must have the model's sizes; got {list(values.shape)} for {path}, "
                    f"which is {list(info.shape)}. Load it over the model that it was trained on."
                )
            leaves[path] = params.place(values, info)
    return leaves


def _check_tables(folder: safetensors_io.TensorFolder, base: Any) -> None:
    """Refuses tables stored beside adapters that are not the base's: a vocabulary that grew."""
    for tensor, path in peft_vocabulary.BASES.items():
        if base is None or tensor not in folder.tensors:
            continue
        own = base.embed if path == "embed" or base.unembed is None else base.unembed.T
        if not np.array_equal(_read(folder, tensor), np.asarray(own, np.float32)):
            raise ValueError(
                f"tables stored with an adapter must be those of its base; {tensor} has other "
                "numbers. Load it over the model with that vocabulary."
            )


def _leaves(
    config: TransformerConfig, modules: set[str]
) -> Iterator[tuple[int, str, peft_modules.Module, range]]:
    """(stack, leaf, module, its layers) of all that an adapter of these modules may have."""
    for stack, (sparse, layers) in enumerate(config.stacks()):
        for module in peft_modules.of_layer(config, sparse=sparse):
            for leaf in SUFFIXES if module.key in modules else ():
                yield stack, leaf, module, layers


def _tensor(module: peft_modules.Module, layer: int, leaf: str, both: bool, number: int = 0) -> str:
    """The name of a leaf's tensor, of expert `number` where each has its own.

    `both` parameters of experts are wrapped one around another.
    """
    suffix = SUFFIXES[leaf]
    if module.turned:
        suffix = SUFFIXES[{"down": "up", "up": "down"}.get(leaf, leaf)]
    within = ".base_layer" if both and module.inner else ""
    return f"{START}.{layer}.{module.name.format(number)}{within}.{suffix}"


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
    declared = transformer.declare(config)
    if isinstance(adapter, lora.LoraConfig):
        adapter = adapter.of(declared)
    about = peft_config.fields(adapter, config, base_name)
    peft_config.check_shape(config, about["peft_type"])
    peft_config.check_experts(config, getattr(adapter, "targets", ()))
    _check_sizes(own, adapter.declare(declared))
    if about["peft_type"] == "PREFIX_TUNING":
        tensors = {PROMPT: peft_prefix.matrix(own, config)}
    else:
        leaves, tie = trees.named_leaves(own), isinstance(adapter, lora.LoraConfig) and adapter.tie
        tensors = _written(adapter, leaves, config, base)
        tensors |= peft_vocabulary.written(leaves, config, tie=tie)
    safetensors_io.write_folder(
        path,
        [
            (name, x.shape, x.dtype, functools.partial(np.asarray, x))
            for name, x in sorted(tensors.items())
        ],
        stem=STEM,
        files={"adapter_config.json": json.dumps(about, indent=2, sort_keys=True).encode()},
    )


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


def _written(
    adapter: Any, own: dict[str, Any], config: TransformerConfig, base: Any
) -> dict[str, np.ndarray]:
    """The inverse of `_read_modules`."""
    tensors = {}
    both = {"experts_in", "experts_down"} <= set(adapter.targets)
    chosen = peft_modules.chosen(config, adapter.targets)
    for stack, leaf, module, layers in _leaves(config, chosen):
        sites = [f"blocks/{stack}/{part}" for part in module.parts]
        held = [own[f"{site}/{leaf}"] for site in sites if f"{site}/{leaf}" in own]
        if not held:
            continue
        joined = np.concatenate([np.asarray(x, np.float32) for x in held], axis=-1)
        for place_in_stack, layer in enumerate(layers):
            values = joined[place_in_stack]
            if leaf == "stretch":
                values = values + _lengths(sites, base, place_in_stack)
            for number, x in enumerate(values if module.per_expert else [values]):
                name = _tensor(module, layer, leaf, both, number)
                tensors[name] = _theirs(x, module, leaf, _of_input(adapter, sites[0]))
    return tensors


def _read(folder: safetensors_io.TensorFolder, tensor: str) -> np.ndarray:
    if tensor not in folder.tensors:
        raise ValueError(f"an adapter must have all layers' tensors; {tensor} is missing.")
    return np.asarray(folder.read(tensor), np.float32)


def _lengths(sites: list[str], base: Any, layer: int) -> np.ndarray:
    """Lengths of a base weight's columns, [outputs...]; of the parts of a matrix side by side."""
    if base is None:
        raise ValueError("DoRA from or to peft needs the base's weights; got none (base).")
    nodes = jax.tree_util.tree_leaves_with_path(base, is_leaf=lambda x: hasattr(x, "whole"))
    leaves, lengths = {trees.path_name(path): x for path, x in nodes}, []
    for site in sites:
        one = jax.tree.map(lambda x: x[layer], leaves[site])
        weight = np.asarray(lora.dense(one, jnp.float32), np.float64)
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
