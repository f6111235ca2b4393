"""Every row has keys of its own: what it draws is its own affair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.parallel import axes, hosts
from alignjax.sampling import draws, generate, transforms
from tests.models import tiny

EOS = PAD = 3
LENGTHS = np.array([4, 1, 3, 2, 4, 2, 1, 3], np.int32)
PROMPTS = tiny.rows(tiny.sequences(LENGTHS, seed=4), 4, pad=PAD)[0]
RUN = generate.make_generate(
    tiny.model(), transforms.SamplingConfig(max_new_tokens=5), eos=EOS, pad=PAD
)


def sampled(order, rows=None, seed=0):
    samples = RUN(
        tiny.params(seed=3), PROMPTS[order], LENGTHS[order], jax.random.key(seed), rows=rows
    )
    return jax.device_get(samples)


def test_rows_are_numbered_by_their_places_where_nothing_else_is_said():
    everything = np.arange(8)
    jax.tree.map(
        np.testing.assert_array_equal, sampled(everything, everything), sampled(everything)
    )


@pytest.mark.parametrize("order", [[7, 2, 5, 0, 1, 6, 3, 4], [6], [3, 3, 1]], ids=str)
def test_a_row_draws_the_same_wherever_it_stands_and_beside_whom(order):
    whole, part = sampled(np.arange(8)), sampled(order, np.array(order))
    for name in ("tokens", "mask", "lengths", "ended"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[order], name)
    np.testing.assert_allclose(part.logprobs, whole.logprobs[order], atol=1e-5)


def test_another_number_or_key_gives_other_draws():
    same = np.zeros(8, np.int64)  # one prompt, eight times
    rows = [sampled(same, np.arange(8)), sampled(same, np.arange(8) + 8), sampled(same, seed=1)]
    assert len({row.tobytes() for part in rows for row in part.tokens}) > 20
    assert len({row.tobytes() for row in sampled(same, same).tokens}) == 1


def test_draws_of_a_shared_vocabulary_are_those_of_one_device(any_mesh):
    logits = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    numbers, positions = np.arange(8) * 3, np.arange(8) + 5

    @jax.jit
    def run(numbers, positions, logits):
        keys = draws.row_keys(jax.random.key(2), numbers)
        return draws.draw(keys, positions, axes.shard(logits, "batch vocab"))

    given = hosts.to_global({"numbers": numbers, "positions": positions, "logits": logits})
    tokens, logprobs = jax.device_get(run(**given))
    for row in range(8):
        key = jax.random.fold_in(
            jax.random.fold_in(jax.random.key(2), numbers[row]), positions[row]
        )
        assert tokens[row] == jax.random.categorical(key, jnp.asarray(logits[row]))
    law = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(logprobs, np.asarray(law)[np.arange(8), tokens], atol=1e-6)
