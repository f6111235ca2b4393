"""A process reward model as a reward: by hand, on a mesh, in parts; and tables that it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import process_reward, scored_reward
from alignjax.core import struct
from alignjax.data import step_ends
from alignjax.models import scoring, transformer
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.rewards import process
from alignjax.rollouts import reward
from alignjax.training import method
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ENDS = step_ends.StepEnds(np.arange(4, 12), np.zeros(0, np.int32), False)


def score(mesh, how, chunks=1):
    """(scores of 8 rows, logits and steps of them without a mesh)."""
    rows = tiny.rows(3, 8)
    with meshes.use(mesh):
        policy = jax.jit(MODEL.init)(jax.random.key(7))
        tree = MODEL.with_scalar(policy)
        tree = struct.replace(tree, scalar=tree.scalar + 0.3)
        run = process.make_score(MODEL, ENDS, eos=tiny.EOS, how=how, chunks=chunks)
        found = np.asarray(hosts.to_host(run(tree, hosts.to_global(rows))))
        if mesh is not None:
            return found, None, None
        batch = {name: jnp.asarray(x) for name, x in rows.items()}
        logits = MODEL.scalar(tree, scoring.hidden_states(MODEL, tree, batch))
    mask = rows["loss_mask"] & np.isin(rows["tokens"], ENDS.ids)
    return found, np.asarray(logits), mask


@pytest.mark.slow
def test_steps_are_scored_by_hand_whatever_the_mesh_and_the_parts():
    found, logits, mask = score(None, "min")
    each = -np.logaddexp(0, -logits)
    by_hand = [x[own].min() if own.any() else -np.inf for x, own in zip(each, mask, strict=True)]
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    np.testing.assert_allclose(score(None, "min", chunks=4)[0], found, rtol=1e-5)
    mesh = meshes.make_mesh(meshes.MeshConfig(data=4, model=2), jax.devices())
    np.testing.assert_allclose(score(mesh, "min")[0], found, rtol=1e-4)


def test_a_head_is_read_as_what_it_was_trained_for():
    given = {"ends": ENDS, "eos": tiny.EOS, "how": "min"}
    for scores, ends, says in (
        (method.LABELS, ENDS, "reward must be the run of a reward model; got one that labels"),
        (method.STEPS, None, "must read the policy's own steps; got data without steps"),
    ):
        with pytest.raises(ValueError, match=says):
            reward.scored_by(MODEL, "reward", scores, **{**given, "ends": ends})
    with pytest.raises(ValueError, match="got a tokenizer of its own"):
        reward.scored_by(MODEL, "reward", method.STEPS, **given, reader=lambda *rows: {})


def steps(**changes):
    rows = tiny.rows(5, 4)
    mask = rows["loss_mask"].copy()
    labels = (np.arange(4)[:, None] % 2 == 0) & mask
    return {**rows, "step_mask": mask, "step_labels": labels.astype(np.float32), **changes}


def test_tables_that_teach_nothing_are_refused():
    own = process_reward.process_reward(MODEL, process_reward.ProcessRewardConfig())
    assert own.prepare(steps()) == {}
    mask = steps()["step_mask"]
    outside = mask.copy()
    outside[1, 0] = True
    cases = (
        (steps(step_labels=mask.astype(np.float32)), "must differ, or nothing is learnt; got"),
        (steps(step_labels=0.5 * mask), r"that are all 0\.5 \(data\)"),
        (steps(step_mask=outside), "1 of .* that do not, the first at token 0 of row 1"),
        (steps(step_mask=np.zeros_like(mask)), "must have steps; got none"),
        (steps(step_labels=2.0 * steps()["step_labels"]), r"must lie in \[0, 1\]; got 0 to 2"),
    )
    for table, says in cases:
        with pytest.raises(ValueError, match=says):
            own.prepare(table)
    config = scored_reward.ScoredRewardConfig(method="outcome_reward")
    outcome = scored_reward.scored_reward(MODEL, config)
    table = {**tiny.rows(5, 4), "scores": np.ones(4, np.float32)}
    with pytest.raises(ValueError, match="scores must differ for outcome_reward"):
        outcome.prepare(table)
