"""Every estimator of advantages on the rows of groups: rows without a score, KL, scales, parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat
from alignjax.rewards import rules
from alignjax.rollouts import experience, settings
from tests.reference import losses as reference
from tests.rollouts import hand

P, G, T = 3, 4, 6
# One row of each group has no score, at another place in each.
LOST = np.array([0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1], bool)
BETA = 0.3


def pairs():
    """(preset, estimator) of every preset that has it itself."""
    for preset, recipes in compat.PRESETS.items():
        for name in settings.estimators():
            if name == settings.NO_BASELINE:
                if preset == "paper":
                    yield preset, name
            elif name in recipes and recipes[name].table == "estimates":
                yield preset, name


PAIRS = list(pairs())


def config(preset, name, **changes):
    two = {"right": rules.ExactNumber(weight=2.0), "brief": rules.Length(target=3, weight=0.5)}
    made = hand.config(
        **{"group": G, "advantages": name, "reward": "rules", "rules": two, **changes}
    )
    made.compat = preset
    return made


def arrays(seed=0):
    """What estimators read, [P G] rows; the two parts add up to the rewards."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, T + 1, P * G)
    mask = (np.arange(T)[None] >= 1) & (np.arange(T)[None] < 1 + counts[:, None])
    logprobs = np.where(mask, -rng.exponential(1.0, mask.shape), 0.0)
    reference_logprobs = np.where(mask, logprobs + 0.3 * rng.normal(size=mask.shape), 0.0)
    right = rng.integers(0, 2, P * G).astype(np.float32)
    brief = -rng.exponential(1.0, P * G)
    made = {
        "mask": mask,
        "logprobs": logprobs,
        "old_logprobs": logprobs,
        "reference_logprobs": reference_logprobs,
        "kl": np.where(mask, logprobs - reference_logprobs, 0.0),
        "sum_p2": rng.uniform(0.1, 0.9, mask.shape),
        "rewards": 2.0 * right + 0.5 * brief,
        "valid": np.ones(P * G, bool),
        "greedy_rewards": np.repeat(rng.normal(size=P), G),
    }
    made["parts"] = {"right": right, "brief": brief}
    return jax.tree.map(lambda x: x.astype(np.float32) if x.dtype.kind == "f" else x, made)


def run(made, given, size=G):
    """`estimate`, jitted."""
    given = jax.tree.map(jnp.asarray, given)
    return np.asarray(jax.jit(lambda a: experience.estimate(made, a, size))(given))


def without_scores(given, junk):
    """The same with some rows that do not count: an empty mask, and anything as their numbers."""

    def spoil(x):
        lost = LOST.reshape((-1,) + (1,) * (x.ndim - 1))
        return np.where(lost, np.asarray(junk, x.dtype), x) if x.dtype.kind == "f" else x

    spoiled = jax.tree.map(spoil, given)
    # What the collector hands on: 0 as the reward of a row that does not count.
    spoiled["rewards"] = np.where(LOST, 0.0, given["rewards"]).astype(np.float32)
    spoiled["valid"] = ~LOST
    spoiled["mask"] = given["mask"] & ~LOST[:, None]
    for name in ("logprobs", "old_logprobs", "reference_logprobs", "kl"):
        spoiled[name] = np.where(spoiled["mask"], spoiled[name], 0.0)
    return spoiled


@pytest.mark.parametrize(("preset", "name"), PAIRS)
def test_rows_without_a_score_are_rows_that_are_not_there(preset, name):
    """Advantages of the others are those of groups that are smaller by the lost row."""
    made, given = config(preset, name), arrays()
    found = run(made, without_scores(given, 7.0))
    assert np.isfinite(found).all()
    assert not found[LOST].any()
    fewer = jax.tree.map(lambda x: x[~LOST], given)
    alone = config(preset, name, group=G - 1)
    np.testing.assert_allclose(found[~LOST], run(alone, fewer, G - 1), atol=2e-6)
    assert np.abs(found).max() > 0.1
    assert not np.allclose(found[~LOST], run(made, given)[~LOST], atol=1e-3) or name in (
        "no_baseline", "remax", "reinforce_plus_plus"  # these compare with no other sample
    )  # fmt: skip


OF_PARTS = ("gdpo",)
# Those whose advantages differ within a row, or that the release spreads over its tokens.
OF_TOKENS = {
    ("paper", "otb"),
    ("paper", "reinforce_plus_plus"),
    *(("verl-0.9", "reinforce_plus_plus" + more) for more in ("", "_baseline")),
    ("verl-0.9", "remax"),
    ("verl-0.9", "gdpo"),
}


@pytest.mark.parametrize(("preset", "name"), [p for p in PAIRS if p[1] not in OF_PARTS])
def test_a_kl_in_the_reward_is_taken_once(preset, name):
    """Advantages under kl_in_reward are those of rewards that are smaller by beta KL."""
    given = arrays()
    with_kl = config(preset, name, kl_in_reward=BETA)
    found, plain = run(with_kl, given), run(config(preset, name), given)
    if found.ndim == 1:
        assert not np.allclose(found, plain, atol=1e-3)
        less = {**given, "rewards": given["rewards"] - BETA * given["kl"].sum(1)}
        np.testing.assert_allclose(found, run(config(preset, name), less), atol=2e-5)
    elif preset == "openrlhf-0.11" and not name.startswith("reinforce"):  # no whitening behind it
        kl = np.cumsum(given["kl"][:, ::-1], axis=1)[:, ::-1]
        wanted = np.where(given["mask"], plain[:, None] - BETA * kl, 0.0)
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    else:  # token by token: test_estimates_by_hand
        assert not np.allclose(found.sum(1), plain if plain.ndim == 1 else plain.sum(1), atol=1e-3)


