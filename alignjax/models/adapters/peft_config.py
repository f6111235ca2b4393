"""peft's adapter_config.json, field by field."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.models.adapters import ia3, lora, peft_modules, peft_vocabulary, prefix
from alignjax.models.config import TransformerConfig

# Fields that do not change what the stored numbers compute.
ABOUT = (
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "init_ia3_weights",
    "init_weights",
    "megatron_core",
    "qalora_group_size",
    "layers_pattern",
)
READ = {
    "LORA": (
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "lora_dropout",
        "target_parameters",
        "modules_to_save",
        "ensure_weight_tying",
    ),
    "IA3": ("feedforward_modules",),
    "PREFIX_TUNING": (
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "num_attention_heads",
        "num_layers",
        "encoder_hidden_size",  # of a projection, which is not stored
    ),
}
# Values that change nothing; a field with another one is refused by its name.
IDLE: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    # Other ways to begin change the base's weights too, and only the adapter is stored.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
IDLE_BY_DEFAULT: tuple[Any, ...] = (None, False, {}, [], "")

Config = lora.LoraConfig | ia3.Ia3Config | prefix.PrefixConfig


def check(values: Mapping[str, Any], where: str) -> str:
    """The kind of adapter, after checking that every field is read or changes nothing.

    Raises:
      ValueError: another kind, or a field that changes what is computed in a way not known here.
    """
    kind = values.get("peft_type")
    if kind not in READ:
        raise ValueError(f"peft_type must be one of {', '.join(READ)}; got {kind!r:.80} ({where}).")
    for name, value in values.items():
        if name in ABOUT or name in READ[kind]:
            continue
        idle = IDLE.get(name, IDLE_BY_DEFAULT)
        if not any(value == legal and type(value) is type(legal) for legal in idle):
            raise ValueError(
                f"{name} must be {' or '.join(map(repr, idle[:2]))}, since it changes what the "
                f"adapter computes; got {value!r:.80} ({where})."
            )
    return str(kind)


def ties(values: Mapping[str, Any], config: TransformerConfig) -> bool:
    """Whether what is done to the embedding is done to its unembedding: peft's request for it does
    nothing where they are not tied."""
    return bool(values.get("ensure_weight_tying", False)) and config.tied


def parse(
    values: Mapping[str, Any],
    modules: set[str],
    config: TransformerConfig,
    where: str,
    *,
    vocabulary: tuple[str, ...] = (),
    whole: tuple[str, ...] = (),
) -> Config:
    """The configuration of an adapter that holds tensors for `modules`, by `Module.key`.

    vocabulary: of embed and unembed those that it adapts. whole: what it holds whole.

    Raises:
      ValueError: a field is unknown, or differs between the layers of one module.
    """
    kind = check(values, where)
    if kind == "PREFIX_TUNING":
        return prefix.PrefixConfig(length=values["num_virtual_tokens"], gated=False)
    held = [module for module in peft_modules.every(config) if module.key in modules]
    targets = tuple(dict.fromkeys(target for module in held for target in module.targets))
    if kind == "IA3":
        inner = values.get("feedforward_modules") or []
        if isinstance(inner, str):
            inner = [module for module in modules if re.fullmatch(inner, module)]
        inputs = {target for module in held if module.last in inner for target in module.targets}
        return ia3.Ia3Config(targets=targets, inputs=tuple(t for t in targets if t in inputs))
    _check_parameters(values, held, config, where)
    peft_vocabulary.check_saved(values.get("modules_to_save") or (), whole, config, where)
    targets = (*targets, *vocabulary)
    fields = {}
    for name, pattern, default, number in (
        ("rank", "rank_pattern", "r", int),
        ("alpha", "alpha_pattern", "lora_alpha", float),
    ):
        plain = values.get(default, 8)
        by_target = {t: _uniform(values, pattern, plain, t, held, config, where) for t in targets}
        fields[name] = plain
        fields[f"{name}s"] = tuple(f"{t}={number(n)}" for t, n in by_target.items() if n != plain)
    return lora.LoraConfig(
        **{**fields, "alpha": float(fields["alpha"])},
        targets=targets,
        stabilised=bool(values.get("use_rslora", False)),
        dora=bool(values.get("use_dora", False)),
        dropout=float(values.get("lora_dropout", 0.0)),
        whole=whole,
        tie=ties(values, config),
    )


def _check_parameters(
    values: Mapping[str, Any],
    held: list[peft_modules.Module],
    config: TransformerConfig,
    where: str,
) -> None:
    """Refuses parameters that are no stacks of this model's experts, or have no tensors."""
    experts = set(values.get("target_parameters") or ())
    wanted = {module.last for module in held if module.parameter}
    if experts != wanted:
        known = {module.last for module in peft_modules.every(config) if module.parameter}
        raise ValueError(
            "target_parameters must be those that the folder has tensors for, among "
            f"{', '.join(sorted(known)) or 'none'}; got {', '.join(sorted(experts)) or 'none'} "
            f"({where})."
        )


