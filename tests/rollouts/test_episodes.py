"""Episodes: what sampler and environment exchanged is the row, token for token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import grpo, policy_gradient
from alignjax.core import struct
from alignjax.models import transformer
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.rewards import learned
from alignjax.rollouts import episodes, rollouts, select
from alignjax.rollouts import reward as rewards
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm, method, update
from tests.envs import own_env
from tests.rollouts import hand
from tests.training import tiny

PROMPTS, SIZE, ANSWER = 4, 4, 2
ROWS = PROMPTS * SIZE
SAMPLING = transforms.SamplingConfig(max_new_tokens=ANSWER)


class Recorded:
    """An environment that keeps what it heard and said, by key of the episode and row."""

    def __init__(self, game):
        self.game, self.said = game, []

    def start(self, tasks, keys):
        observations, states = self.game.start(tasks, keys)
        self.said = [[list(ids)] for ids in observations]
        return observations, list(enumerate(states))

    def step(self, states, answers):
        step = self.game.step([state for _, state in states], answers)
        for (row, _), ids, said in zip(states, answers, step.observations, strict=True):
            self.said[row] += [list(ids), list(said)]
        rows = [row for row, _ in states]
        return step._replace(states=list(zip(rows, step.states, strict=True)))


def columns(count=PROMPTS, size=SIZE):
    wide = {name: np.repeat(x, size, axis=0) for name, x in tiny.prompts(0, count).items()}
    return hosts.to_global(wide)


def model_and_params():
    model = transformer.transformer(tiny.shape())
    return model, jax.jit(model.init)(jax.random.key(0))


def drawn(game, size=SIZE, key=3, eos=tiny.EOS):
    model, params = model_and_params()
    sample = generate.make_generate(model, SAMPLING, eos=eos, pad=tiny.PAD)
    record = Recorded(game)
    play = episodes.Play(game, record)
    run = episodes.make_episodes(sample, SAMPLING, play, tiny.PAD)
    return run(model.bind(params, {}), columns(), jax.random.key(key), size), record.said


def check_rows(found, said, room):
    """Compares rows with what was exchanged; `room`: of an observation.

    Raises:
      AssertionError: ids, masks, lengths or turns differ.
    """
    host = jax.device_get(found)
    given = jax.device_get(columns())
    for row, parts in enumerate(said):
        length = given["lengths"][row]
        ids, sampled = given["prompts"][row, :length].tolist(), [False] * length
        opening, *rest = parts
        ids, sampled = ids + opening, sampled + [False] * len(opening)
        assert host.samples.prompt_lengths[row] == len(ids)
        for turn in range(len(rest) // 2):
            answer, observed = rest[2 * turn], rest[2 * turn + 1]
            ids, sampled = ids + answer, sampled + [True] * len(answer)
            if turn < len(rest) // 2 - 1:  # the last observation is read by nobody
                assert len(observed) <= room
                ids, sampled = ids + observed, sampled + [False] * len(observed)
        assert host.samples.lengths[row] == len(ids)
        assert host.samples.tokens[row, : len(ids)].tolist() == ids
        assert (host.samples.tokens[row, len(ids) :] == tiny.PAD).all()
        assert host.samples.mask[row].tolist() == sampled + [False] * (
            host.samples.mask.shape[1] - len(ids)
        )
        assert host.turns[row] == len(rest) // 2


def test_rows_are_what_was_exchanged():
    game = own_env.Noisy()
    found, said = drawn(game)
    check_rows(found, said, game.room)
    host = jax.device_get(found)
    assert host.samples.tokens.shape == (ROWS, tiny.PROMPT + 2 + 3 * ANSWER + 2 * game.room)
    assert {1, 3} <= set(host.turns.tolist())  # some end early
    paid = [sum(ids.count(5) for ids in parts[1::2]) for parts in said]
    assert host.returns.tolist() == paid
    ended = [game.is_end(parts[-2]) for parts in said]
    assert host.samples.ended.tolist() == ended
    # Samples of a prompt play in the same world: the same opening.
    openings = [parts[0] for parts in said]
    assert all(openings[i] == openings[i - i % SIZE] for i in range(ROWS))
    assert len({tuple(ids) for ids in openings}) > 1


def test_a_mask_on_observations_is_found():
    game = own_env.Noisy()
    found, said = drawn(game)
    slot = jnp.arange(found.samples.tokens.shape[1])
    after = slot >= found.samples.prompt_lengths[:, None]
    wrong = after & (slot < found.samples.lengths[:, None])
    assert int(wrong.sum()) > int(found.samples.mask.sum())
    with pytest.raises(AssertionError):
        check_rows(found._replace(samples=struct.replace(found.samples, mask=wrong)), said, 3)


def test_the_same_key_plays_the_same_episodes():
    one, other, third = (drawn(own_env.Noisy(), key=key) for key in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    assert one[1] == other[1]
    assert one[1] != third[1]


def test_the_trainer_reads_the_row_as_the_sampler_did():
    model, params = model_and_params()
    found, _ = drawn(own_env.Noisy())
    batch = learned.as_batch(found.samples)
    stats = jax.jit(lambda: policy_gradient.scoring.token_stats(model, params, batch))()
    apart = np.abs(np.asarray(stats.logprob - found.samples.logprobs))[found.samples.mask]
    assert apart.max() < 1e-4
    assert (np.asarray(found.samples.logprobs)[~np.asarray(found.samples.mask)] == 0).all()


def test_one_turn_is_the_ordinary_draw():
    game = own_env.Noisy(opening=0, limit=1)
    found, _ = drawn(game, size=1)
    model, params = model_and_params()
    plain = generate.make_generate(model, SAMPLING, eos=tiny.EOS, pad=tiny.PAD)
    rows = columns()
    alone = plain(model.bind(params, {}), rows["prompts"], rows["lengths"], jax.random.key(3))
    for name in ("tokens", "mask", "lengths", "prompt_lengths"):
        np.testing.assert_array_equal(getattr(found.samples, name), getattr(alone, name))
    np.testing.assert_allclose(found.samples.logprobs, alone.logprobs, atol=1e-6)


def test_an_observation_without_room_cuts_its_row():
    game = own_env.Noisy(room=2)
    found, said = drawn(game)
    host = jax.device_get(found)
    long = [len(parts) > 2 and len(parts[-1]) > 2 and not game.is_end(parts[-2]) for parts in said]
    long = [is_long and host.turns[row] < 3 for row, is_long in enumerate(long)]
    assert 0 < sum(long) < ROWS
    for row in np.flatnonzero(long):
        assert not host.samples.ended[row]
        assert host.samples.mask[row, host.samples.lengths[row] - 1]  # its last answer stays
    check_rows(found, said, 2)
    whole = rollouts.of_samples(found.samples, {"lengths": jnp.zeros(PROMPTS)}, SIZE, jnp.zeros(()))
    assert whole.cut[np.flatnonzero(long)].all()  # counted, as rows that ran out of tokens are


def test_a_first_observation_without_room_leaves_nothing_to_score():
    @dataclasses.dataclass(kw_only=True)
    class Loud(own_env.Noisy):
        def start(self, tasks, keys):
            said, states = super().start(tasks, keys)
            return [[9] * 3 if row % 2 else ids for row, ids in enumerate(said)], states

    found, _ = drawn(Loud())
    host = jax.device_get(found)
    assert np.isnan(host.returns[1::2]).all()
    assert np.isfinite(host.returns[::2]).all()
    assert host.turns[1::2].tolist() == [0] * (ROWS // 2)
    assert not host.samples.mask[1::2].any()


def ready(**options):
    """(algorithm, state, batch) of GRPO in an environment, on the mesh that is set."""
    config = hand.config(
        reward="env", env=own_env.Noisy(), group=SIZE, sampling=SAMPLING, **options
    )
    model, params = model_and_params()
    task = method.Task(eos=tiny.EOS, pad=tiny.PAD, length=tiny.LENGTH, prompt_length=tiny.PROMPT)
    score = rewards.of_config(config, {}, task, limit=config.most_sampled, chunks=1)
    grown = policy_gradient.policy_gradient(
        model, config, reward=score, eos=tiny.EOS, pad=tiny.PAD, micro_batches=2, task=task
    )
    state = algorithm.TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=(), carry=grown.carry
    )
    return grown, state, hosts.to_global(tiny.prompts(0, 2 * PROMPTS))


def gradients(micro_batches=1, spoil=lambda rows: rows, **options):
    grown, state, batch = ready(**options)
    rows, _, metrics = grown.collect(state, {}, batch, jax.random.key(1))
    run = jax.jit(update.make_gradients(grown.loss, micro_batches=micro_batches))
    found, more = run(state.params, {}, spoil(rows), jax.random.key(2))
    return jax.tree.map(np.asarray, found), {**metrics, **more}


def distance(one, other):
    """Largest difference of two gradients, in units of the first's largest entry."""
    size = max(np.abs(x).max() for x in jax.tree.leaves(one))
    return max(
        np.abs(a - b).max() / size
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.slow
def test_packed_rows_and_micro_batches_have_the_same_gradient():
    plain, metrics = gradients()
    assert float(metrics["drift"].value) < 1e-4
    assert 1 < float(metrics["turns"].value) <= 3
    assert float(metrics["reward_env"].value) == float(metrics["reward"].value)
    assert 0 < float(metrics["cut"].value) < 1
    assert distance(plain, gradients(micro_batches=2)[0]) < 2e-5
    assert distance(plain, gradients(pack=True)[0]) < 2e-5

    def on_all(rows):
        slot = jnp.arange(rows["tokens"].shape[1])
        own = (rows["segments"] > 0) & (slot >= jnp.argmax(rows["loss_mask"], axis=1)[:, None])
        return {**rows, "loss_mask": own}

    assert distance(plain, gradients(spoil=on_all)[0]) > 1e-2  # observations trained: another one


@pytest.mark.slow
def test_on_a_mesh():
    plain, one = gradients()
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(data=8), jax.devices())):
        found, other = gradients()
    assert distance(plain, found) < 2e-5
    assert float(one["reward"].value) == float(other["reward"].value)


def test_advantages_of_soft_limits_read_sampled_tokens_alone():
    config = hand.config(reward="env", env=own_env.Noisy(), sampling=SAMPLING)
    assert config.most_sampled == 3 * ANSWER
    assert config.new_tokens == 2 + 3 * ANSWER + 2 * 3
    soft = select.soft_overlong(jnp.asarray([2.0, 6.0]), limit=6, buffer=2)
    assert soft.tolist() == [0, -1]


def test_configurations():
    with pytest.raises(ValueError, match=r"algorithm\.env must be an environment where reward=env"):
        hand.config(reward="env").validate_groups()
    with pytest.raises(ValueError, match=r"Noisy\.limit must be finite and >= 1; got 0"):
        hand.config(reward="env", env=own_env.Noisy(limit=0)).validate_groups()
    with pytest.raises(ValueError, match=r"algorithm\.reward must be one of rules, model, gold"):
        tiny.ppo_config(reward="env").validate_reward()
    assert isinstance(hand.config(), grpo.GrpoConfig)
