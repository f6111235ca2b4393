"""Three updates of each method by us and by the code that its preset stands for."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import losses
from alignjax.compat.blocks import reductions
from alignjax.core import struct
from alignjax.losses import advantages
from alignjax.rewards import scores
from alignjax.rollouts import rollouts
from tests.conformance import our_updates, updates

RECORDED = updates.every()


def check(recorded):
    """Ours are the recorded updates, or differ where that is meant."""
    ours = our_updates.run(recorded)
    found = our_updates.errors(recorded, ours)
    if recorded.difference:
        assert not found.agrees, "a named difference is gone: say so in the recorder"
    else:
        assert found.agrees, (found, ours.norms, recorded.norms, ours.losses, recorded.losses)


def marked():
    """The first case of each preset that must agree is quick, the others are slow."""
    seen = set()
    for one in RECORDED:
        quick = not one.difference and one.preset not in seen
        yield pytest.param(one, marks=[] if quick else [pytest.mark.slow], id=one.name)
        seen |= {one.preset} if quick else set()


@pytest.mark.parametrize("recorded", list(marked()))
def test_three_updates_give_the_parameters_of_the_reference(recorded):
    check(recorded)


def test_every_preset_is_compared_and_most_cases_must_agree():
    agreeing = [one for one in RECORDED if not one.difference]
    assert {one.preset for one in agreeing} == {
        *("openrlhf-0.11", "trl-1.16", "tunix-0.1.7", "verl-0.9")
    }
    assert len(agreeing) >= 0.9 * len(RECORDED)


def test_updates_are_far_above_the_tolerance_and_gradients_are_clipped():
    start = updates.flat(updates.weights())
    for one in RECORDED:
        steps = np.diff(np.concatenate([start[None], one.params]), axis=0)
        assert (np.abs(steps).max(1) > 100 * our_updates.TOLERANCE).all(), one.name
    norms = np.concatenate([one.norms[np.isfinite(one.norms)] for one in RECORDED])
    clipped = np.mean(norms > updates.OPTIM["clip_norm"])
    assert 0.2 < clipped < 0.8


# --- bugs, planted ------------------------------------------------------------------------------


def spread_of_the_batch(monkeypatch):
    """Rewards are divided by the standard deviation of all of them, not of their group's."""
    plain = advantages.group_relative

    def relative(rewards, mask=None, *, spread="group", **options):
        return plain(rewards, mask, spread="batch", **options)

    monkeypatch.setattr(losses, "group_relative", relative)


def reward_of_a_neighbour(monkeypatch):
    """Each row gets the reward of the row before it."""
    plain = scores.as_scores

    def as_scores(found, rows):
        own = plain(found, rows)
        return own._replace(reward=jnp.roll(own.reward, 1))

    monkeypatch.setattr(scores, "as_scores", as_scores)


def end_left_out(monkeypatch):
    """The token that ends a row is not trained."""
    plain = rollouts.of_samples

    def of_samples(samples, *arguments):
        found = plain(samples, *arguments)
        slot = jnp.arange(found.mask.shape[1])[None]
        last = found.ended[:, None] & (slot == found.lengths[:, None] - 1)
        return struct.replace(found, mask=found.mask & ~last)

    monkeypatch.setattr(rollouts, "of_samples", of_samples)


def rows_alike(monkeypatch):
    """Tokens are averaged in each row, then rows."""
    swapped = {**reductions.REDUCTIONS, "token_mean": reductions.row_mean}
    monkeypatch.setattr(reductions, "REDUCTIONS", swapped)


def half_the_loss(monkeypatch):
    """The loss is too small by a factor of 2, which AdamW might not notice."""
    plain = reductions.token_mean

    def token_mean(values, arrays):
        return reductions.scale(plain(values, arrays), 0.5)

    changed = {**reductions.REDUCTIONS, "token_mean": token_mean}
    monkeypatch.setattr(reductions, "REDUCTIONS", changed)


def no_clipping(monkeypatch):
    """Gradients are not clipped."""
    monkeypatch.setattr(optax, "clip_by_global_norm", lambda norm: optax.identity())


BUGS = [
    spread_of_the_batch,
    reward_of_a_neighbour,
    end_left_out,
    rows_alike,
    half_the_loss,
    no_clipping,
]


def plain_case():
    """DAPO's loss with advantages relative to the group: OpenRLHF's group_norm."""
    wanted = {"method": "ppo_clip", "advantages": "group_relative"}
    return next(one for one in RECORDED if one.options == wanted)


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_noticed(monkeypatch, plant):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(plain_case())


@pytest.mark.slow
def test_another_decay_or_clip_range_is_noticed():
    """The optimizer's own settings are part of what is compared."""
    for changed in (
        dataclasses.replace(plain_case(), no_decay="$^"),
        dataclasses.replace(
            plain_case(), options={**plain_case().options, "clip_low": 0.2, "clip_high": 0.28}
        ),
    ):
        with pytest.raises(AssertionError):
            check(changed)
