"""The contract of environments, and guess-a-number with its best return."""

import itertools

import numpy as np
import pytest

from alignjax.envs import env, games
from alignjax.worlds import guess
from tests.envs import own_env

KEYS = np.arange(8, dtype=np.uint32).reshape(4, 2)


def best_by_search(numbers, guesses, cost):
    """The best mean return by dynamic programming over ranges of numbers that may be the secret."""

    def value(low, high, turn):
        if low > high or turn == guesses:
            return 0.0
        own = 1.0 - cost * turn
        return own + max(
            value(low, n - 1, turn + 1) + value(n + 1, high, turn + 1) for n in range(low, high + 1)
        )

    return value(1, numbers, 0) / numbers


@pytest.mark.parametrize("cost", [0.0, 0.1])
def test_the_best_return_is_that_of_the_best_strategy(cost):
    for numbers, guesses in itertools.product((2, 3, 6, 7, 8, 11), (1, 2, 3, 4)):
        found = guess.optimal_return(numbers, guesses, cost)
        assert found == pytest.approx(best_by_search(numbers, guesses, cost))
    assert guess.optimal_return(7, 3) == 1.0
    assert guess.optimal_return(7, 2) == pytest.approx(3 / 7)


def played(game, secret, guesses):
    """(what is said, rewards, done) of a game."""
    _, states = env.start(game, [{"secret": secret}], KEYS[:1])
    found = []
    for number in guesses:
        step = env.step(game, states, [[guess.FIRST + number]])
        states = step.states
        found.append((step.observations[0], float(step.rewards[0]), bool(step.done[0])))
    return found


def test_a_game_by_hand():
    game = games.GuessNumber(numbers=7, limit=3, cost=0.25)
    assert played(game, 5, [4, 6, 5]) == [
        ([guess.HIGHER], 0.0, False),
        ([guess.LOWER], 0.0, False),
        ([guess.LOWER], 0.5, True),
    ]
    assert [done for *_, done in played(game, 5, [1, 2, 3])] == [False, False, True]
    assert sum(paid for _, paid, _ in played(game, 5, [1, 2, 3])) == 0


@pytest.mark.parametrize("ids", [[], [guess.EOS], [guess.START], [guess.FIRST + 8], [5, 6]])
def test_an_answer_that_is_no_number_ends_the_game(ids):
    game = games.GuessNumber(numbers=7)
    _, states = game.start([{"secret": 1}], KEYS[:1])
    step = game.step(states, [ids])
    assert (float(step.rewards[0]), bool(step.done[0])) == (0.0, True)


def test_what_is_played_is_a_function_of_task_and_key():
    game = games.GuessNumber(numbers=1000)
    one, other = game.start([{}] * 4, KEYS), game.start([{}] * 4, KEYS.copy())
    assert one == other
    assert len({secret for secret, _ in one[1]}) > 1
    backwards = game.start([{}] * 4, KEYS[::-1])
    assert backwards[1] == one[1][::-1]  # of the own row alone
    own = own_env.Noisy()
    answers = [[2, 3], [5, 7], [5], [9]]
    first, again = (own.step(own.start([{}] * 4, KEYS)[1], answers) for _ in range(2))
    assert first.observations == again.observations
    assert first.done.tolist() == [True, True, False, False]  # 3 and 7 end it


def test_another_number_of_rows_is_refused():
    broken = own_env.Short()
    with pytest.raises(ValueError, match=r"for each of 4 rows; got 3 rewards \(Short.step\)"):
        env.step(broken, [0] * 4, [[1]] * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "GuessNumber.limit must be finite and >= 1; got 0"),
        ({"room": -1}, "GuessNumber.room must be finite and >= 0"),
        ({"numbers": 1}, "GuessNumber.numbers must be finite and >= 2"),
        ({"limit": 3, "cost": 0.6}, "GuessNumber.cost must be finite and >= 0 and <= 0.5"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        games.GuessNumber(**options).validate()


def test_the_world_reads_games_at_random():
    config = guess.GuessConfig(numbers=5, guesses=3, documents=400, prompts=12)
    corpus = config.make(print)
    table = corpus.read("documents", "train")
    for row in table["tokens"]:
        said = guess.words(row).replace("<pad>", "").split()
        assert said[0] == "<start>"
        assert said[-1] == "<eos>"
        numbers, told = [int(n) for n in said[1:-1:2]], said[2:-1:2]
        assert all(1 <= n <= 5 for n in numbers)
        assert len(told) == len(numbers) - 1
        for number, word in zip(numbers, told, strict=False):
            # The last number was right, or guesses ran out: what was said fits it where it was.
            if len(numbers) < 3:
                assert word == ("higher" if number < numbers[-1] else "lower")
    tasks = corpus.tasks("train")
    assert [task["secret"] for task in tasks] == [1, 2, 3, 4, 5] * 2 + [1, 2]
    assert corpus.read("prompts", "train")["prompts"].tolist() == [[guess.START]] * 12
