"""peft's adapter_config.json, field by field."""

import re
from collections.abc import Mapping
from typing import Any

from alignjax.models.adapters import ia3, lora, prefix
from alignjax.models.config import TransformerConfig

# Our names of weights, and the modules that hold them in every Llama-like model.
MODULES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
TARGETS = {module.split(".")[1]: target for target, module in MODULES.items()}

# Fields that say nothing about what the stored numbers compute.
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


def parse(
    values: Mapping[str, Any], modules: list[str], config: TransformerConfig, where: str
) -> Config:
    """The configuration of an adapter that holds tensors for `modules` ("q_proj", ...).

    Raises:
      ValueError: a field is unknown, or differs between the layers of one module.
    """
    kind = check(values, where)
    if kind == "PREFIX_TUNING":
        return prefix.PrefixConfig(length=values["num_virtual_tokens"], gated=False)
    targets = tuple(target for module, target in TARGETS.items() if module in modules)
    if kind == "IA3":
        inner = values.get("feedforward_modules") or []
        if isinstance(inner, str):
            inner = [module for module in modules if re.fullmatch(inner, module)]
        inputs = tuple(t for m, t in TARGETS.items() if t in targets and m in inner)
        return ia3.Ia3Config(targets=targets, inputs=inputs)
    found = {}
    for name, pattern, default, number in (
        ("rank", "rank_pattern", "r", int),
        ("alpha", "alpha_pattern", "lora_alpha", float),
    ):
        plain = values.get(default, 8)
        each = {t: _uniform(values, pattern, plain, t, config, where) for t in targets}
        found[name] = plain
        found[f"{name}s"] = tuple(f"{t}={number(n)}" for t, n in each.items() if n != plain)
    return lora.LoraConfig(
        **{**found, "alpha": float(found["alpha"])},
        targets=targets,
        stabilised=bool(values.get("use_rslora", False)),
        dora=bool(values.get("use_dora", False)),
        dropout=float(values.get("lora_dropout", 0.0)),
    )


def _uniform(
    values: Mapping[str, Any],
    field: str,
    plain: Any,
    target: str,
    config: TransformerConfig,
    where: str,
) -> Any:
    """A target's number by the first pattern that ends in each of its modules' full names."""
    found = set()
    for layer in range(config.layers):
        module = f"model.layers.{layer}.{MODULES[target]}"
        fitting = (
            number
            for pattern, number in (values.get(field) or {}).items()
            if re.match(rf"(.*\.)?({pattern})$", module)
        )
        found.add(next(fitting, plain))
    if len(found) != 1:
        raise ValueError(
            f"{field} must give all layers of {MODULES[target]} one number; got "
            f"{', '.join(map(str, sorted(found)))} ({where})."
        )
    return found.pop()


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
    modules = {target: MODULES[target].split(".")[1] for target in adapter.targets}
    about["target_modules"] = sorted(modules.values())
    if isinstance(adapter, ia3.Ia3Config):
        return about | {
            "peft_type": "IA3",
            "feedforward_modules": sorted(modules[target] for target in adapter.inputs),
        }
    ranks = {modules[t]: adapter.rank_of(t) for t in adapter.targets}
    alphas = {modules[t]: adapter.alpha_of(t) for t in adapter.targets}
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
