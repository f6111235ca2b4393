"""The geometric mixture of two models: its law, its samples, and what has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.models import mixture, scoring, transformer
from alignjax.rewards import learned
from alignjax.sampling import draws, generate, transforms
from tests.rollouts import bigram, learner
from tests.training import tiny

OTHER = transformer.transformer(tiny.shape(width=8, heads=2, kv_heads=1, head_dim=4))
MIX = 0.3


def logits_of(model, params, batch):
    @jax.jit
    def run(params):
        hidden = scoring.hidden_states(model, params, batch)
        return jnp.stack([draws.logits(model, params, hidden[:, t : t + 1]) for t in range(3)])

    return run(params)


@pytest.mark.slow
def test_its_logits_are_those_of_both_in_these_shares():
    batch = {name: jnp.asarray(x[:, :3]) for name, x in tiny.rows(0, 4).items()}
    both = {"policy": learner.policy(1), "reference": learner.policy(0, OTHER)}
    model = mixture.geometric(learner.MODEL, OTHER, MIX)
    found = jax.nn.log_softmax(logits_of(model, both, batch))
    apart = (
        logits_of(learner.MODEL, both["policy"], batch),
        logits_of(OTHER, both["reference"], batch),
    )
    wanted = losses.geometric_mixture(*apart, mix=MIX)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - jax.nn.log_softmax(apart[0])).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"rungs": 2, "chunk": 2}, {"slots": 4, "chunk": 2}])
def test_samples_with_two_caches_are_of_the_law_that_scoring_finds(options):
    model = mixture.geometric(learner.MODEL, OTHER, MIX)
    both = {"policy": learner.policy(1), "reference": learner.policy(0, OTHER)}
    config = transforms.SamplingConfig(max_new_tokens=tiny.NEW, temperature=0.7, **options)
    sample = generate.make_generate(model, config, eos=tiny.EOS, pad=tiny.PAD)
    prompts = {name: jnp.asarray(x) for name, x in tiny.prompts(0, 8).items()}
    drawn = sample(both, prompts["prompts"], prompts["lengths"], jax.random.key(3))
    stats = scoring.token_stats(model, both, learned.as_batch(drawn), temperature=0.7)
    apart = np.abs(stats.logprob - drawn.logprobs)[np.asarray(drawn.mask)]
    assert apart.max() < 1e-4
    assert np.asarray(drawn.mask).sum() > 16


def test_what_has_no_mixture_is_refused():
    table = bigram.bigram(tiny.VOCAB)
    with pytest.raises(ValueError, match="mix"):
        mixture.geometric(table, table, 1.5)
    with pytest.raises(ValueError, match="over one vocabulary; got 24 and 7"):
        mixture.geometric(table, bigram.bigram(7), 0.5)
    with pytest.raises(ValueError, match="without a cap on their logits; got 30 and 0"):
        mixture.geometric(table._replace(logit_softcap=30.0), table, 0.5)
    with pytest.raises(TypeError, match="no scalar head"):
        mixture.geometric(table, table, 0.5).scalar(None, None)
