"""Every role trains, scores and compares with a network of its own: size, family, adapter, Flax."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from alignjax.algorithms import dpo, ppo, reward, unpaired
from alignjax.core import keys
from alignjax.data import pipeline
from alignjax.models.adapters import lora
from alignjax.parallel import mesh as meshes
from alignjax.runs import assembly, evaluation, experiment, sources, train
from alignjax.sampling import generate, transforms
from alignjax.worlds import corpus as world_corpus
from tests.runs import starts

NEW, TEMPERATURE, BETA = 6, 0.7, 0.3
DATA = world_corpus.ReviewConfig(documents=16, demonstrations=32, prompts=32, eval_rows=8)
# Other families too: windows and biases, norms after each branch.
REFERENCE = dataclasses.replace(
    starts.POLICY, layers=2, width=24, attention=("sliding", "full"), window=4, qkv_bias=True
)
SCORER = dataclasses.replace(
    starts.POLICY, width=16, heads=4, kv_heads=2, head_dim=4, norm_plus_one=True, post_norms=True
)
PPO = ppo.PpoConfig(
    sampling=transforms.SamplingConfig(max_new_tokens=NEW, temperature=TEMPERATURE),
    kl_coefficient=BETA, decay=1.0, epochs=1, minibatches=1,
)  # fmt: skip


def make(algorithm, model=starts.POLICY, data=DATA, **options):
    return starts.make(algorithm, model, data=data, **options)


class Runs:
    """Real runs of one step, trained when they are first asked for."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        rows = world_corpus.make_corpus(DATA).table("demonstrations", "train")
        pairs = {name: x.reshape(-1, 2, *x.shape[1:]) for name, x in rows.items()}
        world_corpus.write_pairs(root / "pairs.npz", pairs, pairs)
        self.data = dataclasses.replace(DATA, pairs=str(root / "pairs.npz"))

    def train(self, name: str, config: experiment.Experiment, log=starts.quiet) -> str:
        folder = self.root / name
        train.train(config, folder, name=name, log=log)
        return str(folder)

    @functools.cached_property
    def policy(self) -> str:
        return self.train("policy", make(starts.PullConfig()))

    @functools.cached_property
    def reference(self) -> str:
        return self.train("reference", make(starts.PullConfig(), REFERENCE))

    @functools.cached_property
    def moved(self) -> str:
        """The policy's shape, other weights."""
        config = make(starts.PullConfig())
        config.seed, config.loop.steps = 3, 4
        return self.train("moved", config)

    @functools.cached_property
    def scorer(self) -> str:
        return self.train("scorer", make(starts.PullConfig(head=True), SCORER))

    @functools.cached_property
    def adapted(self) -> str:
        """A reward model of another shape that is adapters and a head."""
        below = self.train("below", make(starts.PullConfig(), SCORER))
        adapter = lora.LoraConfig(rank=2)
        config = make(starts.PullConfig(head=True), SCORER, policy=below, adapter=adapter)
        return self.train("adapted", config)

    @functools.cached_property
    def flax(self) -> str:
        return self.train("flax", make(starts.PullConfig(head=True), starts.ToyConfig()))

    @functools.cached_property
    def taught(self) -> str:
        """A reward model that compared pairs."""
        config = make(reward.RewardConfig(), SCORER, data=self.data)
        config.loop.steps = 3
        return self.train("taught", config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """On one device: meshes of several are the planner's and the methods' tests."""
    whole = meshes.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "make_mesh", lambda config: whole(config, jax.devices()[:1]))
        yield Runs(tmp_path_factory.mktemp("runs"))


def logprobs(network, tokens, lengths, temperature=TEMPERATURE):
    """[B, T]: of each token, from whole logits; the first has none."""
    model, tree = network
    logits = starts.states(network, tokens, lengths) @ model.unembedding(tree) / temperature
    table = np.asarray(jax.nn.log_softmax(logits, axis=-1))[:, :-1]
    picked = np.take_along_axis(table, np.asarray(tokens)[:, 1:, None], axis=2)[..., 0]
    return np.pad(picked, [(0, 0), (1, 0)])


def first_samples(policy, corpus, seed=0):
    """(samples, columns) of the first step of PPO, drawn again."""
    table = corpus.read("prompts", "train")
    batch = pipeline.Batches(table, batch_size=starts.ROWS, seed=seed).batch(0)
    run = generate.make_generate(policy[0], PPO.sampling, eos=corpus.eos, pad=corpus.pad)
    key = keys.at(keys.stream(seed, "collect"), 0)
    return jax.device_get(run(policy[1], batch["prompts"], batch["lengths"], key)), batch


def check_by_hand(row, folders, corpus):
    """Score, KL and value loss of PPO's first step, from the networks' own runs."""
    policy = starts.opened(folders["policy"], "policy")
    samples, _ = first_samples(policy, corpus)
    rows, last = (samples.tokens, samples.lengths), samples.lengths - 1
    scores = starts.heads(starts.opened(folders["reward"], "scorer"), *rows)[
        np.arange(starts.ROWS), last
    ]
    reference = starts.opened(folders["reference"], "policy")
    kl = np.where(samples.mask, logprobs(policy, *rows) - logprobs(reference, *rows), 0.0)
    np.testing.assert_allclose(row["score"], scores.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(row["kl"], kl.sum(1).mean(), rtol=1e-4, atol=1e-5)
    # A token's value is that of the prefix before it, what it returns the reward still to come.
    values = np.pad(
        starts.heads(starts.opened(folders["critic"], "scorer"), *rows)[:, :-1], [(0, 0), (1, 0)]
    )
    rewards = -BETA * kl
    rewards[np.arange(starts.ROWS), last] += scores
    returns = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    errors = 0.5 * np.square(values - returns)[samples.mask]
    loss = PPO.value_weight() * errors.mean()
    np.testing.assert_allclose(row["value_loss"], loss, rtol=1e-4)
    assert np.abs(scores).max() > 1e-3
    assert np.abs(kl).max() > 1e-2
    return samples


CASES = {
    "smaller scorer and critic": ("scorer", "scorer"),
    "adapted scorer, smaller critic": ("adapted", "scorer"),
    "scorer, Flax critic": ("scorer", "flax"),
    "Flax scorer, adapted critic": ("flax", "adapted"),
    "trained scorer": ("taught", "taught"),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow) for case in CASES])
