"""Three updates of online DPO, XPO and Nash-MD by us and by the TRL release of each preset."""

import numpy as np
import pytest

from alignjax.rollouts import compared
from tests.conformance import our_online_updates, our_updates, updates

RECORDED = updates.every(updates.ONLINE)


def check(recorded):
    ours = our_online_updates.run(recorded)
    found = our_updates.errors(recorded, ours)
    assert found.agrees, (found, ours.norms, recorded.norms, ours.losses, recorded.losses)


@pytest.mark.slow
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: one.name)
def test_three_updates_give_the_parameters_of_the_reference(recorded):
    check(recorded)


def test_both_releases_are_compared_and_every_update_is_seen():
    by_preset = {(one.preset, one.algorithm) for one in RECORDED}
    assert by_preset == {("trl-1.13", "nash_md"), ("trl-1.13", "xpo"), ("trl-1.16", "online_dpo")}
    start = updates.flat(updates.weights())
    for one in RECORDED:
        steps = np.diff(np.concatenate([start[None], one.params]), axis=0)
        assert (np.abs(steps).max(1) > 100 * our_updates.TOLERANCE).all(), one.name


def turned(monkeypatch):
    """The worse answer is chosen."""
    plain = compared.every
    monkeypatch.setattr(compared, "every", lambda rewards, valid: plain(-rewards, valid))


def sure(monkeypatch):
    """The better answer is always preferred, whatever the rewards' difference."""
    monkeypatch.setattr(compared, "chances", lambda config, rewards: rewards[:, 0] > rewards[:, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "algorithm"), [(turned, "xpo"), (sure, "nash_md")])
def test_a_planted_bug_is_noticed(monkeypatch, plant, algorithm):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(next(one for one in RECORDED if one.algorithm == algorithm))
