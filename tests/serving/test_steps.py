"""The law that is drawn from is that of the sampler, however little of it is sorted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.sampling import transforms
from alignjax.serving import compiled, steps

SLOW = [(3.0, 4), (3.0, 16), (3.0, 64), (0.3, 4), (0.3, 64)]


@pytest.mark.parametrize(
    ("scale", "head"), [(0.3, 16), *(pytest.param(*own, marks=pytest.mark.slow) for own in SLOW)]
)
def test_truncated_laws_are_the_samplers(monkeypatch, head, scale):
    """Greedy rows and whole ones too; ties; heads that are enough and heads that are not."""
    monkeypatch.setattr(steps, "HEAD", head)
    rng = np.random.default_rng(0)
    ks, ps = (0, 1, 3, 4, 10, 64, 99), (1.0, 0.9, 0.5, 1e-12)
    rows = [(k, p, t) for k in ks for p in ps for t in (0.0, 0.5, 1.0)]
    logits = scale * rng.normal(size=(len(rows), 64)).astype(np.float32)
    logits[:, 7] = logits[:, 9] = logits.max(axis=1)  # the two most likely are equal
    columns = compiled.columns(len(rows))
    columns.top_k[:], columns.top_p[:], columns.temperature[:] = np.transpose(rows)
    run = jax.jit(steps.truncated)
    together = run(logits, columns)
    options = transforms.RowOptions(
        temperature=columns.temperature, top_k=columns.top_k, top_p=jnp.asarray(columns.top_p)
    )
    wanted = jax.jit(lambda x: transforms.final_logits(x, steps.PLAIN_SAMPLING, options))(logits)
    np.testing.assert_array_equal(together, wanted)
    one = jax.jit(lambda x, c: steps.truncated(x, c))
    for n in range(len(rows)):
        alone = jax.tree.map(lambda x, n=n: x[n : n + 1], columns)
        np.testing.assert_array_equal(one(logits[n : n + 1], alone), wanted[n : n + 1])


def test_sizes_rise_by_a_factor_to_the_whole():
    assert steps.sizes(16, 64) == (16, 32, 64)
    assert steps.sizes(256, 1000, 4) == (256, 1000)
    assert steps.sizes(64, 64) == (64,)
    assert steps.fitting((16, 32), 17) == 32
