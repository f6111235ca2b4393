"""Environments of a user's own, made by hand: what they say and pay is told by their options."""

import dataclasses

import numpy as np

from alignjax.envs import dialogue, env


@dataclasses.dataclass(kw_only=True)
class Noisy(env.EnvConfig):
    """Says numbers drawn by key and turn; pays the count of fives; ends after 3, 7, 11, ..."""

    opening: int = 2
    room: int = 3
    limit: int = 3
    longest: int = 3  # tokens of an observation

    def is_end(self, ids):
        return any(i % 4 == 3 for i in ids)

    def start(self, tasks, keys):
        draws = [np.random.default_rng(key) for key in keys]
        said = [draw.integers(8, 20, draw.integers(0, self.opening + 1)).tolist() for draw in draws]
        return said, [(tuple(key), 0) for key in keys]

    def step(self, states, answers):
        said, after = [], []
        for (key, turn), ids in zip(states, answers, strict=True):
            draw = np.random.default_rng([*key, turn, *ids])
            said.append(draw.integers(8, 20, draw.integers(0, self.longest + 1)).tolist())
            after.append((key, turn + 1))
        paid = np.asarray([ids.count(5) for ids in answers], np.float32)
        done = np.asarray([self.is_end(ids) for ids in answers])
        return env.Step(said, paid, done, after)


@dataclasses.dataclass(kw_only=True)
class Short(env.EnvConfig):
    """Forgets its last row."""

    def start(self, tasks, keys):
        return [[] for _ in tasks], [0] * len(tasks)

    def step(self, states, answers):
        return env.Step(
            [[]] * len(answers), np.zeros(len(answers) - 1), [True] * len(answers), states
        )


@dataclasses.dataclass(kw_only=True)
class Parrot(dialogue.DialogueConfig):
    """Says what was said, and how often it spoke; pays nothing."""

    def begin(self, tasks, keys):
        return [0] * len(tasks)

    def reply(self, states, texts):
        said = [f"{text} ({state})" for text, state in zip(texts, states, strict=True)]
        count = len(texts)
        after = [state + 1 for state in states]
        return dialogue.Reply(said, np.zeros(count), np.zeros(count, bool), after)
