"""FLOPs and sizes by formula against compiled programs, for every kind of model and adapter."""

import jax
import pytest

from alignjax.models import params, transformer
from alignjax.models.adapters import ia3, lora
from alignjax.models.config import DeltaConfig, MlaConfig, MoeConfig, TransformerConfig
from alignjax.models.config_parts import ConvConfig, LentConfig, WideConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import analytic, topology
from tests.planning.test_plan import SHAPE, make, plan

EXPERTS = {"moe": MoeConfig(experts=8, active=2, ff=48, shared_ff=64, first=1)}
WEIGHED = {"moe": MoeConfig(experts=4, active=2, ff=48, weigh_inputs=True, bias_correction=True)}
LATENTS = {"kv_heads": 4, "mla": MlaConfig(kv_rank=32, query_rank=48, rope_dim=16, value_dim=24)}
DIRECT = {"kv_heads": 4, "mla": MlaConfig(kv_rank=32, rope_dim=16, value_dim=24)}
SINKS = {"sinks": True, "qkv_bias": True, "moe": MoeConfig(experts=6, ff=48, bias=True, clamp=7.0)}
WINDOWS = {"attention": ("sliding", "chunked", "full"), "window": 8}
RULE = {
    "attention": ("delta", "delta", "full"), "attention_gate": True, "rope_dim": 8,
    "delta": DeltaConfig(key_heads=2, value_heads=6, key_dim=24, value_dim=16),
    "moe": MoeConfig(experts=4, active=2, ff=48, shared_ff=64, shared_gate=True),
}  # fmt: skip
LENT = {
    "layers": 6, "attention": ("sliding", "full"), "window": 8,
    "lent": LentConfig(layers=4, ff=192),
    "wide": WideConfig(head_dim=48, kv_heads=2, single=True), "layer_inputs": 16,
    "layer_scales": True, "value_norm": True, "qk_norm": "scaled", "post_norms": True,
}  # fmt: skip
BESIDE = {"moe": MoeConfig(experts=4, active=2, ff=48, beside=True), "post_norms": True}
CONV = {"attention": ("conv", "conv", "full"), "conv": ConvConfig(taps=3, bias=True)}
DETAILS = {
    "qkv_bias": True, "out_bias": True, "mlp_bias": True, "qk_norm": "scaled",
    "post_norms": True, "tied": False,
}  # fmt: skip
WIDE = lora.LoraConfig(rank=8, targets=("query", "value", "out", "gate", "down"))
NARROW = lora.LoraConfig(rank=8, targets=("query", "out"))
SPLIT = MeshConfig(data=4, model=2)
EXPERT = MeshConfig(data=2, expert=2, model=2)
LONG = MeshConfig(data=2, seq=2, model=2)


@pytest.fixture(scope="module")
def machine():
    return topology.find("cpu:8")


@pytest.mark.parametrize(
    ("name", "shape", "adapter", "mesh"),
    [
        ("sft", {}, WIDE, SPLIT),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("sft", {**EXPERTS, "remat": "full"}, None, EXPERT),
                ("sft", {**WEIGHED, "remat": "full"}, None, SPLIT),
                ("sft", {**EXPERTS, "remat": "dots"}, None, SPLIT),
                ("sft", {**LATENTS, "remat": "full"}, None, SPLIT),
                ("sft", {**DIRECT, "remat": "dots"}, None, SPLIT),
                ("sft", {**WINDOWS, "remat": "full"}, None, SPLIT),
                ("sft", {**DETAILS, "remat": "full"}, None, SPLIT),
                ("sft", {"remat": "full"}, WIDE, SPLIT),
                ("sft", {"remat": "heads"}, None, SPLIT),
                ("sft", {"remat": "attention"}, None, SPLIT),
                ("sft", {**LATENTS, "remat": "attention"}, None, SPLIT),
                ("sft", {**EXPERTS, "remat": "attention"}, WIDE, SPLIT),
                ("sft", {**EXPERTS, **LATENTS, "layers": 8}, NARROW, SPLIT),
                ("reward", EXPERTS, None, SPLIT),
                ("dpo", LATENTS, NARROW, MeshConfig(data=8)),
                ("ppo", EXPERTS, None, EXPERT),
                ("ppo", LATENTS, None, SPLIT),
                ("ppo", {}, WIDE, SPLIT),
                ("sft", LATENTS, None, LONG),
                ("ppo", EXPERTS, None, LONG),
                ("dpo", {**WEIGHED, "remat": "dots"}, None, SPLIT),
                ("sft", RULE, None, SPLIT),
                ("sft", {**RULE, "remat": "full"}, None, SPLIT),
                ("sft", {**RULE, "remat": "heads"}, None, LONG),
                ("ppo", RULE, None, SPLIT),
                ("sft", LENT, None, SPLIT),
                ("sft", {**LENT, "remat": "full"}, None, SPLIT),
                ("ppo", LENT, None, SPLIT),
                ("sft", {**BESIDE, "remat": "dots"}, None, SPLIT),
                ("sft", {**CONV, "remat": "full"}, None, SPLIT),
                ("ppo", CONV, None, SPLIT),
            )
        ),
    ],
)
def test_every_program_is_within_three_percent(name, shape, adapter, mesh, machine):
    options = {"policy": "somewhere", "adapter": adapter} if adapter else {}
    found = plan(make(name, model=shape, mesh=mesh, **options), machine)
    for each in found.programs[1:]:
        assert each.flops * 8 == pytest.approx(each.work.run, rel=0.03), each.name
        assert each.work.useful <= each.work.run


EVERY = [EXPERTS, WEIGHED, LATENTS, DIRECT, DETAILS, WINDOWS, RULE, SINKS, LENT, BESIDE, CONV]


