"""What is drawn, its log-probability, and where rows begin and end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax.core import errors
from alignjax.models.config import MoeConfig
from alignjax.parallel import axes, hosts
from alignjax.parallel import mesh as meshes
from alignjax.sampling import generate, placement, transforms
from tests.models import tiny
from tests.reference import transformer as reference

CONFIG = tiny.config()
EOS, PAD = 3, 3  # a pad id equal to EOS changes nothing
LENGTHS = np.array([4, 1, 3, 2, 4, 2, 1, 3], np.int32)
SEQUENCES = tiny.sequences(LENGTHS, seed=4)
PROMPTS = tiny.rows(SEQUENCES, 4, pad=PAD)[0]


def sampler(new=5, eos=EOS, **options):
    config = transforms.SamplingConfig(max_new_tokens=new, **options)
    return generate.make_generate(tiny.model(), config, eos=eos, pad=PAD)


PLAIN = sampler()
GREEDY = sampler(temperature=0.0, eos=-1)


@pytest.fixture(scope="module")
def weights():
    return tiny.params(seed=3)


@pytest.fixture(scope="module")
def drawn(weights):
    return jax.device_get(PLAIN(weights, PROMPTS, LENGTHS, jax.random.key(0)))


def completions(samples):
    return [
        [int(t) for t in row[p:n]]
        for row, p, n in zip(samples.tokens, samples.prompt_lengths, samples.lengths, strict=True)
    ]


def test_rows_stop_at_eos_one_by_one_and_the_books_agree(drawn):
    assert drawn.ended.any()
    assert not drawn.ended.all()
    assert len(set(drawn.lengths - LENGTHS)) > 2
    np.testing.assert_array_equal(drawn.prompt_lengths, LENGTHS)
    for i, tokens in enumerate(completions(drawn)):
        assert 1 <= len(tokens) <= 5
        assert EOS not in tokens[:-1]
        assert drawn.ended[i] == (tokens[-1] == EOS)
        assert drawn.ended[i] or len(tokens) == 5
        np.testing.assert_array_equal(drawn.tokens[i, : LENGTHS[i]], SEQUENCES[i])
        np.testing.assert_array_equal(drawn.tokens[i, drawn.lengths[i] :], PAD)
        slots = np.arange(9)
        mask = (slots >= LENGTHS[i]) & (slots < drawn.lengths[i])
        np.testing.assert_array_equal(drawn.mask[i], mask)
        assert (drawn.logprobs[i, ~mask] == 0).all()
        assert (drawn.logprobs[i, mask] < 0).all()


def test_log_probabilities_equal_teacher_forcing(drawn, weights):
    for i, n in enumerate(drawn.lengths):
        scored = reference.token_logprobs(weights, drawn.tokens[i, :n], CONFIG)
        at = slice(LENGTHS[i], n)
        np.testing.assert_allclose(drawn.logprobs[i, at], scored[LENGTHS[i] - 1 :], atol=2e-5)


def test_layers_apart_as_on_a_tpu_draw_the_same(drawn, weights):
    with axes.on("tpu"):
        apart = sampler()(weights, PROMPTS, LENGTHS, jax.random.key(0))
    assert len(jax.eval_shape(_prepared_on_tpu, weights).blocks) == CONFIG.layers > 1
    np.testing.assert_array_equal(apart.tokens, drawn.tokens)
    np.testing.assert_allclose(apart.logprobs, drawn.logprobs, atol=2e-6)


def _prepared_on_tpu(weights):
    with axes.on("tpu"):
        return tiny.model().prepare(weights)


def test_greedy_rows_equal_each_prompt_alone(weights):
    together = completions(jax.device_get(GREEDY(weights, PROMPTS, LENGTHS, jax.random.key(0))))
    for tokens, prompt in zip(together, SEQUENCES, strict=True):
        alone = list(prompt)
        for _ in range(5):
            alone.append(int(reference.logits(weights, alone, CONFIG)[-1].argmax()))
        assert tokens == alone[len(prompt) :]
    # What stands in the padding is never read, and greedy draws know no key.
    other = np.where(np.arange(4) < LENGTHS[:, None], PROMPTS, 9)
    again = GREEDY(weights, other, LENGTHS, jax.random.key(1))
    assert completions(jax.device_get(again)) == together
    assert GREEDY._cache_size() == 1


def test_without_eos_no_row_ends(weights):
    samples = GREEDY(weights, PROMPTS, LENGTHS, jax.random.key(0))
    assert not samples.ended.any()
    np.testing.assert_array_equal(samples.lengths - LENGTHS, 5)
    np.testing.assert_array_equal(samples.logprobs, 0.0)  # a sure draw


def test_one_compilation_serves_other_contents(drawn, weights):
    other = tiny.params(seed=1)
    changed = PLAIN(other, PROMPTS[::-1].copy(), LENGTHS[::-1].copy(), jax.random.key(5))
    assert PLAIN._cache_size() == 1
    assert completions(jax.device_get(changed)) != completions(drawn)
    again = jax.device_get(PLAIN(weights, PROMPTS, LENGTHS, jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, again, drawn)
    moved = jax.device_get(PLAIN(weights, PROMPTS, LENGTHS, jax.random.key(9)))
    assert completions(moved) != completions(drawn)


def test_one_key_gives_the_same_samples_on_every_mesh(drawn, weights, any_mesh):
    if any_mesh is None:
        pytest.skip("the samples without a mesh are what the others are compared with")
    prompts = hosts.to_global({"prompts": PROMPTS, "lengths": LENGTHS})
    samples = PLAIN(tiny.place(weights), prompts["prompts"], prompts["lengths"], jax.random.key(0))
    assert samples.tokens.sharding.spec[0] == jax.typeof(prompts["lengths"]).sharding.spec[0]
    for name in ("tokens", "mask", "lengths", "prompt_lengths", "ended"):
        np.testing.assert_array_equal(getattr(samples, name), getattr(drawn, name), name)
    np.testing.assert_allclose(samples.logprobs, drawn.logprobs, atol=2e-5)


def test_a_model_axis_for_sampling_alone_changes_no_sample(drawn, weights):
    home = meshes.make_mesh(meshes.MeshConfig(data=8))
    with meshes.use(home):
        given = hosts.to_global({"prompts": PROMPTS, "lengths": LENGTHS})
        run = sampler(model_axis=2)
        samples = run(tiny.place(weights), given["prompts"], given["lengths"], jax.random.key(0))
        jax.block_until_ready(samples)  # two programs with collectives at once may deadlock on CPU
        again = run(tiny.place(weights), given["prompts"], given["lengths"], jax.random.key(0))
    assert samples.tokens.sharding.mesh == home
    for name in ("tokens", "mask", "lengths", "prompt_lengths", "ended"):
        np.testing.assert_array_equal(getattr(samples, name), getattr(drawn, name), name)
        np.testing.assert_array_equal(getattr(again, name), getattr(drawn, name), name)
    np.testing.assert_allclose(samples.logprobs, drawn.logprobs, atol=2e-5)


@pytest.mark.parametrize(
    ("sizes", "model_axis"),
    [({"data": 4, "expert": 2}, 2), ({"data": 4, "seq": 2}, 0), ({"seq": 4, "expert": 2}, 0)],
)
def test_experts_stay_in_parts_while_sampling(sizes, model_axis):
    """Where the training mesh has a seq axis, rows of one token share no time over it."""
    moe = MoeConfig(experts=4, active=2, ff=16)
    config = transforms.SamplingConfig(max_new_tokens=3, model_axis=model_axis)
    found = []
    for chosen in (None, sizes):
        mesh = None if chosen is None else meshes.make_mesh(meshes.MeshConfig(**chosen))
        with meshes.use(mesh):
            model = tiny.model(moe=moe)
            run = generate.make_generate(model, config, eos=EOS, pad=PAD)
            given = hosts.to_global({"prompts": PROMPTS, "lengths": LENGTHS})
            weights = jax.jit(model.init)(jax.random.key(3))
            found.append(run(weights, given["prompts"], given["lengths"], jax.random.key(0)))
            if mesh is not None and model_axis:
                decode_mesh = placement.mesh_of(model, 2)
                assert dict(decode_mesh.shape) == {"replica": 1, "data": 2, "model": 2, "expert": 2}
    alone, spread = found
    np.testing.assert_array_equal(alone.tokens, spread.tokens)
    np.testing.assert_allclose(alone.logprobs, spread.logprobs, atol=2e-5)


@pytest.mark.parametrize(("axis", "message"), [(3, "must divide the 8 devices"), (8, "kv = ")])
def test_a_model_axis_for_sampling_must_fit(axis, message):
    with (
        meshes.use(meshes.make_mesh(meshes.MeshConfig(data=8))),
        pytest.raises(ValueError, match=message),
    ):
        sampler(model_axis=axis)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8},
        {"temperature": 2.0, "top_k": 5},
        {"temperature": 1.5, "top_k": 9, "top_p": 0.9},
    ],
    ids=str,
)
def test_frequencies_and_log_probabilities_of_two_tokens_match_the_law(weights, options):
    draws, prompt = 4096, [5, 2]
    run = sampler(new=2, eos=-1, **options)
    prompts = np.tile(np.array([prompt], np.int32), (draws, 1))
    samples = run(weights, prompts, np.full(draws, 2, np.int32), jax.random.key(0))
    first, second = np.asarray(samples.tokens)[:, 2:].T
    seen = np.zeros((16, 16))
    np.add.at(seen, (first, second), 1)
    logits = reference.logits(weights, prompt, CONFIG)[-1]
    want = reference.distribution(logits, **options)[:, None] * np.stack(
        [
            reference.distribution(reference.logits(weights, [*prompt, v], CONFIG)[-1], **options)
            for v in range(16)
        ]
    )
    assert seen[want == 0].sum() == 0  # nothing outside of the support is ever sampled
    logprobs = np.asarray(samples.logprobs)[:, 2:].sum(1)
    np.testing.assert_allclose(logprobs, np.log(want[first, second]), atol=2e-5)
    common = want * draws >= 5
    seen = np.append(seen[common], seen[~common].sum())
    want = np.append(want[common], want[~common].sum()) * draws
    want, seen = want[want > 0], seen[want > 0]
    assert len(want) > 20
    assert stats.chisquare(seen, want * seen.sum() / want.sum()).pvalue > 1e-3


def test_drift_stops_the_run_with_numbers():
    generate.check_drift(jnp.float32(1e-4), 1e-3)
    generate.check_drift(1e-3, 1e-3)
    message = r"differ by 0\.25 nats on a token; the limit is 0\.001"
    with pytest.raises(errors.Failure, match=message):
        generate.check_drift(jnp.float32(0.25), 1e-3)
    with pytest.raises(errors.Failure, match="differ by nan nats"):
        generate.check_drift(float("nan"), 1e-3)
