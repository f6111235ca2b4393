"""Pass rates: closed forms, subsets by enumeration, and a subject whose completions are known."""

import itertools

import numpy as np
import pytest

from alignjax.algorithms import grpo, ppo, reinforce
from alignjax.evals import estimate, evaluator, pass_rate
from alignjax.evals import policy as policies
from alignjax.rewards import rules
from alignjax.worlds import chain


@pytest.mark.parametrize(
    ("drawn", "solved", "k", "wanted"),
    [(16, 3, 4, 0.6071), (8, 1, 4, 0.5), (64, 5, 16, 0.7754), (4, 4, 1, 1.0), (4, 0, 4, 0.0)],
)
def test_closed_forms(drawn, solved, k, wanted):
    assert pass_rate.pass_at_k(np.array([solved]), drawn, k)[0] == pytest.approx(wanted, abs=5e-5)


def test_it_is_the_share_of_subsets_with_a_solved_draw():
    for drawn, solved in itertools.product(range(1, 7), range(7)):
        if solved > drawn:
            continue
        draws = [1] * solved + [0] * (drawn - solved)
        for k in range(1, drawn + 1):
            subsets = list(itertools.combinations(draws, k))
            wanted = np.mean([any(subset) for subset in subsets])
            assert pass_rate.pass_at_k(solved, drawn, k) == pytest.approx(wanted, abs=1e-12)
        assert np.isnan(pass_rate.pass_at_k(solved, drawn, drawn + 1))


def test_it_is_unbiased():
    """Its mean over binomial counts is 1 - (1 - p)^k at every p."""
    n, k = 8, 4
    for p in (0.02, 0.1, 0.3, 0.9):
        counts = np.random.default_rng(0).binomial(n, p, 200_000)
        got = estimate.mean(pass_rate.pass_at_k(counts, n, k))
        assert abs(got.value - (1 - (1 - p) ** k)) < 4 * got.se


def test_more_solved_than_drawn_is_refused():
    with pytest.raises(ValueError, match=r"0 <= solved <= drawn; got k=1, solved \[3"):
        pass_rate.pass_at_k(np.array([3]), 2, 1)


def test_numbers_are_clustered_by_prompt():
    reward = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, np.nan], [np.nan] * 4], float)
    found = pass_rate.passes(reward, 1.0)
    assert list(found) == ["pass@1", "pass@2", "pass@4"]
    rates = np.array([1, 0, 1 / 3])
    assert found["pass@1"] == estimate.mean(rates)
    assert found["pass@1"].n == 3  # prompts, not samples; the last has no score at all
    assert found["pass@2"] == estimate.mean(np.array([1, 0, 2 / 3]))
    assert found["pass@4"].n == 2  # the third prompt has three scored draws
    assert pass_rate.sizes(1) == [1]
    assert pass_rate.sizes(6) == [1, 2, 4, 6]


def test_without_a_number_there_is_no_estimate():
    assert estimate.clustered(np.full((2, 3), np.nan)).n == 0


WORLD = chain.ChainConfig(modulus=7, longest=4, prompts=8, eval_rows=8, demonstrations=8)
SAMPLES, SOLVED = 4, np.array([4, 3, 2, 1, 0, 0, 4, 2])


def subject_of(config):
    """A subject whose sampler solves SOLVED of the SAMPLES completions of each prompt."""
    corpus = WORLD.make(lambda line: None)

    def sample(policy, reference, prompts, seed, *, reward=None):
        starts = prompts["lengths"]
        answers, _ = chain.solve(WORLD, prompts["prompts"], starts)
        steps = (starts - 2) // 2
        tokens = np.zeros((len(starts), WORLD.length), np.int32)
        for row, start in enumerate(starts):
            tokens[row, :start] = prompts["prompts"][row, :start]
            tokens[row, start : start + steps[row] + 1] = answers[row, : steps[row] + 1]
            if row % SAMPLES >= SOLVED[row // SAMPLES]:
                tokens[row, start] = chain.FIRST + (tokens[row, start] - chain.FIRST + 1) % 7
        zeros = np.zeros(len(starts), np.float32)
        lengths = starts + steps + 1
        return policies.Completions(
            tokens, lengths, starts, np.ones(len(starts), bool), zeros, zeros, zeros * np.nan
        )

    return evaluator.Subject(
        networks={"policy": None}, trees={"policy": {}}, corpus=corpus, config=config,
        sampling=config.sampling, rewards={}, rows=8, seed=0, programs={"sampler": sample},
    )  # fmt: skip


def test_the_datas_own_reward_judges_a_run():
    config = grpo.GrpoConfig(reward="gold", eval_samples=SAMPLES)
    (judge,) = config.METHOD.evaluators(config)
    found = judge.run(subject_of(config))
    rates = SOLVED / SAMPLES
    assert found["gold reward"] == estimate.mean(rates)
    assert found["pass@1"] == estimate.mean(rates)
    assert found["pass@4"].value == pytest.approx(np.mean(SOLVED > 0))
    assert found["unscored"].value == 0
    assert "reward" not in found


def test_rules_judge_a_run_by_texts_and_columns():
    first = r"\d+( \d+)*"
    config = reinforce.ReinforceConfig(
        rules={"form": rules.Format(pattern=first, weight=0.25), "last": rules.LastNumber()},
        eval_samples=SAMPLES,
        solved_from=1.25,
    )
    subject = subject_of(config)
    tasks = [
        {**task, "answer": task["answer"].split()[-1]} for task in subject.corpus.tasks("eval")
    ]
    subject = subject._replace(corpus=subject.corpus._replace(tasks=lambda split: tasks))
    (judge,) = config.METHOD.evaluators(config)
    found = judge.run(subject)
    # A wrong first step leaves the last number as it was.
    assert found["reward form"].value == found["reward last"].value == 1.0
    assert found["reward"].value == 1.25
    assert found["pass@1"].value == 1.0
    config.solved_from = 1.3
    assert judge.run(subject)["pass@1"].value == 0.0
    with pytest.raises(ValueError, match="must be able to read the answers of 99 % of rows"):
        judge.run(subject_of(config))  # whose answers are several numbers


def test_a_reward_models_run_is_judged_as_before():
    config = ppo.PpoConfig()
    assert config.METHOD.evaluators(config) == (policies.SAMPLES,)
    config = ppo.PpoConfig(reward="gold", eval_samples=0)
    with pytest.raises(ValueError, match=r"eval_samples must be finite and >= 1; got 0"):
        config.validate()