@pytest.mark.parametrize(("preset", "name"), PAIRS)
def test_shapes_are_known_before(preset, name):
    made = config(preset, name)
    assert experience.per_token(made) == (run(made, arrays()).ndim == 2)
    assert experience.per_token(made) == ((preset, name) in OF_TOKENS)
    assert experience.per_token(config(preset, name, correction="truncate"))
    by_row = config(preset, name, correction="truncate", correction_level="sequence")
    assert experience.per_token(by_row) == ((preset, name) in OF_TOKENS)


def grouped(x):
    return np.asarray(x).reshape(P, G)


def token_rewards(given, beta):
    """The score at the last token less beta KL at each."""
    mask = given["mask"]
    last = mask & (np.cumsum(mask[:, ::-1], 1)[:, ::-1] == 1)
    return np.where(last, given["rewards"][:, None], 0.0) - beta * given["kl"]


# By the second implementation of tests/reference/losses.py: (arrays, beta) -> advantages.
def per_row(fn):
    def run(given, beta):
        rewards = given["rewards"] - beta * given["kl"].sum(1)
        return np.asarray(fn(grouped(rewards), given)).reshape(-1)

    return run


BY_HAND = {
    "no_baseline": per_row(lambda r, a: r),
    "group_relative": per_row(lambda r, a: r - r.mean(1, keepdims=True)),
    "leave_one_out": per_row(
        lambda r, a: r - (r.sum(1, keepdims=True) - r) / (G - 1)
    ),
    "remax": per_row(lambda r, a: r - grouped(a["greedy_rewards"])),
    "gpg": per_row(lambda r, a: reference.gpg(r, np.ones_like(r))),
    "opo": per_row(lambda r, a: reference.opo(r, grouped(a["mask"].sum(1)), np.ones_like(r))),
    "max_rl": per_row(lambda r, a: reference.max_rl(r, np.ones_like(r))),
    "pass_at_k": per_row(lambda r, a: reference.pass_at_k(r, np.ones_like(r))),
    "reinforce_plus_plus_baseline": per_row(
        lambda r, a: reference.reinforce_plus_plus_baseline(r, np.ones_like(r))
    ),
    "reinforce_plus_plus": lambda a, beta: reference.reinforce_plus_plus(
        token_rewards(a, beta), a["mask"]
    ),
    "otb": lambda a, beta: reference.otb(
        token_rewards({**a, "rewards": a["rewards"] - beta * a["kl"].sum(1)}, 0.0).reshape(P, G, T),
        a["logprobs"].reshape(P, G, T), a["sum_p2"].reshape(P, G, T), a["mask"].reshape(P, G, T)
    ).reshape(P * G, T),
}  # fmt: skip


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("name", BY_HAND)
def test_estimates_by_hand(name, beta):
    given = arrays(1)
    found = run(config("paper", name, kl_in_reward=beta), given)
    np.testing.assert_allclose(found, BY_HAND[name](given, beta), atol=5e-6)


def test_every_estimator_of_the_papers_is_here():
    own = {name for preset, name in PAIRS if preset == "paper"}
    assert own == {*BY_HAND, *OF_PARTS}


def test_several_rewards_are_normalised_each_by_itself():
    given = arrays(1)
    found = run(config("paper", "gdpo"), given)
    parts = np.stack([grouped(given["parts"][name]) for name in ("right", "brief")], axis=-1)
    wanted = reference.gdpo(parts, np.array([2.0, 0.5]), np.ones((P, G)))
    np.testing.assert_allclose(found, np.asarray(wanted).reshape(-1), atol=5e-6)


def test_scales_divide_by_the_spread_that_they_name():
    given = arrays(1)
    r = grouped(given["rewards"])
    centred = r - r.mean(1, keepdims=True)
    wanted = {
        "": centred,
        "none": centred,
        "group": centred / (r.std(1, ddof=1, keepdims=True) + 1e-4),
        "batch": centred / (r.std(ddof=1) + 1e-4),
    }
    for scale, value in wanted.items():
        found = run(config("paper", "group_relative", scale=scale), given)
        np.testing.assert_allclose(found, value.reshape(-1), rtol=2e-5, atol=1e-6, err_msg=scale)
    # Releases scale as they do unless told otherwise.
    for preset in ("trl-1.16", "verl-0.9", "tunix-0.1.7", "openrlhf-0.11"):
        found = run(config(preset, "group_relative"), given)
        np.testing.assert_allclose(found, wanted["group"].reshape(-1), rtol=1e-3)
        found = run(config(preset, "group_relative", scale="none"), given)
        np.testing.assert_allclose(found, centred.reshape(-1), rtol=1e-5, atol=1e-6)


def test_a_scale_that_an_estimator_does_not_have_is_one_line():
    with pytest.raises(ValueError, match="scale must be empty for paper leave_one_out") as caught:
        config("paper", "leave_one_out", scale="group").validate_groups()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", [preset for preset, name in PAIRS if name in OF_PARTS])
@pytest.mark.parametrize(
    "changes", [{"kl_in_reward": 0.1}, {"overlong": "soft", "overlong_buffer": 2}]
)
def test_what_is_no_part_of_the_reward_is_refused_where_parts_count(preset, changes):
    """It would be left out without a word: the parts are normalised one by one."""
    config(preset, "gdpo").validate_groups()
    with pytest.raises(ValueError, match="takes each part of the reward by itself") as caught:
        config(preset, "gdpo", **changes).validate_groups()
    assert "\n" not in str(caught.value)
