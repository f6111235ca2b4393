"""Rows that leave as they end and rows that take their places: the same draws as in one program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import cache_rows, flax_bridge
from alignjax.models.adapters import adapt, lora
from alignjax.models.config import DeltaConfig, MlaConfig, MoeConfig
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.sampling import calls, generate, schedule, transforms
from tests.models import flax_toys, test_lent_layers, test_short_conv, tiny

EOS = PAD = 3
ROWS, NEW = 32, 40
LENGTHS = np.random.default_rng(0).integers(1, 5, ROWS).astype(np.int32)
PROMPTS = tiny.rows(tiny.sequences(LENGTHS, seed=4), 4, pad=PAD)[0]
KEY = jax.random.key(0)
MOVING = {"slots": 16, "rungs": 2, "chunk": 7}  # refill, then half of the slots


@functools.cache
def sampler(group=1, eos=EOS, new=NEW, **options):
    config = transforms.SamplingConfig(max_new_tokens=new, **options)
    return generate.make_generate(tiny.model(), config, eos=eos, pad=PAD, samples_per_prompt=group)


def drawn(run, prompts=PROMPTS, lengths=LENGTHS, key=KEY, **columns):
    return jax.device_get(run(tiny.params(seed=3), prompts, lengths, key, **columns))


def assert_same(found, wanted):
    for name in ("tokens", "mask", "lengths", "prompt_lengths", "ended"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-5)


@pytest.fixture(scope="module")
def static():
    found = drawn(sampler())
    assert len(set(found.lengths - LENGTHS)) > 15
    assert 0 < found.ended.sum() < ROWS
    return found


@pytest.fixture(scope="module")
def pairs():
    return drawn(sampler(group=2), PROMPTS[:16], LENGTHS[:16])


# --- the same draws ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        MOVING,
        {"rungs": 3, "chunk": 7},
        {"rungs": 3},
        {"slots": 8},
        {"slots": 12, "rungs": 2, "chunk": 1},
        {"slots": 24, "chunk": 64},
        {"slots": 128, "rungs": 2},
    ],
    ids=str,
)
def test_chunks_draw_what_one_program_draws(static, options):
    assert_same(drawn(sampler(**options)), static)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 4, "model": 2}], ids=str)
@pytest.mark.parametrize(
    "options", [{"rungs": 3, "chunk": 7}, {"slots": 8}, {"slots": 16, "rungs": 2}], ids=str
)
def test_chunks_draw_the_same_on_a_mesh(static, pairs, sizes, options):
    for group, wanted in ((1, static), (2, pairs)):
        with meshes.use(meshes.make_mesh(meshes.MeshConfig(**sizes))):
            count = ROWS // group
            given = hosts.to_global({"prompts": PROMPTS[:count], "lengths": LENGTHS[:count]})
            weights = tiny.place(tiny.params(seed=3))
            config = transforms.SamplingConfig(max_new_tokens=NEW, **options)
            run = generate.make_generate(
                tiny.model(), config, eos=EOS, pad=PAD, samples_per_prompt=group
            )
            found = run(weights, given["prompts"], given["lengths"], KEY)
            spec = jax.typeof(given["lengths"]).sharding.spec
            assert found.tokens.sharding.spec[0] == found.ended.sharding.spec[0] == spec[0]
        assert_same(jax.device_get(found), wanted)


@pytest.mark.slow
def test_chunks_run_on_a_model_axis_for_sampling_alone(static):
    home = meshes.make_mesh(meshes.MeshConfig(data=8))
    config = transforms.SamplingConfig(max_new_tokens=NEW, model_axis=2, **MOVING)
    with meshes.use(home):
        given = hosts.to_global({"prompts": PROMPTS, "lengths": LENGTHS})
        run = generate.make_generate(tiny.model(), config, eos=EOS, pad=PAD)
        weights = tiny.place(tiny.params(seed=3))
        found = run(weights, given["prompts"], given["lengths"], KEY)
    assert found.tokens.sharding.mesh == home
    assert_same(jax.device_get(found), static)


@pytest.mark.slow
@pytest.mark.parametrize("options", [MOVING, {"rungs": 3}, {"slots": 8}], ids=str)
def test_samples_of_a_prompt_share_its_prefill_in_any_slots(pairs, options):
    assert_same(drawn(sampler(group=2, **options), PROMPTS[:16], LENGTHS[:16]), pairs)


@pytest.mark.slow
def test_caches_are_read_no_further_than_they_must(static, monkeypatch):
    monkeypatch.setattr(schedule, "FEWEST_NEW", 8)
    for options in ({"rungs": 3, "chunk": 4}, {"slots": 16, "rungs": 3, "chunk": 4}):
        size = calls.sizes(transforms.SamplingConfig(max_new_tokens=NEW, **options), ROWS, 4)
        assert size.rungs.lengths == (14, 24, 44)
        config = transforms.SamplingConfig(max_new_tokens=NEW, **options)
        assert_same(drawn(generate.make_generate(tiny.model(), config, eos=EOS, pad=PAD)), static)


MODELS = {
    "latents": {"mla": MlaConfig(kv_rank=8, rope_dim=4, value_dim=8), "kv_heads": 4},
    "windows": {"attention": ("sliding", "full"), "window": 3},
    "experts": {"moe": MoeConfig(experts=4, active=2, ff=16)},
    "layers apart": {"unroll": 2, "tied": False},
    "states": {
        "attention": ("delta", "full"),
        "delta": DeltaConfig(key_heads=2, value_heads=4, key_dim=5, value_dim=4),
        "attention_gate": True,
    },
    "keys of others": test_lent_layers.PARTS,
    "convolutions": test_short_conv.PARTS,
}


def made(name):
    """(a model, its bound parameters, the id that ends rows)."""
    if name == "tokens":  # a Flax model without a cache
        model = flax_bridge.from_linen(flax_toys.LinenToy(), flax_toys.LINEN)
        return model, jax.jit(model.init)(jax.random.key(0)), 2
    if name == "adapters":
        base = tiny.model()
        model = adapt.adapt(base, lora.LoraConfig(rank=2, targets=("query", "down")))
        own = jax.tree.map(
            lambda x: x + 0.2 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32),
            model.init(jax.random.key(0)),
        )
        return model, model.bind(own, {"base": tiny.params(seed=3)}), EOS
    model = tiny.model(**MODELS[name])
    return model, jax.jit(model.init)(jax.random.key(0)), EOS


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, {"data": 4, "model": 2}], ids=str)
@pytest.mark.parametrize("name", [*MODELS, "tokens", "adapters"])
def test_every_kind_of_model_can_be_sampled_in_chunks(name, sizes):
    if sizes and name == "adapters":
        pytest.skip("placing a bound tree is the business of training")
    found = []
    for options in ({}, MOVING, {"rungs": 3, "chunk": 5}):
        with meshes.use(sizes and meshes.make_mesh(meshes.MeshConfig(**sizes))):
            model, weights, eos = made(name)
            config = transforms.SamplingConfig(max_new_tokens=20, **options)
            run = generate.make_generate(model, config, eos=eos, pad=PAD)
            given = hosts.to_global({"prompts": PROMPTS, "lengths": LENGTHS})
            found.append(jax.device_get(run(weights, given["prompts"], given["lengths"], KEY)))
    assert len(set(found[0].lengths - LENGTHS)) > 8
    for other in found[1:]:
        assert_same(other, found[0])


# --- rows and their options -------------------------------------------------------------------


def test_rows_in_another_order_are_the_same_rows(static):
    order = np.random.default_rng(5).permutation(ROWS)
    found = drawn(sampler(**MOVING), PROMPTS[order], LENGTHS[order], rows=order)
    assert_same(found, jax.tree.map(lambda x: x[order], static))


@pytest.mark.slow
def test_options_go_with_their_rows_through_slots():
    numbers = np.arange(ROWS)
    options = transforms.RowOptions(
        temperature=(numbers % 3).astype(np.float32),
        top_k=(numbers % 5).astype(np.int32),
        top_p=np.where(numbers % 2, 1.0, 0.8).astype(np.float32),
        seed=(numbers % 7).astype(np.int32),
        limit=(1 + numbers % NEW).astype(np.int32),
    )
    wanted = drawn(sampler(), options=options)
    for chosen in (MOVING, {"rungs": 3}):
        assert_same(drawn(sampler(**chosen), options=options), wanted)
    on_devices = jax.tree.map(jnp.asarray, options)
    assert_same(drawn(sampler(**MOVING), options=on_devices, rows=jnp.arange(ROWS)), wanted)


def test_what_a_slot_held_before_is_never_seen(static, monkeypatch):
    """A mutant that leaves the old row's slots where they are draws other tokens."""

    def kept(row, slots):
        return jnp.concatenate([row, jnp.ones_like(row, shape=(1, slots - row.shape[1]))], axis=1)

    monkeypatch.setattr(cache_rows, "cleared", kept)
    config = transforms.SamplingConfig(max_new_tokens=NEW, **MOVING)
    found = drawn(generate.make_generate(tiny.model(), config, eos=EOS, pad=PAD))
    same = (found.tokens == static.tokens).all(axis=1)
    assert same[:16].any()
    assert not same[16:].all()


