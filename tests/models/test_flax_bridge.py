"""Linen and NNX language models under every algorithm, and what the bridge refuses."""

import dataclasses
import math
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

from alignjax.core import struct, trees
from alignjax.models import flax_bridge, flax_contract, scoring
from alignjax.models.adapters import adapt, lora
from alignjax.parallel import axes, hosts, mesh
from alignjax.sampling import generate, prefill, transforms
from alignjax.training import checkpoint, optim, stepping, update
from tests.models import flax_toys as toys
from tests.training import tiny

ROWS = 8
PROMISED = {"dpo": ("dpo", math.log(2)), "ppo": ("ratio_deviation", 0.0)}


def prepared(name, model, **changes):
    """(method, state, frozen, tx, a batch that the loss can read, what collecting found)."""
    method = tiny.make(name, model, **changes)
    policy = jax.jit(model.init)(jax.random.key(7))
    start = {"policy": policy, "value": model.with_scalar(policy)}
    tx = optim.make_optimizer(tiny.optimizer(), method.init(jax.random.key(0), start), 100)
    state = stepping.initial_state(method, tx, start=start)
    frozen = {"reference": policy}
    batch = hosts.to_global(tiny.batch(name, 0, ROWS))
    if method.annotate:
        batch = {**batch, **jax.jit(method.annotate)(frozen, batch)}
    batch, carry, found = method.collect(state, frozen, batch, jax.random.key(1))
    return method, struct.replace(state, carry=carry), frozen, tx, batch, found


def count_even(frozen, samples, columns):
    """A reward rule that no sample leaves at zero for long."""
    return jnp.sum((samples.tokens % 2 == 0) & samples.mask, axis=1).astype(jnp.float32)


def descend(name, model, steps=4):
    """Metrics of each update on one batch, and what collecting found."""
    changes = {"reward": count_even} if name == "ppo" else {}
    method, state, frozen, tx, batch, found = prepared(name, model, **changes)
    run = update.make_update(method.loss, tx)
    every = []
    for step in range(steps):
        state, metrics = run(state, frozen, batch, jax.random.key(step))
        every.append({k: float(x.value) for k, x in metrics.items()})
    return every, found


@pytest.mark.parametrize("name", ["sft", "dpo", "ppo"])
@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_flax_models_are_trained_by_the_algorithms_as_they_are(kind, name):
    every, found = descend(name, toys.MAKERS[kind]())
    assert every[-1]["loss"] < every[0]["loss"] - 1e-3
    assert not any(m["skipped"] for m in every)
    if name in PROMISED:
        key, value = PROMISED[name]
        assert abs(every[0][key] - value) < 1e-5
        assert abs(every[-1][key] - value) > 1e-3
    if name == "ppo":
        assert float(found["drift"].value) < 1e-5
        assert abs(float(found["kl"].value)) < 1e-5
        assert every[0]["clip_fraction"] == 0


def direct(logits, batch):
    """log p of every token but the first, by optax."""
    return -optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch["tokens"][:, 1:])


def test_log_probabilities_and_gradients_are_those_of_the_module_itself():
    module, model = toys.LinenToy(), toys.linen_model()
    weights = toys.params(model)
    batch = {k: jnp.asarray(x) for k, x in tiny.rows(0, ROWS).items()}
    given = flax_contract.arguments(
        toys.LINEN, batch["tokens"], batch["positions"], batch["segments"]
    )
    counted = scoring.counted(batch)[:, 1:]

    def ours(weights):
        logprobs = scoring.token_stats(model, weights, batch).logprob[:, 1:]
        return jnp.sum(jnp.where(counted, logprobs, 0))

    def theirs(own):
        return jnp.sum(jnp.where(counted, direct(module.apply({"params": own}, *given), batch), 0))

    value, slopes = jax.jit(jax.value_and_grad(ours))(weights)
    want, own = jax.jit(jax.value_and_grad(theirs))(weights.params)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for name, slope in trees.named_leaves(own).items():
        found = trees.named_leaves(slopes.params)[name]
        np.testing.assert_allclose(found, slope, atol=2e-5, err_msg=name)
    assert np.abs(slopes.params["head"]["bias"]).max() > 0.1


def test_logits_as_states_are_exact():
    module = toys.LinenToy()
    contract = dataclasses.replace(toys.LINEN, unembedding=None, bias=None, states="__call__")
    model, parted = flax_bridge.from_linen(module, contract), toys.linen_model()
    assert (model.vocab_size, parted.vocab_size) == (tiny.VOCAB, tiny.VOCAB)
    weights = toys.params(model)
    batch = {k: jnp.asarray(x) for k, x in tiny.rows(1, ROWS).items()}

    @jax.jit
    def logits(weights):
        states, _ = model.hidden(
            weights, batch["tokens"], positions=batch["positions"], segments=batch["segments"]
        )
        return states, jnp.einsum("btd,dv->btv", states, model.unembedding(weights))

    states, product = logits(weights)
    np.testing.assert_array_equal(states, product)
    found, want = (
        jax.jit(lambda w, m=m: scoring.token_stats(m, w, batch).logprob)(weights)
        for m in (model, parted)
    )
    np.testing.assert_allclose(found, want, atol=2e-6)


