"""Attention kernels that never write the scores to memory: splash on TPU, cuDNN on GPU; and which
kernel a program takes, those of tiled_attention.py and of attention.py among them.

Both compute what `attention.attend` computes where each segment's tokens stand side by side in the
order of their positions, as rows do that the model reads whole (training, scoring). With a cache,
whose slots may have gaps, the scores are written out.
"""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.parallel import axes

LANES = 128  # of a TPU's vectors; time is padded to a multiple, the smallest block of a kernel
# Pairs of a query and a key from which scores come in tiles: on a CPU from one tile of each, where
# rows of 512 took a third of the time; elsewhere from where whole scores are 4 MB a head.
CPU_PAIRS, PAIRS = 128 * 128, 1024 * 1024
_BLOCKS = (512, 256, 128)  # sizes of a block of queries and of keys, the largest that fits
_BLOCK_NAMES = (
    *("block_q", "block_kv", "block_kv_compute"),
    *("block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute", "block_q_dq", "block_kv_dq"),
)


def choose(kernel: str, queries: int, keys: int, *, dtype: Any, whole: bool = True) -> str:
    """The kernel of queries and keys in such numbers, of a row: that which is asked for, where it
    can, or what "auto" stands for there.

    splash on TPU, tiles elsewhere where scores are many and products in fp32, the written-out
    scores otherwise. cuDNN is asked for by name. whole: whether the keys are the queries' own
    tokens', and no more; fused kernels need that.
    """
    platform = axes.platform()
    if kernel in ("reference", "tiled") or (whole and kernel != "auto"):
        return kernel
    if platform == "tpu":
        return "splash" if whole else "reference"
    if kernel != "auto" or (platform != "cpu" and jnp.dtype(dtype) != jnp.float32):
        return "reference"
    least = CPU_PAIRS if platform == "cpu" else PAIRS
    return "tiled" if queries > 1 and queries * keys >= least else "reference"


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segments: jax.Array,
    *,
    window: int = 0,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """softmax(softcap tanh(q k / softcap)) v by blocks, forward and backward.

    Args:
      query: [B, T, K, G, H], scaled already. key: [B, K, T, H]. value: [B, K, T, U].
      segments: [B, T] int. window: tokens that a query sees, itself included; 0 is all before.
      sinks: [K, G], of `attention.attend`, or None.

    Returns:
      [B, T, K, G, U]; values at segment 0 have no meaning.

    Reference: Dao et al. 2022 (attention by blocks); splash is JAX's kernel of it for TPUs, which
    skips blocks that no query sees. Off a TPU it is interpreted, slowly: for tests.
    """
    length, groups = query.shape[1], query.shape[3]
    shards = axes.axis_size("time")
    padded = -(-length // (LANES * shards)) * LANES * shards
    query, key, value, segments = (
        jnp.pad(x, [(0, padded - length if n == time else 0) for n in range(x.ndim)])
        for x, time in ((query, 1), (key, 2), (value, 2), (segments, 1))
    )
    heads = key.shape[1] // axes.axis_size("kv") * groups
    kernel = _splash_kernel(heads, padded, shards, window, softcap, axes.platform() != "tpu")

    def own(
        kernel: Any, q: Any, k: Any, v: Any, q_segments: Any, k_segments: Any, sink: Any
    ) -> Any:
        b, t, kv, g, h = q.shape
        q = jnp.moveaxis(q.reshape(b, t, kv * g, h), 1, 2)
        module = _splash_module()
        flat = None if sink is None else sink.reshape(kv * g).astype(jnp.float32)
        run: Any = jax.vmap(lambda *xs: kernel(*xs[:3], module.SegmentIds(*xs[3:]), sinks=flat))
        mixed = jnp.moveaxis(run(q, k, v, q_segments, k_segments), 2, 1)
        return mixed.reshape(b, t, kv, g, v.shape[-1])

    near, far = "batch time kv group head", "batch kv slot head"
    layout = _layout(kernel)
    if layout is not None:
        kernel = jax.tree.map(jax.sharding.reshard, kernel, layout)
        key, value = axes.shard(key, far), axes.shard(value, far)
    last = None if sinks is None else "kv group"
    inputs = (layout, near, far, far, "batch time", "batch slot", last)
    mixed = axes.per_shard(own, inputs, near, replication=False)(
        kernel, query, key, value, segments, axes.shard(segments, "batch slot"), sinks
    )
    return mixed[:, :length]


def _splash_module() -> Any:
    return importlib.import_module("jax.experimental.pallas.ops.tpu.splash_attention")


@functools.lru_cache(maxsize=32)
def _masks(heads: int, length: int, window: int) -> Any:
    module = _splash_module()
    mask = module.CausalMask((length, length))
    if window:
        mask = module.LocalMask((length, length), (window - 1, 0), 0)
    return module.MultiHeadMask([mask] * heads)


def _splash_kernel(
    heads: int, length: int, shards: int, window: int, softcap: float, interpret: bool
) -> Any:
    """The kernel for one device's heads and all the mesh's times."""
    module = _splash_module()
    block = next(b for b in _BLOCKS if length % (b * shards) == 0)
    return module.make_splash_mha(
        _masks(heads, length, window),
        block_sizes=module.BlockSizes(**{name: block for name in _BLOCK_NAMES}),
        head_shards=1,
        q_seq_shards=shards,
        attn_logits_soft_cap=softcap or None,
        residual_checkpoint_name="mixed",
        interpret=interpret,
    )


def _layout(kernel: Any) -> Any:
    """The PartitionSpecs of the kernel's tables: which blocks of keys a block of queries sees."""
    if not axes.has_mesh():
        return None
    where = jax.sharding.PartitionSpec(None, *axes.spec("time"))
    sharding = jax.sharding.NamedSharding(jax.sharding.get_abstract_mesh(), where)
    return kernel.manual_sharding_spec(sharding)


def cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, scale: float
) -> jax.Array:
    """softmax(scale q k) v by cuDNN's fused kernel; shapes as in `attention.attend`, 16-bit floats.

    mask: [B, T, S] bool. Needs a GPU of compute capability 8 or more.
    """

    def own(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
        b, t, kv, g, h = q.shape
        mixed = jax.nn.dot_product_attention(
            q.reshape(b, t, kv * g, h),
            jnp.swapaxes(k, 1, 2),
            jnp.swapaxes(v, 1, 2),
            mask=seen[:, None],
            scale=scale,
            implementation="cudnn",
        )
        return mixed.reshape(b, t, kv, g, v.shape[-1])

    near, far = "batch time kv group head", "batch kv slot head"
    run = axes.per_shard(own, (near, far, far, "batch time slot"), near, replication=False)
    return run(query, axes.shard(key, far), axes.shard(value, far), mask)
