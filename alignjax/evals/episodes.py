"""A policy in its environment, on the prompts of the eval split."""

import jax
import numpy as np

from alignjax.core import keys
from alignjax.data import pipeline
from alignjax.envs import env as envs
from alignjax.evals import estimate, evaluator
from alignjax.evals import policy as policies
from alignjax.parallel import hosts
from alignjax.rollouts import episodes
from alignjax.sampling import generate


def _evaluate(subject: evaluator.Subject) -> evaluator.Numbers:
    corpus, config = subject.corpus, subject.config.env
    sampling = policies.sampling_of(subject)

    def make() -> episodes.Run:
        rows = None if corpus.tasks is None else corpus.tasks("eval")
        opened = config.opened(envs.Setting(corpus.eos, corpus.speaker))
        model = subject.networks["policy"]
        sample = generate.make_generate(model, sampling, eos=corpus.ends, pad=corpus.pad)
        play = episodes.Play(config, opened, rows)
        return episodes.make_episodes(sample, sampling, play, corpus.pad)

    run = subject.once("episodes", make)
    key = keys.stream(subject.seed, "evaluation")
    parts = []
    batches = pipeline.in_order(policies.prompts_of(corpus), subject.rows)
    for number, (batch, real) in enumerate(batches):
        columns = hosts.to_global(batch)
        found = run(subject.trees["policy"], columns, keys.at(key, number), 1)
        tokens = jax.numpy.sum(found.samples.mask, axis=1)
        arrays = [found.returns, found.turns, tokens, found.samples.ended]
        parts.append([x[:real] for x in hosts.to_host(arrays)])
    returns, turns, lengths, ended = (np.concatenate(x) for x in zip(*parts, strict=True))
    return {
        "return": estimate.clustered(returns[:, None]),
        "turns": estimate.mean(turns),
        "length, tokens": estimate.mean(lengths),
        "ended": estimate.mean(ended),
    }


# Mean return, turns and sampled tokens of episodes on the eval split.
EPISODES = evaluator.Evaluator("episodes", _evaluate, reads=("policy",))