def _uniform(
    values: Mapping[str, Any],
    field: str,
    plain: Any,
    target: str,
    held: list[peft_modules.Module],
    config: TransformerConfig,
    where: str,
) -> Any:
    """A target's number by the first pattern that ends in each of its modules' full names."""
    matches, names = set(), set()
    for path in _full_names(target, held, config):
        names.add(re.sub(r"^model\.layers\.\d+\.", "", path))
        fitting = (
            number
            for pattern, number in (values.get(field) or {}).items()
            if re.match(rf"(.*\.)?({pattern})$", path)
        )
        matches.add(next(fitting, plain))
    if len(matches) != 1:
        raise ValueError(
            f"{field} must give all layers of {', '.join(sorted(names))} one number; got "
            f"{', '.join(map(str, sorted(matches)))} ({where})."
        )
    return matches.pop()


def _full_names(
    target: str, held: list[peft_modules.Module], config: TransformerConfig
) -> Iterator[str]:
    """Names of all modules of a target, from the model's own."""
    if target in peft_vocabulary.MODULES:
        yield {"embed": "model.embed_tokens", "unembed": "lm_head"}[target]
    for sparse, layers in config.stacks():
        modules = peft_modules.of_layer(config, sparse=sparse)
        for module in (x for x in modules if target in x.targets and x in held):
            path = f"{module.name}.{module.parameter}" if module.parameter else module.name
            for layer in layers:
                for number in range(config.moe.experts if module.per_expert else 1):
                    yield f"model.layers.{layer}.{path.format(number)}"


def fields(adapter: Config, config: TransformerConfig, base: str) -> dict[str, Any]:
    """adapter_config.json of a configuration. `base`: name or folder of the base's weights.

    Raises:
      ValueError: peft has no such adapter.
    """
    about: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "inference_mode": True,
    }
    if isinstance(adapter, prefix.PrefixConfig):
        if adapter.gated:
            raise ValueError(
                "a prefix for peft must have no gate; got adapter.gated=True (adapter). peft has "
                "none: train with adapter.gated=False."
            )
        return about | {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": adapter.length,
            "num_layers": config.layers,
            "num_attention_heads": config.kv_heads,
            "num_transformer_submodules": 1,
            "token_dim": config.kv_heads * config.head_dim,
            "prefix_projection": False,
        }
    chosen = peft_modules.chosen(config, adapter.targets)
    held = [
        (module, target)
        for module in peft_modules.every(config)
        for target in module.targets
        if module.key in chosen and target in adapter.targets
    ]
    own = {n: module for n, module in peft_vocabulary.MODULES.items() if n in adapter.targets}
    names = {module.last for module, _ in held if not module.parameter}
    about["target_modules"] = sorted({*names, *own.values()})
    if isinstance(adapter, ia3.Ia3Config):
        inner = sorted({module.last for module, target in held if target in adapter.inputs})
        return about | {"peft_type": "IA3", "feedforward_modules": inner}
    by_pattern = {module.pattern: target for module, target in held}
    by_pattern |= {module: target for target, module in own.items()}
    ranks = {name: adapter.rank_of(target) for name, target in by_pattern.items()}
    alphas = {name: adapter.alpha_of(target) for name, target in by_pattern.items()}
    parameters = sorted({module.last for module, _ in held if module.parameter})
    if parameters:
        about["target_parameters"] = parameters
    if adapter.whole:
        copies = peft_vocabulary.copies(config)
        saved = {c.entry for p, c in copies.items() if p.rsplit("/", 1)[-1] in adapter.whole}
        about["modules_to_save"] = sorted(saved)
    if adapter.tie:
        about["ensure_weight_tying"] = True
    return about | {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "rank_pattern": {m: n for m, n in ranks.items() if n != adapter.rank},
        "alpha_pattern": {m: n for m, n in alphas.items() if n != adapter.alpha},
        "use_rslora": adapter.stabilised,
        "use_dora": adapter.dora,
        "lora_dropout": adapter.dropout,
        "bias": "none",
    }


def check_shape(config: TransformerConfig, kind: str) -> None:
    """Refuses a model whose maps peft can't name."""
    why = "makes keys and values of latents (model.mla)" if config.mla.kv_rank else ""
    if config.rope.by_length():
        why = f"turns keys by a row's length (model.rope.kind={config.rope.kind})"
    if why and kind == "PREFIX_TUNING":
        raise ValueError(f"a prefix needs keys and values of its own; this model {why}.")
    if config.attention_gate or {"delta", "conv"} & {*config.kinds()}:
        raise ValueError(
            "adapters for peft must be of a model whose maps are matrices of their own; this one "
            "has several in one (gated attention, gated delta rule, short convolution). Merge them "
            "into the weights instead: alignjax export writes the whole model."
        )
    if config.wide.head_dim or config.lent.layers:
        raise ValueError(
            "adapters for peft must be of a model whose layers have the same maps; this one has "
            "full layers of other heads, or layers without keys (Gemma 4). Merge them into the "
            "weights instead: alignjax export writes the whole model."
        )


def check_experts(config: TransformerConfig, targets: tuple[str, ...]) -> None:
    """Refuses adapters of experts whose gate and way in alternate in one tensor (GPT-OSS)."""
    named = [target for target in targets if target.startswith("experts")]
    if config.moe.clamp and named:
        raise ValueError(
            f"adapters for peft must be of attention alone in this family; got {', '.join(named)} "
            "(adapter.targets). Export the merged model instead, without --adapters."
        )
