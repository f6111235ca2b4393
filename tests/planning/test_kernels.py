"""Kernels in compiled programs: which one, its FLOPs from its operands, its time."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from alignjax.planning import flops, hlo, kernels, schedule, topology

HEADS, KV_HEADS, TOKENS, INNER = 8, 2, 2048, 64
MACHINE = topology.Machine("v5e:1x1", 1, topology.CHIPS["v5e"], "tpu", [])


def call(name, grid, outputs, **blocks):
    """One call of a splash kernel as libtpu writes it, over three lines."""
    queries = f"bf16[2,{KV_HEADS},{HEADS // KV_HEADS},{TOKENS},{INNER}]{{4,3,2,1,0}}"
    keys = f"bf16[2,{KV_HEADS},{TOKENS},{INNER}]{{3,2,1,0}}"
    mask = f"s8[1,{grid[0]},{grid[1]}]{{2,1,0}}"
    told = json.dumps(json.dumps({f"block_{k}": v for k, v in blocks.items()}))
    return (
        f"  %{name}_segmented.1 = ({', '.join(outputs)}) custom-call(%c, %d, %q, %k, %v), "
        'custom_call_target="tpu_custom_call", operand_layout_constraints='
        f"{{{mask}, {mask}, {queries}, {keys}, {keys}, s32[2,2048,128]{{2,1,0}}}}, "
        f'frontend_attributes={{kernel_metadata={{\n"xprof_metadata":{told}\n}}}}, '
        f'metadata={{op_name="jit(f)/{name}_segmented/pallas_call" stack_frame_id=5}}\n'
    )


def program(*calls):
    body = "".join(calls)
    return hlo.parse(
        f"ENTRY %main (q: f32[1]) -> f32[1] {{\n{body}  %last = f32[1]{{0}} add(%q)\n}}\n"
    )


LIKE_QUERIES = f"bf16[2,{KV_HEADS},{HEADS // KV_HEADS},{TOKENS},{INNER}]{{4,3,2,1,0}}"
LIKE_KEYS = f"bf16[2,{KV_HEADS},{TOKENS},{INNER}]{{3,2,1,0}}"
FORWARD = call("splash_mqa_fwd", (4, 4), [LIKE_QUERIES], q=512, kv=512)
WINDOW = call("splash_mqa_fwd", (4, 2), [LIKE_QUERIES], q=512, kv=512)
QUERIES = call("splash_mqa_dq", (4, 4), [LIKE_QUERIES], q_dq=512, kv_dq=512)
KEYS = call("splash_mqa_dkv", (4, 4), [LIKE_KEYS, LIKE_KEYS], q_dkv=512, kv_dkv=512)
PARTS = f"bf16[2,{KV_HEADS},4,{HEADS // KV_HEADS},{TOKENS},{INNER}]{{5,4,3,2,1,0}}"
FUSED = call("splash_mha_dkv", (4, 4), [PARTS, LIKE_KEYS, LIKE_KEYS], q_dkv=512, kv_dkv=512)
ONE = 2.0 * 2 * HEADS * INNER * 512 * 512  # FLOPs of one product of one block, all rows and heads


@pytest.mark.parametrize(
    ("calls", "products"),
    [
        ([FORWARD], 2 * 10),  # of 16 blocks the 10 on and below the diagonal
        ([WINDOW], 2 * 7),
        ([FORWARD, QUERIES], 5 * 10),
        ([FORWARD, QUERIES, KEYS], 9 * 10),
        ([FORWARD, FUSED, QUERIES], 9 * 10),  # results alike, but queries have their own kernel
        ([WINDOW, FUSED], 7 * 7),
        ([FUSED], 5 * 10),
    ],
)
def test_blocks_that_causal_attention_computes(calls, products):
    made = program(*calls)
    assert len(made.computations["main"]) == len(calls) + 1  # metadata lines end no computation
    assert flops.kernel_flops(made, {}) == (products * ONE, 0.0, ())


def test_kernels_take_time_at_the_stated_efficiency():
    found = schedule.replay(program(FORWARD), MACHINE, {})
    padded = 2 * 10 * ONE * 128 / INNER  # heads of 64 fill half of the matrix units
    assert found.kernels == pytest.approx(padded / (kernels.EFFICIENCY * 197e12))
    assert found.total == found.kernels
    assert found.slowest[0][0] == "splash attention fwd"


def test_an_unknown_kernel_is_named():
    text = '  %mine.1 = f32[8]{0} custom-call(%q), custom_call_target="tpu_custom_call"\n'
    assert flops.kernel_flops(program(text), {}).unknown == ("mine.1",)
    other = '  %b = f32[8]{0} custom-call(%q), custom_call_target="ConcatBitcast"\n'
    assert flops.kernel_flops(program(other), {}) == (0.0, 0.0, ())


def test_rows_of_experts_are_shared_out():
    text = (
        "  %ragged-dot-none.2 = bf16[1024,384]{1,0} custom-call(%a, %x, %w), "
        'custom_call_target="tpu_custom_call", operand_layout_constraints={s32[9]{0}, '
        "bf16[1024,256]{1,0}, bf16[8,256,384]{2,1,0}}, "
        'metadata={op_name="jit(f)/ragged_dot_general/ragged-dot-none"}\n'
    )
    whole = flops.kernel_flops(program(text), {"data": 4}).others
    assert whole == 2 * 1024 * 256 * 384
    assert flops.kernel_flops(program(text), {"expert": 4}).others == whole / 4


@pytest.mark.slow  # the TPU's compiler
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize(("window", "blocks"), [(0, 10), (512, 7)])
def test_what_the_compiler_writes_for_splash_attention(window, blocks):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    where = SingleDeviceSharding(topology.find("v5e:2x4").devices[0])
    square, group = (TOKENS, TOKENS), HEADS // KV_HEADS
    mask = masks.LocalMask(square, (window - 1, 0), 0) if window else masks.CausalMask(square)
    sizes = dict.fromkeys(
        ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq"), 512
    )
    attend = splash.make_splash_mqa_single_device(
        masks.MultiHeadMask([mask] * group),
        block_sizes=splash.BlockSizes(**{f"block_{k}": v for k, v in sizes.items()}),
    )

    def loss(query, key, value, segments):
        ids = splash.SegmentIds(segments, segments)
        each = jax.vmap(jax.vmap(attend, in_axes=(0, 0, 0, None)))
        return jnp.sum(each(query, key, value, ids).astype(jnp.float32) ** 2)

    def abstract(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    keys = abstract(2, KV_HEADS, TOKENS, INNER)
    given = (abstract(2, KV_HEADS, group, TOKENS, INNER), keys, keys)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(
        *given, jax.ShapeDtypeStruct((2, TOKENS), jnp.int32, sharding=where)
    )
    made = hlo.parse(compiled.compile().as_text())
    assert flops.kernel_flops(made, {}) == (9 * blocks * ONE, 0.0, ())
    found = schedule.replay(made, MACHINE, {})
    assert found.kernels > 0.5 * found.total