# --- programs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [MOVING, pytest.param({"rungs": 3}, marks=pytest.mark.slow)], ids=str
)
def test_the_first_call_compiles_as_many_programs_as_announced_and_the_others_none(options):
    # A length that no other test has: what is compiled before is not compiled here.
    config = transforms.SamplingConfig(max_new_tokens=NEW - 3, **options)
    run = generate.make_generate(tiny.model(), config, eos=EOS, pad=PAD)
    size = calls.sizes(config, ROWS, 4)
    weights, counts = tiny.params(seed=3), []
    keys = [jax.random.key(n) for n in range(4)]

    def heard(event, duration, **kwargs):
        counts[-1] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        for key in keys:
            counts.append(0)
            jax.block_until_ready(run(weights, PROMPTS, LENGTHS, key))
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert counts == [size.programs, 0, 0, 0]
    assert size.programs == {"slots": 7, "rungs": 7}[next(iter(options))]


# --- texts that end rows ----------------------------------------------------------------------

LETTERS = "abcdefghijklmnop"


def text(tokens):
    return "".join(LETTERS[token] for token in tokens)


def stopped(options, stop, **columns):
    config = transforms.SamplingConfig(max_new_tokens=NEW, stop=stop, **options)
    run = generate.make_generate(tiny.model(), config, eos=EOS, pad=PAD, text=text)
    return drawn(run, **columns)


