"""peft's tensors of embeddings, unembeddings and modules trained whole (modules_to_save)."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import trees
from alignjax.models.adapters import vocabulary
from alignjax.models.checkpoints import names as stored_names
from alignjax.models.config import TransformerConfig

TOP = "base_model.model"
MODULES = {"embed": "embed_tokens", "unembed": "lm_head"}  # as in target_modules
# Low-rank matrices by path; all stand transposed in their tensors.
LOW = {
    "embed/down": f"{TOP}.model.embed_tokens.lora_embedding_A",
    "embed/up": f"{TOP}.model.embed_tokens.lora_embedding_B",
    "unembed/down": f"{TOP}.lm_head.lora_A.weight",
    "unembed/up": f"{TOP}.lm_head.lora_B.weight",
}
# Tables that peft stores beside their adapters, by path in the base.
BASES = {
    f"{TOP}.model.embed_tokens.base_layer.weight": "embed",
    f"{TOP}.lm_head.base_layer.weight": "unembed",
}


class Copy(NamedTuple):
    """A weight that may be trained whole. tensors: one, or one a layer; turned: [V, D] there."""

    tensors: tuple[str, ...]
    layered: bool
    turned: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """Full names of its modules."""
        return tuple(x.removeprefix(f"{TOP}.").removesuffix(".weight") for x in self.tensors)

    @property
    def entry(self) -> str:
        """What modules_to_save calls it; names are matched by their ends."""
        last = self.modules[0].rpartition(".")[2]
        return "model.norm" if last == "norm" else last


def copies(config: TransformerConfig) -> dict[str, Copy]:
    """What may be trained whole, by path."""

    def none(config: TransformerConfig, source: Any) -> Any:
        return None

    attend = stored_names.latent_attention if config.mla.kv_rank else stored_names.grouped_attention
    sources = stored_names.sources(config, none, dense=none, attend=attend)
    found = {}
    for path, source in trees.named_leaves(sources).items():
        if path.rsplit("/", 1)[-1] in vocabulary.WHOLE:
            tensors = tuple(f"{TOP}.{name}" for name in np.atleast_1d(source.names).reshape(-1))
            found[path] = Copy(tensors, path.startswith("blocks/"), path == "unembed")
    found["unembed"] = Copy((f"{TOP}.lm_head.weight",), False, True)
    return found


def held(tensors: Iterable[str], config: TransformerConfig, *, tie: bool) -> tuple[str, ...]:
    """Names of the weights that a folder's tensors hold whole."""
    found, own = set(tensors), copies(config)
    lasts = [p.rsplit("/", 1)[-1] for p, copy in own.items() if found & {*copy.tensors}]
    return tuple(dict.fromkeys(x for x in lasts if not (tie and x == "unembed")))


def targets(tensors: Iterable[str], *, tie: bool) -> tuple[str, ...]:
    """embed and unembed, where a folder's tensors adapt them."""
    found = {path.partition("/")[0] for path, name in LOW.items() if name in {*tensors}}
    return tuple(x for x in vocabulary.TARGETS if x in found and not (tie and x == "unembed"))


def known(config: TransformerConfig) -> set[str]:
    """All tensors of this file."""
    return {*LOW.values(), *BASES, *(x for copy in copies(config).values() for x in copy.tensors)}


def check_saved(
    entries: Iterable[str], whole: tuple[str, ...], config: TransformerConfig, where: str
) -> None:
    """Refuses modules_to_save that are not those of the folder's tensors.

    Raises:
      ValueError: an entry is no module that can be trained whole, or has no tensors, or tensors
        have no entry.
    """
    own = copies(config)
    modules = {m: p.rsplit("/", 1)[-1] for p, copy in own.items() for m in copy.modules}
    said = set()
    for entry in entries:
        matching = {last for module, last in modules.items() if module.endswith(entry)}
        if not matching & {*whole}:
            names = dict.fromkeys(copy.entry for copy in own.values())
            raise ValueError(
                f"modules_to_save must be modules that the folder has tensors for, among "
                f"{', '.join(names)}; got {entry!r:.80} ({where})."
            )
        said |= matching
    silent = [name for name in whole if name not in said]
    if silent:
        raise ValueError(
            f"modules_to_save must name all modules with tensors of their own; {silent[0]} is "
            f"missing ({where})."
        )


def read(tensors: Mapping[str, np.ndarray], path: str, config: TransformerConfig) -> np.ndarray:
    """The leaf of that path, on the host; `tensors` reads by name."""
    if path in LOW:
        return np.ascontiguousarray(tensors[LOW[path]].T)
    copy = copies(config)[path.removesuffix("/value")]
    parts = [tensors[name] for name in copy.tensors]
    if copy.layered:
        return np.stack(parts)
    return np.ascontiguousarray(parts[0].T) if copy.turned else parts[0]


def written(
    own: Mapping[str, Any], config: TransformerConfig, *, tie: bool
) -> dict[str, np.ndarray]:
    """Tensors by name, of an adapter's leaves by path. tie: an unembedding that is the embedding's
    has the same numbers again, as peft writes it."""
    tensors: dict[str, np.ndarray] = {}
    known_copies = copies(config)
    if tie:
        twins = {"embed/up": "unembed/down", "embed/down": "unembed/up"}
        own = {**own, **{twins[n]: np.asarray(own[n]).T for n in twins if n in own}}
        if "embed/value" in own:
            own = {**own, "unembed/value": np.asarray(own["embed/value"]).T}
    for path, x in own.items():
        if path in LOW:
            tensors[LOW[path]] = np.ascontiguousarray(np.asarray(x, np.float32).T)
        elif path.endswith("/value"):
            copy, values = known_copies[path.removesuffix("/value")], np.asarray(x, np.float32)
            values = values.T if copy.turned else values
            parts = list(values) if copy.layered else [values]
            tensors |= zip(copy.tensors, map(np.ascontiguousarray, parts), strict=True)
    return tensors
