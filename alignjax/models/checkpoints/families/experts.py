"""What families with experts share.

Router losses of a `config.json` (`router_aux_loss_coef`) are not taken over: they are choices of a
training run, off until `model.moe.balance_loss` is set.
"""

from typing import Any

from alignjax.models import layers, moe
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.checkpoints.names import Layer
from alignjax.models.checkpoints.sources import Source
from alignjax.models.config import TransformerConfig


def training_only(fields: Fields) -> None:
    """Fields that change a training run in other libraries, and nothing of the function."""
    fields.only("router_jitter_noise", 0, 0.0)
    for name in ("output_router_logits", "router_aux_loss_coef"):
        fields.take(name, None)


def count(fields: Fields, default: int) -> int:
    """Experts: newer files write `num_local_experts` for all families."""
    older = fields.take("num_experts", None)
    if fields.has("num_local_experts"):
        count = fields.size("num_local_experts", most=1e5)
        if older is not None and older != count:
            raise fields.error("num_experts", f"be num_local_experts, {count}", repr(older))
        return count
    return Fields({"num_experts": older}, fields.where).size("num_experts", default, most=1e5)


def active(fields: Fields, default: int) -> int:
    return fields.size("num_experts_per_tok", default, most=1e5)


def routed(fields: Fields, default: int) -> int:
    """DeepSeek's experts and GLM's, which newer files may name as the other families do too."""
    count = fields.size("n_routed_experts", default, most=1e5)
    for name in ("num_local_experts", "num_experts"):
        fields.only(name, count)
    return count


def first(fields: Fields, default: int) -> int:
    """The first layer with experts, of families that begin with dense ones."""
    first = fields.take("first_k_dense_replace", default)
    if type(first) is not int or first < 0:
        raise fields.error("first_k_dense_replace", "be a whole number", repr(first))
    return first


def described_groups(config: TransformerConfig) -> dict[str, Any]:
    """Fields of experts that DeepSeek and GLM write alike, without layers for further tokens."""
    routed = config.moe
    return {
        "n_routed_experts": routed.experts,
        "n_shared_experts": routed.shared_ff // routed.ff,
        "moe_intermediate_size": routed.ff,
        "n_group": routed.groups,
        "topk_group": routed.active_groups,
        "norm_topk_prob": routed.normalise,
        "routed_scaling_factor": routed.scale,
        "first_k_dense_replace": routed.first,
        "num_nextn_predict_layers": 0,
    }


def numbers(fields: Fields, name: str, layers: int) -> list[int] | None:
    """Numbers of layers, or None where there are none."""
    numbers = fields.take(name, None)
    if numbers is None:
        return None
    whole = isinstance(numbers, list) and all(type(n) is int and 0 <= n < layers for n in numbers)
    if not whole:
        raise fields.error(name, f"be a list of layers below {layers}", repr(numbers))
    return sorted(set(numbers))


def described(config: TransformerConfig, kind: str, architecture: str) -> dict[str, Any]:
    """Fields that all families with experts write alike; the width of a head is not among them."""
    fields = common.described(config, kind, architecture)
    del fields["head_dim"]
    return {**fields, "num_experts_per_tok": config.moe.active}


def stacked(count: int, source: Layer, name: str, axes: str) -> Any:
    """A source over layers and experts, from the name of one expert's tensor with its number."""
    columns = [source(name.format(number)).names for number in range(count)]
    return Source(tuple(zip(*columns, strict=True)), axes)


def mixture(
    config: TransformerConfig, source: Layer, *, inside: str, parts: tuple[str, str, str]
) -> moe.Moe:
    """Sources of experts that are stored one by one; `parts` names gate, up and down."""
    gate, up, down = (f"{inside}.experts.{{}}.{part}.weight" for part in parts)
    shared = f"{inside}.shared_experts"
    correction = f"{inside}.gate.e_score_correction_bias"
    count = config.moe.experts
    return moe.Moe(
        router=source(f"{inside}.gate.weight", "e d -> d e"),
        gate=stacked(count, source, gate, "f d -> d f"),
        up=stacked(count, source, up, "f d -> d f"),
        down=stacked(count, source, down, "d f -> f d"),
        shared=mlp(source, shared) if config.moe.shared_ff else None,
        correction=source(correction) if config.moe.bias_correction else None,
    )


def mlp(source: Layer, inside: str) -> layers.Mlp:
    return layers.Mlp(
        gate=source(f"{inside}.gate_proj.weight", "f d -> d f"),
        up=source(f"{inside}.up_proj.weight", "f d -> d f"),
        down=source(f"{inside}.down_proj.weight", "d f -> f d"),
    )


def numbered(config: TransformerConfig, source: Layer) -> moe.Moe:
    """Experts of Qwen 3 MoE and DeepSeek V3."""
    return mixture(config, source, inside="mlp", parts=("gate_proj", "up_proj", "down_proj"))