@pytest.mark.parametrize(
    "options", [{}, pytest.param(MOVING, marks=pytest.mark.slow)], ids=["plain", "moving"]
)
def test_a_row_ends_behind_the_token_that_completes_a_text(static, options):
    own = [text(row[a:b]) for row, a, b in zip(static.tokens, LENGTHS, static.lengths, strict=True)]
    stop = (own[1][3:5], own[6][8:11], "z")
    found = stopped(options, stop)
    ends = 0
    for row, whole in enumerate(own):
        first = [whole.find(part) + len(part) for part in stop if part in whole]
        wanted = whole[: min(first)] if first else whole
        ends += bool(first)
        start, end = LENGTHS[row], found.lengths[row]
        assert text(found.tokens[row, start:end]) == wanted
        assert found.ended[row] == (static.ended[row] or bool(first))
        np.testing.assert_array_equal(np.flatnonzero(found.mask[row]), np.arange(start, end))
        assert (found.tokens[row, end:] == PAD).all()
        assert (found.logprobs[row, end:] == 0).all()
    assert 2 <= ends < ROWS


# --- what is refused --------------------------------------------------------------------------


def test_a_stop_text_needs_the_text_of_tokens():
    config = transforms.SamplingConfig(stop=("END",))
    with pytest.raises(ValueError, match=r"sampling\.stop must be empty where tokens have no text"):
        generate.make_generate(tiny.model(), config, eos=EOS, pad=PAD)


def test_rows_of_a_foreign_cache_cannot_be_moved():
    model = flax_bridge.from_nnx(
        flax_toys.NnxToy,
        flax_toys.flax_contract.Contract(
            unembedding=lambda p: p["embed"]["embedding"].T,
            inputs=("tokens",),
            make_cache=lambda rows, slots: jnp.zeros((rows, flax_toys.WIDTH)),
            decode=flax_toys.running_sum,
        ),
    )
    for options in ({"rungs": 2}, {"slots": 8}):
        config = transforms.SamplingConfig(**options)
        with pytest.raises(ValueError, match="for a Flax model with a cache of its own; got"):
            generate.make_generate(model, config, eos=EOS, pad=PAD)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rungs": 0}, "sampling.rungs must be finite and >= 1"),
        ({"slots": -1}, "sampling.slots must be finite and >= 0"),
        ({"chunk": 0}, "sampling.chunk must be finite and >= 1"),
        ({"stop": ("a", "")}, "sampling.stop must hold texts that are not empty"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        transforms.SamplingConfig(**options).validate()