def drawn(model, weights, temperature=1.0, eos=tiny.EOS):
    given = hosts.to_global(tiny.prompts(3, 4 * ROWS))
    config = transforms.SamplingConfig(max_new_tokens=tiny.NEW, temperature=temperature)
    sample = generate.make_generate(model, config, eos=eos, pad=tiny.PAD)
    return sample(weights, given["prompts"], given["lengths"], jax.random.key(5))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_sampling_without_a_cache_equals_teacher_forcing(kind):
    model = toys.MAKERS[kind]()
    weights = toys.params(model)
    free = drawn(model, weights, eos=-1)
    common = np.bincount(np.asarray(free.tokens)[np.asarray(free.mask)]).argmax()
    samples = drawn(model, weights, eos=int(common))
    positions, segments = prefill.right_padded(samples.tokens, samples.lengths)
    batch = {"tokens": samples.tokens, "positions": positions, "segments": segments}
    want = jax.jit(lambda w: scoring.token_stats(model, w, batch).logprob)(weights)
    mask = np.asarray(samples.mask)
    assert len(set(np.asarray(samples.prompt_lengths))) > 1
    assert len(set(mask.sum(1))) > 1  # some rows ended early, and have no slots for their rest
    np.testing.assert_allclose(np.asarray(samples.logprobs)[mask], want[mask], atol=2e-6)
    assert np.ptp(np.asarray(want)[mask]) > 1


def test_a_cache_of_the_models_own_draws_the_same():
    slow = toys.nnx_model()
    contract = dataclasses.replace(
        toys.NNX,
        make_cache=lambda batch, length: jnp.zeros((batch, toys.WIDTH)),
        decode=toys.running_sum,
    )
    quick = flax_bridge.from_nnx(toys.NnxToy, contract)
    weights = toys.params(slow)
    assert quick.cache(2, 3).shape == (2, toys.WIDTH)
    for temperature in (0.0, 1.0):
        a, b = (drawn(m, weights, temperature) for m in (slow, quick))
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_a_cache_step_of_another_width_is_refused():
    def narrow(module, *given):
        states, cache = toys.running_sum(module, *given)
        return states[..., 1:], cache

    contract = dataclasses.replace(
        toys.NNX, make_cache=lambda b, n: jnp.zeros((b, toys.WIDTH)), decode=narrow
    )
    model = flax_bridge.from_nnx(toys.NnxToy, contract)
    with pytest.raises(ValueError, match=r"decode must return states .* got \(32, 4, 15\)"):
        drawn(model, toys.params(model))


def three_layouts():
    """The same sequence alone, padded at the left, and behind another one in a row."""
    tokens = np.array([[5, 6, 7, 8, 0, 0], [0, 0, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8]], np.int32)
    segments = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 2, 2, 2, 2]], np.int32)
    positions = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3]], np.int32)
    return tokens, positions, segments


def test_packing_and_padding_are_right_where_the_model_is_told_and_nan_where_not():
    tokens, positions, segments = three_layouts()
    told, untold = toys.linen_model(), toys.nnx_model()
    states, _ = told.hidden(toys.params(told), tokens, positions=positions, segments=segments)
    np.testing.assert_allclose(states[1, 2:], states[0, :4], atol=1e-6)
    np.testing.assert_allclose(states[2, 2:], states[0, :4], atol=1e-6)
    assert np.isfinite(states).all()
    weights = toys.params(untold)
    states, _ = untold.hidden(weights, tokens, positions=positions, segments=segments)
    assert np.isfinite(states[0]).all()
    assert np.isnan(states[1:]).all()


@pytest.mark.slow
def test_every_mesh_gives_the_losses_and_samples_of_one_device(any_mesh, one_device):
    model = toys.linen_model()
    every, samples = on_mesh(model)
    np.testing.assert_allclose(every, one_device[0], rtol=1e-5)
    np.testing.assert_array_equal(samples.tokens, one_device[1].tokens)
    np.testing.assert_allclose(samples.logprobs, one_device[1].logprobs, atol=1e-5)
    if any_mesh is not None:
        assert samples.tokens.sharding.spec[0] == ("replica", "data")


def on_mesh(model):
    every, _ = descend("sft", model, steps=3)
    weights = jax.jit(model.init)(jax.random.key(7))
    return [m["loss"] for m in every], drawn(model, weights)


