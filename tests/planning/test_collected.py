"""Plans of episodes and of replay: every program of an iteration, and what it holds."""

import dataclasses

import pytest

from alignjax.algorithms import grpo
from alignjax.envs import games
from alignjax.models.config import TransformerConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import planner, topology
from alignjax.runs import experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training import loop as loops
from alignjax.worlds import chain, guess

GROUP, PROMPTS, TURNS = 4, 8, 3
GAME = grpo.GrpoConfig(
    reward="env",
    env=games.GuessNumber(numbers=7, limit=TURNS),
    group=GROUP,
    sampling=SamplingConfig(max_new_tokens=2),
)


def plan(algorithm, data=None):
    config = experiment.Experiment(
        algorithm=algorithm,
        model=TransformerConfig(layers=1, width=32, heads=2, kv_heads=2, head_dim=16, ff=64),
        data=data
        or guess.GuessConfig(numbers=7, guesses=TURNS, documents=64, prompts=64, eval_rows=14),
        mesh=MeshConfig(data=4),
        policy="RUN",
        loop=loops.LoopConfig(steps=1, batch_size=PROMPTS),
    )
    found = planner.plan(config, topology.find("cpu:4"), lambda line: None)
    return {each.name: each for each in found.programs}


@pytest.fixture(scope="module")
def game():
    return plan(GAME)


def test_episodes_are_planned_by_their_longest_turn(game):
    assert {"generate", "experience", "update"} <= set(game)
    # Rows differ after a turn, so that each is read, behind all turns before its last.
    more = plan(dataclasses.replace(GAME, env=games.GuessNumber(numbers=7, limit=TURNS + 3)))
    assert more["generate"].flops > game["generate"].flops
    assert more["update"].flops > game["update"].flops


def test_a_prompt_is_read_once_for_its_group(game):
    """The compiler counts the products that the formula has; a game's rows are read one by one."""
    sums = plan(
        dataclasses.replace(GAME, reward="gold", env=None),
        chain.ChainConfig(demonstrations=64, prompts=64, eval_rows=16),
    )
    for each in (game["generate"], sums["generate"]):
        assert each.flops * 4 == pytest.approx(each.work.run, rel=0.03)


def test_groups_that_are_kept_are_counted(game):
    kept = 2
    changes = {"replay": kept, "correction": "truncate"}
    found = plan(dataclasses.replace(GAME, **changes))
    none = plan(dataclasses.replace(GAME, **{**changes, "replay": 0}))
    width = guess.GuessConfig(numbers=7, guesses=TURNS).make(lambda line: None).prompt_length
    width += GAME.new_tokens
    row = width * (4 + 1 + 4) + 5 * 4 + 1 + 4 + 4 + 1  # tokens, mask, log-probabilities; columns
    more = (
        found["experience"].memory.arguments["batch"] - none["experience"].memory.arguments["batch"]
    )
    assert more == kept * GROUP * row + 4  # whole on every device, and their count