@pytest.mark.parametrize("changes", EVERY)
def test_parameters_are_the_declared_ones(changes):
    config = TransformerConfig(**{**SHAPE, "vocab_size": 128, **changes})
    infos = jax.tree.leaves(transformer.declare(config), is_leaf=params.is_info)
    assert analytic.parameters(config) == sum(jax.numpy.zeros(x.shape).size for x in infos)


def test_parameters_of_a_family():
    """DeepSeek-V3's own count of its main model: 671.0 billion, 37 of them active a token."""
    config = TransformerConfig(
        vocab_size=129280, layers=61, width=7168, heads=128, kv_heads=128, head_dim=128, ff=18432,
        tied=False, mla=MlaConfig(kv_rank=512, query_rank=1536, rope_dim=64, value_dim=128),
        moe=MoeConfig(experts=256, active=8, ff=2048, shared_ff=2048, first=3,
                      bias_correction=True),
    )  # fmt: skip
    assert analytic.parameters(config) == pytest.approx(671.0e9, rel=1e-3)
    shape = analytic.Shape(config)
    used = analytic.body(shape, 1, 1, trained=False).useful / 2
    used += 2 * config.vocab_size * config.width
    assert used == pytest.approx(37.5e9, rel=0.01)


def test_parameters_of_a_family_with_states():
    """Qwen3-Next's own count: 80 billion, 3 of them active a token (79 without embeddings)."""
    config = TransformerConfig(
        vocab_size=151936, layers=48, width=2048, heads=16, kv_heads=2, head_dim=256, ff=5120,
        tied=False, attention=("delta", "delta", "delta", "full"), attention_gate=True,
        rope_dim=64, qk_norm="scaled",
        delta=DeltaConfig(key_heads=16, value_heads=32, key_dim=128, value_dim=128),
        moe=MoeConfig(experts=512, active=10, ff=512, shared_ff=512, shared_gate=True),
    )  # fmt: skip
    assert analytic.parameters(config) == pytest.approx(79.7e9, rel=5e-3)
    used = analytic.body(analytic.Shape(config), 1, 1, trained=False).useful / 2
    assert used == pytest.approx(3.2e9, rel=0.1)


def test_parameters_of_a_family_with_convolutions():
    """LFM2-1.2B's own count, 1.17 billion."""
    config = TransformerConfig(
        vocab_size=65536, layers=16, width=2048, heads=32, kv_heads=8, head_dim=64, ff=8192,
        attention=tuple("full" if n in (2, 5, 8, 10, 12, 14) else "conv" for n in range(16)),
        qk_norm="scaled",
    )  # fmt: skip
    assert analytic.parameters(config) == pytest.approx(1.17e9, rel=1e-3)


def test_adapters_are_counted_and_the_optimizer_holds_them(machine):
    config = make("sft", policy="somewhere", adapter=WIDE, mesh=MeshConfig(data=8))
    found = plan(config, machine)
    shape = TransformerConfig(**SHAPE, vocab_size=128)
    infos = analytic.adapter_weights(shape, WIDE)
    count = sum(jax.numpy.zeros(info.shape).size for info in infos)
    d, h = 64, 32
    outs = {"query": (d, 4 * h), "value": (d, 2 * h), "out": (4 * h, d), "gate": (d, 96)}
    assert count == 3 * 8 * sum(a + b for a, b in (*outs.values(), (96, d)))
    assert found.parameters == count
    held = found.programs[-1].memory.arguments
    assert held["optimizer"] - 2 * held["parameters"] in range(4, 17, 4)


@pytest.mark.parametrize("kind", ["full", "sliding", "chunked"])
@pytest.mark.parametrize("length", [5, 8, 21])
def test_pairs_seen(kind, length):
    seen = sum(
        q >= k and (kind != "sliding" or q - k < 8) and (kind != "chunked" or q // 8 == k // 8)
        for q in range(length)
        for k in range(length)
    )
    assert analytic.visible(kind, length, 8) == seen


def test_a_window_is_less_useful_work():
    shapes = [TransformerConfig(**SHAPE, vocab_size=9, **x) for x in ({}, WINDOWS)]
    whole, windowed = (analytic.body(analytic.Shape(x), 2, 64, trained=True) for x in shapes)
    assert windowed.useful < whole.useful
    assert windowed.run == whole.run  # written out, masked pairs are computed


@pytest.mark.parametrize("adapter", [ia3.Ia3Config(), lora.LoraConfig(dora=True)])
def test_other_adapters_have_no_formula(adapter):
    config = TransformerConfig(**SHAPE, vocab_size=9)
    assert analytic.shape_of(config, adapter, dense=True) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "mesh", "apart"),
    [
        (EXPERTS, MeshConfig(data=8), 0),
        (EXPERTS, MeshConfig(data=4, expert=2), 2 * 3 * 64 * 48 * 8),  # two layers' experts
    ],
)
def test_bytes_of_experts_are_the_formulas(changes, mesh, apart, machine):
    """Weights are cut over data, experts over the expert axis too; norms' scales are whole."""
    config = TransformerConfig(**{**SHAPE, "vocab_size": 128, **changes})
    found = plan(make("sft", model=changes, mesh=mesh), machine)
    count = analytic.parameters(config)
    assert found.parameters == count
    whole = (2 * config.layers + 1) * config.width
    held = 4 * ((count - whole - apart) // mesh.data + apart // 8 + whole)
    arguments = found.programs[-1].memory.arguments
    assert arguments["parameters"] == held
    assert arguments["optimizer"] - 2 * held in range(4, 17, 4)