@pytest.fixture(scope="module")
def one_device():
    return on_mesh(toys.linen_model())


@pytest.mark.slow
def test_a_cache_of_the_models_own_on_a_mesh(any_mesh):
    contract = dataclasses.replace(
        toys.NNX,
        make_cache=lambda batch, length: jnp.zeros((batch, toys.WIDTH)),
        decode=toys.running_sum,
    )
    model = flax_bridge.from_nnx(toys.NnxToy, contract)
    weights = jax.jit(model.init)(jax.random.key(7))
    positions = jnp.arange(4) + jnp.zeros((ROWS, 4), jnp.int32)
    given = hosts.to_global(tiny.rows(0, ROWS))
    one = {k: given[k][:, :4] for k in ("tokens", "positions", "segments")}

    @jax.jit
    def run(weights, tokens, positions, segments):
        seen = {"positions": positions, "segments": segments}
        return (
            model.hidden(weights, tokens, **seen)[0],
            model.hidden(weights, tokens, **seen, cache=model.cache(ROWS, 4))[0],
        )

    whole, cached = run(weights, **one)
    np.testing.assert_allclose(whole, cached, atol=1e-6)
    assert positions.shape == one["positions"].shape


def test_weights_that_are_placed_keep_their_layout():
    def three(place):
        model = toys.linen_model()
        method, state, frozen, tx, batch, _ = prepared("sft", model)
        params = jax.tree.map(place, state.params)
        state = struct.replace(state, params=params, opt_state=jax.jit(tx.init)(params))
        run = update.make_update(method.loss, tx)
        found = []
        for step in range(3):
            state, metrics = run(state, frozen, batch, jax.random.key(step))
            found.append(float(metrics["loss"].value))
        return found, state

    want, _ = three(jnp.copy)
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(data=4, model=2))):

        def split(x):
            whole = x.ndim != 2 or x.shape[0] % 4
            return jax.device_put(x, jax.P() if whole else jax.P("data", None))

        found, state = three(split)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    for tree in (state.params.params, state.opt_state[1].mu.params):
        assert tree["head"]["kernel"].sharding.spec == jax.P("data", None)
        assert tree["embed"]["embedding"].addressable_shards[0].data.shape == (6, toys.WIDTH)


def test_a_gradient_lowers_for_a_pod():
    pod = AbstractMesh((2, 64, 4), mesh.AXIS_NAMES, axis_types=(AxisType.Explicit,) * 3)
    with jax.sharding.use_abstract_mesh(pod):
        model = toys.linen_model()
        weights = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)))
        where = jax.NamedSharding(pod, axes.spec("batch time"))
        batch = {
            name: jax.ShapeDtypeStruct((256, 8), jnp.int32, sharding=where)
            for name in ("tokens", "positions", "segments", "loss_mask")
        }
        method = tiny.make("sft", model)

        def nll(weights, batch):
            return method.loss(weights, {}, batch, None)[0]["loss"].total

        traced = jax.jit(jax.grad(nll)).trace(weights, batch)
        traced.lower(lowering_platforms=("tpu", "cuda"))
    for name, slope in trees.named_leaves(traced.out_info).items():
        assert slope.shape == trees.named_leaves(weights)[name].shape


def test_a_vocabulary_that_the_mesh_does_not_divide_is_refused():
    with (
        mesh.use(mesh.make_mesh(mesh.MeshConfig(data=2, model=4))),
        pytest.raises(ValueError, match="multiple of the mesh's model axis; got 22 and 4"),
    ):
        flax_bridge.from_linen(toys.LinenToy(vocab=22), toys.LINEN)


def test_the_scalar_head_stands_beside_the_parameters():
    model = toys.linen_model()
    weights = toys.params(model)
    headed = model.with_scalar(weights)
    assert headed.params is weights.params
    assert headed.scalar.shape == (toys.WIDTH,)  # the one for the bias does not count
    assert model.without_scalar(headed).scalar is None
    tokens, positions, segments = three_layouts()
    states, _ = model.hidden(weights, tokens, positions=positions, segments=segments)
    head = np.random.default_rng(0).normal(size=toys.WIDTH).astype(np.float32)
    found = model.scalar(struct.replace(headed, scalar=head), states)
    np.testing.assert_allclose(found, states[..., :-1] @ head, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_checkpoints_keep_every_bit(kind, tmp_path):
    model = toys.MAKERS[kind]()
    _, state, *_ = prepared("sft", model)
    folder = checkpoint.Checkpoints(tmp_path, keep=1)
    folder.save(state, {})
    folder.close()
    again = checkpoint.Checkpoints(tmp_path, keep=1)
    restored = again.restore(jax.eval_shape(lambda: state), print)
    again.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)


