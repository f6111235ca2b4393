"""Every loss on rollouts of every preset takes a step on ChainWorld, by its method's record."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import training
from alignjax.algorithms import grpo, reinforce
from alignjax.core import mean
from alignjax.models import transformer
from alignjax.models.config import TransformerConfig
from alignjax.rewards import rules
from alignjax.rollouts import settings
from alignjax.sampling import transforms
from alignjax.training import method
from alignjax.worlds import chain
from tests.rollouts import bigram, learner, test_invariances

WORLD = chain.ChainConfig(modulus=3, shortest=1, longest=2, prompts=16, documents=8)
SHAPE = TransformerConfig(
    vocab_size=WORLD.vocab_size, layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16
)
MODELS = {"table": bigram.bigram(WORLD.vocab_size), "transformer": transformer.transformer(SHAPE)}
ROWS = 8


@dataclasses.dataclass(kw_only=True)
class Low(rules.RuleConfig):
    """The share of a text's words that are 0 or 1."""

    def score(self, texts, tasks):
        return rules.per_text(
            lambda text, task: np.mean([w in "01" for w in text.split()] or [0.0]), texts, tasks
        )


@functools.cache
def corpus():
    return WORLD.make(lambda line: None)


def step(config, model="table", count=1):
    """(parameters before, after, metrics of each step) of a run's own way to its algorithm."""
    data, network = corpus(), MODELS[model]
    config.validate()
    record = config.METHOD
    task = method.Task(
        eos=data.eos, pad=data.pad, length=data.length, prompt_length=data.prompt_length,
        batch_size=ROWS, gold=data.gold, text=data.text, rows=data.tasks("train"),
    )  # fmt: skip
    made = record.make(dict.fromkeys(record.roles(config), network), config, task)
    start = jax.jit(network.init)(jax.random.key(0))
    table = data.read(record.table(config), "train")
    tx = optax.adam(1e-2)
    state = training.initial_state(made, tx, start={"policy": start})
    before = jax.device_get(state.params)
    found = []
    for last, metrics in training.steps(
        made, [{n: x[:ROWS] for n, x in table.items()}] * count, tx, state=state,
        frozen={"reference": jax.tree.map(jnp.copy, start)},
    ):  # fmt: skip
        found.append(mean.floats(metrics))
        after = jax.device_get(last.params)
    return before, after, found


def check_steps(config, model="table", count=1):
    before, after, found = step(config, model, count)
    for metrics in found:
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        assert metrics["skipped"] == 0
        assert metrics["drift"] < 1e-3
    assert found[0]["grad_norm"] > 1e-5
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert max(jax.tree.leaves(moved)) > 1e-4


def config_of(preset, name, **changes):
    sampling = transforms.SamplingConfig(max_new_tokens=3)
    own = test_invariances.OPTIONS.get((preset, name), {})
    given = {"group": 4, "rules": {"low": Low()}, "sampling": sampling, **own}
    return grpo.GrpoConfig(compat=preset, method=name, **{**given, **changes})


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        pytest.param(*pair, marks=() if pair[0] == "paper" else pytest.mark.slow)
        for pair in learner.methods()
    ],
)
def test_every_loss_takes_a_step(preset, name):
    check_steps(config_of(preset, name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "name"), [pair for pair in learner.methods() if pair[1] != "dapo_per_prompt"]
)
def test_every_loss_takes_several_updates_of_a_batch(preset, name):
    check_steps(config_of(preset, name, epochs=2, minibatches=2), count=2)


@pytest.mark.parametrize(
    ("preset", "name", "options"),
    [
        ("verl-0.9", "ppo_clip", {"reduction": "row_fixed"}),
        ("tunix-0.1.7", "dr_grpo", {"kl_weight": 0.0}),
        ("trl-1.16", "dr_grpo", {}),
    ],
)
def test_sums_over_a_fixed_length_are_over_the_answers_limit(preset, name, options):
    """Of the answers' alone: not of prompts beside them, nor of packed rows."""
    made = config_of(preset, name, **options)
    assert made.options["length"] == made.sampling.max_new_tokens == 3
    assert config_of(preset, name, length=7.0, **options).options["length"] == 7.0
    others = {**options, "reduction": "token_mean"}
    if "reduction" in made.recipe.defaults:
        assert "length" not in config_of(preset, name, **others).options


@pytest.mark.slow
@pytest.mark.parametrize("name", settings.estimators())
def test_every_estimator_takes_a_step(name):
    size = 1 if name in settings.ALONE else 4
    sampling = transforms.SamplingConfig(max_new_tokens=3)
    config = reinforce.ReinforceConfig(
        advantages=name, group=size, rules={"low": Low()}, sampling=sampling
    )
    if name == "flash_reinforce":  # of one release alone
        config.compat = "openrlhf-0.11"
        config.method = "ppo_clip"
    check_steps(config)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("grpo", {}),
        pytest.param(
            "gspo", {"lag": 1, "correction": "mask", "correction_level": "sequence"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "dapo", {"candidates": 2.0, "curriculum": 2.0, "pack": True}, marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
def test_a_transformer_takes_steps(name, changes):
    check_steps(config_of("paper", name, **changes), "transformer", 2)
