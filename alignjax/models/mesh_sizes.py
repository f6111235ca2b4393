"""Which models the current mesh divides."""

from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


def check(config: TransformerConfig) -> None:
    """Refuses sizes that the current mesh does not divide."""
    sizes = [
        ("kv_heads", config.kv_heads, "kv"),
        ("ff", config.ff, "ff"),
        ("vocab_size", config.vocab_size, "vocab"),
        ("width", config.width, "fsdp"),
    ]
    if "delta" in config.kinds():
        sizes.append(("delta.key_heads", config.delta.key_heads, "kv"))
    if "conv" in config.kinds():
        sizes.append(("width", config.width, "ff"))
    if config.wide.head_dim:
        sizes.append(("wide.kv_heads", config.wide.kv_heads, "kv"))
    inputs = config.layer_inputs
    sizes += [("lent.ff", config.lent.ff, "ff"), ("layer_inputs", inputs, "ff")]
    sizes += [("layer_inputs of all layers", inputs * config.layers, "fsdp")]
    if config.moe.experts:
        sizes += [
            ("moe.experts", config.moe.experts, "experts"),
            ("moe.ff", config.moe.ff, "ff"),
            ("moe.shared_ff", config.moe.shared_ff, "ff"),
        ]
    for name, size, axis in sizes:
        shards, over = axes.axis_size(axis), " x ".join(axes.mesh_axes(axis))
        if size % shards:
            raise ValueError(
                f"model.{name} must be a multiple of the mesh's {over} axis; got {size} and "
                f"{shards} (mesh). Use a smaller {over} axis or another size."
            )