def test_weights_of_a_module_go_in_and_come_back():
    module = toys.NnxToy(nnx.Rngs(3))
    weights = flax_bridge.nnx_weights(module)
    model = toys.nnx_model()
    tokens, positions, segments = three_layouts()
    states, _ = model.hidden(weights, tokens, positions=positions, segments=segments)
    module.eval()
    np.testing.assert_allclose(states[0], module(tokens)[0], atol=1e-6)
    doubled = jax.tree.map(lambda x: 2 * x, weights)
    nnx.update(module, flax_bridge.nnx_state(module, doubled))
    jax.tree.map(
        np.testing.assert_array_equal, flax_bridge.nnx_weights(module).params, doubled.params
    )
    assert not np.array_equal(weights.params["embed"]["embedding"], module.embed.embedding[...])


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(8, 4)(tokens)
        return nn.Dropout(0.5, deterministic=False)(x)


class Counting(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.BatchNorm(use_running_average=True)(nn.Embed(8, 4)(tokens))


class NnxCounting(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.norm = nnx.Embed(8, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, tokens):
        return self.norm(self.embed(tokens))


class NnxWriting(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(8, 4, rngs=rngs)

    def __call__(self, tokens):
        self.embed.embedding[...] = self.embed.embedding[...] + 1
        return self.embed(tokens)


def linen_with(module=None, **changes):
    contract = dataclasses.replace(toys.LINEN, **changes)
    return lambda: flax_bridge.from_linen(module or toys.LinenToy(), contract)


PLAIN = {"inputs": ("tokens",), "states": "__call__", "bias": None}
TABLE = {**PLAIN, "unembedding": lambda p: p["Embed_0"]["embedding"].T}
EMBED = flax_contract.Contract(unembedding=lambda p: p["embed"]["embedding"].T, inputs=("tokens",))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            linen_with(unembedding="lm_head/kernel"),
            r"unembedding must be a path in the model's parameters; got 'lm_head/kernel' .*"
            "The paths are .*head/kernel",
        ),
        (linen_with(bias="head/offset"), "bias must be a path .*; got 'head/offset'"),
        (linen_with(bias=None), r"bias must be named .* Set bias='head/bias'"),
        (
            linen_with(unembedding="embed/embedding", bias=None),
            r"unembedding must have shape \[D, V\] with D = 16, .*; got \(24, 16\)",
        ),
        (linen_with(unembedding=None), "bias must be None for a model that returns logits"),
        (
            linen_with(states=lambda m, *given: m.hidden(*given)[:, 0]),
            r"states must return \[B, T, D\]; got \(1, 16\) for B = 1, T = 2",
        ),
        (
            linen_with(states=lambda m, *given: (m.hidden(*given), None)),
            "states must return one array .*; got tuple",
        ),
        (linen_with(inputs=("positions", "tokens")), "inputs must start with 'tokens'"),
        (linen_with(inputs=("tokens", "masks")), "must be one of .*'masks'. Did you mean 'mask'"),
        (
            linen_with(toys.LinenToy(vocab=16), unembedding="embed/embedding", bias=None),
            r"unembedding must have shape .* A matrix \[V, D\] needs a function",
        ),
        (linen_with(decode="decode"), "make_cache and decode must come together; got decode"),
        (linen_with(rounding=-1.0), "rounding must be finite and >= 0"),
        (linen_with(Noisy(), **TABLE), "must draw no random numbers .*deterministic=True"),
        (linen_with(Counting(), **TABLE), "must keep its state in 'params'; got batch_stats too"),
        (
            lambda: flax_bridge.from_nnx(NnxCounting, EMBED),
            "must keep its state in Param; got norm/mean, norm/var too",
        ),
        (
            lambda: flax_bridge.from_nnx(NnxWriting, EMBED),
            "must not change its variables when called",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_logits_are_refused_where_products_round(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    build = linen_with(unembedding=None, bias=None, states="__call__")
    with pytest.raises(ValueError, match="must run where fp32 products are exact; got backend tpu"):
        build()
    with jax.default_matmul_precision("highest"):
        assert build().vocab_size == tiny.VOCAB


def test_adapters_ask_for_declared_parameters():
    with pytest.raises(ValueError, match="must declare its parameters"):
        adapt.adapt(toys.linen_model(), lora.LoraConfig())


def test_without_flax_the_bridge_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(ValueError, match=r"needs the flax package. Install it: pip install flax."):
        flax_bridge.from_linen(None, toys.LINEN)


def test_importing_the_bridge_does_not_import_flax():
    code = "import sys, alignjax.models.flax_module; print([m for m in sys.modules if 'flax' in m])"
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert "flax.linen" not in found.stdout
    assert "'flax'" not in found.stdout
