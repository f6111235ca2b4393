"""Several completions of a prompt, several ends, and options of single rows."""

import jax
import numpy as np
import pytest

from alignjax.parallel import hosts
from alignjax.sampling import generate, transforms
from tests.models import tiny

EOS = PAD = 3
LENGTHS = np.array([4, 1, 3, 2, 4, 2, 1, 3], np.int32)
PROMPTS = tiny.rows(tiny.sequences(LENGTHS, seed=4), 4, pad=PAD)[0]
WIDE = {"prompts": np.repeat(PROMPTS, 3, axis=0), "lengths": np.repeat(LENGTHS, 3)}
KEY = jax.random.key(0)


def sampler(new=5, eos=EOS, group=1, model=None, **options):
    config = transforms.SamplingConfig(max_new_tokens=new, **options)
    own = tiny.model() if model is None else model
    return generate.make_generate(own, config, eos=eos, pad=PAD, samples_per_prompt=group)


def drawn(run, prompts=PROMPTS, lengths=LENGTHS, key=KEY, **columns):
    return jax.device_get(run(tiny.params(seed=3), prompts, lengths, key, **columns))


def assert_same(found, wanted):
    for name in ("tokens", "mask", "lengths", "prompt_lengths", "ended"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-5)


# --- samples of one prompt --------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    return drawn(sampler(), **WIDE)


def test_samples_of_a_prompt_are_those_of_its_repetitions(wide, any_mesh):
    given = hosts.to_global({"prompts": PROMPTS, "lengths": LENGTHS})
    weights = tiny.place(tiny.params(seed=3))
    found = sampler(group=3)(weights, given["prompts"], given["lengths"], KEY)
    if any_mesh is not None:
        assert found.tokens.sharding.spec[0] == jax.typeof(given["lengths"]).sharding.spec[0]
    assert_same(jax.device_get(found), wide)
    assert len({row.tobytes() for row in wide.tokens}) > 16


def test_a_cache_that_is_not_ours_is_filled_for_each(wide):
    model = tiny.model()

    def hidden(params, tokens, *, positions, segments, cache):
        states, after = model.hidden(
            params, tokens, positions=positions, segments=segments, cache=cache["own"]
        )
        return states, {"own": after}

    own = model._replace(cache=lambda rows, slots: {"own": model.cache(rows, slots)}, hidden=hidden)
    assert_same(drawn(sampler(group=3, model=own)), wide)


# --- ends -------------------------------------------------------------------------------------


def test_rows_end_at_any_of_several_ids():
    ends = [7, EOS, 11]
    free, found = drawn(sampler(eos=-1), **WIDE), drawn(sampler(eos=ends), **WIDE)
    for row, start in enumerate(WIDE["lengths"]):
        at = [i for i, token in enumerate(free.tokens[row, start : start + 5]) if token in ends]
        length = start + (at[0] + 1 if at else 5)
        assert found.lengths[row] == length
        assert found.ended[row] == bool(at)
        np.testing.assert_array_equal(found.tokens[row, :length], free.tokens[row, :length])
        np.testing.assert_array_equal(np.flatnonzero(found.mask[row]), np.arange(start, length))
    assert 0 < found.ended.sum() < len(found.ended)


# --- options of single rows -------------------------------------------------------------------

DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0, "limit": 5}
DTYPES = {"temperature": np.float32, "top_p": np.float32}
PLAIN = sampler()


def options(**values):
    """All five of eight rows, so that one program serves every test."""
    table = {name: values.get(name, default) for name, default in DEFAULTS.items()}
    return {n: np.full(8, x, DTYPES.get(n, np.int32)) + 0 for n, x in table.items()}


def by_row(key=KEY, **values):
    return drawn(PLAIN, key=key, options=transforms.RowOptions(**options(**values)))


def test_a_seed_of_its_own_makes_a_row_that_of_a_call_with_this_key():
    seeds = np.array([5, 5, 9, 0, 1, 2, 9, 5], np.int32)
    found = by_row(seed=seeds, key=jax.random.key(77))
    for seed in set(seeds.tolist()):
        alone = drawn(PLAIN, key=jax.random.key(seed))
        np.testing.assert_array_equal(found.tokens[seeds == seed], alone.tokens[seeds == seed])
        mine = found.logprobs[seeds == seed]
        np.testing.assert_allclose(mine, alone.logprobs[seeds == seed], atol=1e-5)


def test_rows_have_limits_of_their_own():
    limits = np.array([1, 2, 3, 4, 5, 9, 1, 5], np.int32)
    free, found = drawn(PLAIN), by_row(limit=limits)
    lengths = np.minimum(free.lengths - LENGTHS, limits)
    np.testing.assert_array_equal(found.lengths - LENGTHS, lengths)
    np.testing.assert_array_equal(found.ended, free.ended & (free.lengths - LENGTHS <= limits))
    np.testing.assert_array_equal(found.tokens[found.mask], free.tokens[found.mask])
    assert not found.mask[free.mask].all()


def test_a_row_of_temperature_0_is_greedy():
    cold = np.arange(8) % 2 == 0
    found, greedy, free = by_row(temperature=~cold), drawn(sampler(temperature=0.0)), drawn(PLAIN)
    np.testing.assert_array_equal(found.tokens[cold], greedy.tokens[cold])
    np.testing.assert_array_equal(found.logprobs[cold], 0.0)
    np.testing.assert_array_equal(found.tokens[~cold], free.tokens[~cold])


MIXED = {
    "temperature": np.array([1, 0.5, 1, 1, 0, 2, 1, 1]),
    "top_k": np.array([0, 0, 3, 0, 0, 9, 99, 0]),
    "top_p": np.array([1, 1, 1, 0.6, 1, 0.7, 1, 1e-9]),
    "seed": np.arange(8) % 3,
    "limit": 1 + np.arange(8) % 5,
}


@pytest.fixture(scope="module")
def mixed():
    return by_row(**MIXED)


def test_options_stay_with_their_rows_on_a_mesh(mixed, any_mesh):
    given = hosts.to_global({"prompts": PROMPTS, "lengths": LENGTHS, **options(**MIXED)})
    own = transforms.RowOptions(**{name: given[name] for name in MIXED})
    weights = tiny.place(tiny.params(seed=3))
    found = PLAIN(weights, given["prompts"], given["lengths"], KEY, options=own)
    assert_same(jax.device_get(found), mixed)
