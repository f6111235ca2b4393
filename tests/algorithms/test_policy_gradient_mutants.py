"""Bugs of group methods that leave shapes as they are: each, planted, breaks a check.

The checks are those of the tests of sound code; first all of them pass, then each fails under the
bug that it is there for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.core import errors, struct
from alignjax.losses import advantages
from alignjax.rewards import scores
from alignjax.rollouts import collection, experience, rollouts, select
from tests.algorithms import test_policy_gradient as pipeline
from tests.rollouts import hand, learner, test_carried, test_estimates, test_invariances


def check_scales():
    test_estimates.test_scales_divide_by_the_spread_that_they_name()


def check_estimates():
    test_estimates.test_estimates_by_hand("group_relative", 0.0)


def check_correction():
    mask = [[0.5, 2, 0], [1.5, 1.5, 1]]
    test_carried.test_advantages_are_weighted_by_trainer_over_sampler("truncate", "token", mask)


def check_lag():
    """The weights of a step behind are those of the policies that sampled and that train."""
    drawn = learner.drawn(2, 3, model=learner.TABLE)  # by the policy of seed 0
    config = hand.config(lag=1, correction="truncate", correction_maximum=50.0)
    ahead = learner.policy(1, learner.TABLE)
    needs = experience.needs_of(config, config.recipe.reads, config.needs)
    networks = experience.Networks(learner.TABLE, learner.TABLE)
    run = experience.make_experience(networks, config, needs)
    behind = learner.policy(0, learner.TABLE)
    found = hand.found(np.arange(6))
    rows, told, _ = run(ahead, behind, {}, drawn, found, None)
    assert float(told["drift"]) < 1e-4
    logits = np.asarray(ahead["logits"])
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    tokens, mask = np.asarray(drawn.tokens), np.asarray(drawn.mask)
    now = np.zeros(mask.shape)
    now[:, 1:] = logprobs[tokens[:, :-1], tokens[:, 1:]]
    ratio = np.where(mask, np.exp(now - np.asarray(drawn.logprobs)), 0.0)
    wanted = np.tile([[-1.0], [0.0], [1.0]], (2, 1)) * ratio
    np.testing.assert_allclose(rows["advantages"], wanted, atol=1e-4)


# --- the bugs -----------------------------------------------------------------------------------


def swapped_axis(monkeypatch):
    """Sample g of all prompts is taken for a group."""

    def in_groups(x, size):
        return jnp.swapaxes(x.reshape(size, x.shape[0] // size, *x.shape[1:]), 0, 1)

    monkeypatch.setattr(rollouts, "in_groups", in_groups)


def spread_of_the_batch(monkeypatch):
    """Rewards are divided by the standard deviation of all of them, not of their group's."""
    plain = advantages.group_relative

    def relative(rewards, mask=None, *, spread="group", **options):
        return plain(rewards, mask, spread="batch", **options)

    monkeypatch.setattr(losses, "group_relative", relative)


def baseline_of_lost_rows(monkeypatch):
    """A row without a score is in its group's mean, as a 0."""
    plain = experience.estimate

    def estimate(config, arrays, size):
        every = {**arrays, "valid": jnp.ones_like(arrays["valid"])}
        return jnp.where(arrays["valid"], plain(config, every, size), 0.0)

    monkeypatch.setattr(experience, "estimate", estimate)


def denominators_before_filtering(monkeypatch):
    """Rows that were left out are still in the mean, with an advantage of 0."""
    plain = select.choose

    def choose(config, samples, found, greedy, stored):
        chosen, told, metrics = plain(config, samples, found, greedy, stored)
        order = jnp.argsort(~told["informative"], stable=True)
        mask = rollouts.taken(samples.mask, order[: len(order)], config.group)
        own = struct.replace(chosen.samples, mask=mask)
        return chosen._replace(samples=own), told, metrics

    monkeypatch.setattr(select, "choose", choose)


def end_left_out(monkeypatch):
    """The token that ends a row is not trained."""
    plain = rollouts.of_samples

    def of_samples(samples, *arguments):
        found = plain(samples, *arguments)
        slot = jnp.arange(found.mask.shape[1])[None]
        last = found.ended[:, None] & (slot == found.lengths[:, None] - 1)
        return struct.replace(found, mask=found.mask & ~last)

    monkeypatch.setattr(rollouts, "of_samples", of_samples)


def stale_sampler(monkeypatch):
    """What samples is the policy of the first step, whatever has been learned since."""
    plain = collection.make_draw

    def make_draw(draw, size=1):
        run, kept = plain(draw, size), []

        def stale(params, *arguments):
            kept.append(jax.tree.map(jnp.copy, params))
            return run(kept[0], *arguments)

        return stale

    monkeypatch.setattr(collection, "make_draw", make_draw)


def reward_of_a_neighbour(monkeypatch):
    """Each row gets the reward of the row before it."""
    plain = scores.as_scores

    def as_scores(found, rows):
        own = plain(found, rows)
        return own._replace(reward=jnp.roll(own.reward, 1))

    monkeypatch.setattr(scores, "as_scores", as_scores)


def inverted_ratio(monkeypatch):
    """Weights of sampler over trainer."""
    plain = losses.sampler_weight

    def weight(logprobs, sampler_logprobs, mask=None, **options):
        return plain(sampler_logprobs, logprobs, mask, **options)

    monkeypatch.setattr(losses, "sampler_weight", weight)


def ratio_to_the_trainer(monkeypatch):
    """The trainer's own log-probabilities stand for the sampler's: every weight is 1."""
    plain = experience.correction

    def correction(config, logprobs, samples):
        return plain(config, logprobs, struct.replace(samples, logprobs=logprobs))

    monkeypatch.setattr(experience, "correction", correction)


MUTANTS = [
    (swapped_axis, check_estimates),
    (spread_of_the_batch, check_scales),
    (baseline_of_lost_rows, test_invariances.check_absence),
    (denominators_before_filtering, test_invariances.check_absence),
    (end_left_out, pipeline.check_the_end_is_trained),
    (stale_sampler, pipeline.check_sampler_and_trainer),
    (reward_of_a_neighbour, pipeline.check_own_rewards),
    (inverted_ratio, check_correction),
    (inverted_ratio, check_lag),
    (ratio_to_the_trainer, check_lag),
]
CHECKS = list(dict.fromkeys(check for _, check in MUTANTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sound_code_passes(check):
    check()


@pytest.mark.parametrize(("plant", "check"), MUTANTS, ids=lambda f: f.__name__)
def test_a_planted_bug_is_noticed(monkeypatch, plant, check):
    plant(monkeypatch)
    with pytest.raises((AssertionError, errors.Failure)):
        check()


def test_a_stale_sampler_is_noticed_at_the_second_step(monkeypatch):
    stale_sampler(monkeypatch)
    taken = []
    run = pipeline.steps.follow(pipeline.steps.config(), 4, model=learner.TABLE)
    with pytest.raises(errors.Failure, match="sampler and trainer log-probabilities differ"):
        taken.extend(int(state.step) for state, _ in run)
    assert taken == [1]