def test_every_network_of_ppo_may_be_another(runs, case):
    scorer, critic = (getattr(runs, name) for name in CASES[case])
    folders = {
        "policy": runs.policy, "reference": runs.reference, "reward": scorer, "critic": critic,
    }  # fmt: skip
    config = make(PPO, starts.POLICY, **folders)
    folder = runs.train(f"ppo of {case}", config)
    (row,) = starts.rows_of(folder)
    assert row["skipped"] == 0
    check_by_hand(row, folders, config.data.make(starts.quiet))
    if case == next(iter(CASES)):
        return
    # What it trained is of the networks' own shapes, and it goes on from there.
    before, after = starts.opened(runs.policy, "policy")[1], starts.opened(folder, "policy")[1]
    assert jax.tree.map(np.shape, before) == jax.tree.map(np.shape, after)
    if critic != runs.adapted:  # whose adapters became part of the weights
        before, after = starts.opened(critic, "scorer")[1], starts.opened(folder, "critic")[1]
        assert jax.tree.map(np.shape, before) == jax.tree.map(np.shape, after)
    config.loop.steps = 2
    assert len(starts.rows_of(runs.train(f"ppo of {case}", config))) == 2
    numbers = evaluation.evaluate(pathlib.Path(folder), rows=starts.ROWS, seed=0)
    assert {"reward model score", "KL to the reference, nats"} <= numbers.keys()


def test_dpo_compares_with_a_reference_of_another_size(runs):
    config = make(
        dpo.DpoConfig(beta=0.4), data=runs.data, policy=runs.policy, reference=runs.reference
    )
    (row,) = starts.rows_of(runs.train("dpo", config))
    corpus = config.data.make(starts.quiet)
    batch = pipeline.Batches(corpus.read("pairs", "train"), batch_size=starts.ROWS, seed=0).batch(0)
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}
    lengths = flat["segments"].sum(1)
    networks = [starts.opened(folder, "policy") for folder in (runs.policy, runs.reference)]
    own, other = (logprobs(network, flat["tokens"], lengths, 1.0) for network in networks)
    ratios = np.where(flat["loss_mask"], own - other, 0.0).sum(1).reshape(-1, 2)
    margin = 0.4 * (ratios[:, 0] - ratios[:, 1])
    np.testing.assert_allclose(row["dpo"], np.log1p(np.exp(-margin)).mean(), rtol=1e-5)
    np.testing.assert_allclose(row["margin"], margin.mean(), rtol=1e-3, atol=1e-5)
    assert np.abs(margin).max() > 1e-3


@pytest.mark.parametrize(
    "name", ["dpo", pytest.param("kto", marks=pytest.mark.slow),
             pytest.param("ppo", marks=pytest.mark.slow)]
)  # fmt: skip
def test_a_reference_of_the_policys_size_may_be_another_run(runs, name):
    """Known first losses are of a reference that is the policy's start, not of one of its size."""
    algorithm = {"dpo": dpo.DpoConfig(), "kto": unpaired.UnpairedConfig(), "ppo": PPO}[name]
    config = make(algorithm, data=runs.data, policy=runs.policy, reference=runs.moved)
    if name == "ppo":
        config.reward = runs.scorer
    (row,) = starts.rows_of(runs.train(f"{name} against another", config))
    if name == "dpo":
        assert abs(row["dpo"] - np.log(2)) > 1e-4
    # Named or not, the policy's own start is known to be no other.
    config.reference = runs.policy
    parts = assembly.Assembly(config, config.data.make(starts.quiet), sources.Stored())
    batch = {"tokens": np.zeros((2, 4), np.int32)}
    if name == "ppo":
        assert "kl" in parts.algorithm().first(batch)
    assert not parts._is_apart("reference")


def one_line(config, runs):
    """What training refuses it with."""
    with pytest.raises(ValueError, match="must") as caught:
        runs.train("refused", config)
    assert not (runs.root / "refused").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_role_without_a_model_is_refused(runs):
    message = one_line(make(PPO, policy=runs.policy), runs)
    assert "reward must name the folder of the network for the reward of ppo" in message
    assert "--config.reward=RUN_FOLDER" in message
    message = one_line(make(dpo.DpoConfig(), data=runs.data, critic=runs.scorer), runs)
    assert "must" in message
    message = one_line(make(PPO, policy=runs.policy, reward=runs.policy), runs)
    assert "reward must be the run of a reward model; got" in message
    message = one_line(make(PPO, policy=runs.scorer, reward=runs.scorer), runs)
    assert "must be the run of a language model; got" in message
    message = one_line(make(PPO, policy=runs.policy, reward=runs.scorer, teacher="x"), runs)
    assert "teacher must be empty for ppo, which has no such network" in message
    message = one_line(make(PPO, policy=runs.policy, reward=str(runs.root / "none")), runs)
    assert "must be the folder of a finished run; got" in message
    # What an experiment trains itself is of the size that it says.
    message = one_line(make(PPO, SCORER, policy=runs.policy, reward=runs.scorer), runs)
    assert "must be that of the run to start from; got" in message
