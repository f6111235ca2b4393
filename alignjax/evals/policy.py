"""A policy's samples on fixed prompts: rewards, and the exact KL to its reference."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import keys
from alignjax.data import corpus as corpora
from alignjax.data import pipeline, tables
from alignjax.evals import estimate, evaluator
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.rewards import learned
from alignjax.rewards import scores as scores_of
from alignjax.sampling import generate, plan, transforms
from alignjax.training import program

PROMPTS = 2048  # at most so many prompts of the eval split are sampled


class Completions(NamedTuple):
    """One completion a prompt, as host arrays over N prompts; T tokens a row.

    kl: nats a completion, the sum over its tokens of KL(policy || reference) of the next-token
    distributions at the sampled prefixes, exact over the vocabulary.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    prompt_lengths: np.ndarray
    ended: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    score: np.ndarray  # by the reward model; nan where there is none

    @property
    def completion_lengths(self) -> np.ndarray:
        """Tokens of each completion, EOS included."""
        return self.lengths - self.prompt_lengths


Measure = Callable[
    [models.Params, models.Params | None, generate.Samples],
    tuple[jax.Array, jax.Array, jax.Array],
]


def make_measure(
    model: models.Model, temperature: float, reference_model: models.Model | None = None
) -> Measure:
    """Jitted (policy, reference or None, samples) -> (KL [B], entropy [B], largest drift)."""

    @jax.jit
    def measure(
        policy: models.Params, reference: models.Params | None, samples: generate.Samples
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        batch, mask = learned.as_batch(samples), samples.mask
        hidden = scoring.hidden_states(model, policy, batch)
        stats = scoring.stats_of(
            model,
            policy,
            hidden,
            batch["tokens"],
            temperature=temperature,
            want=("logprob", "entropy"),
            mask=mask,
        )
        if reference is None:
            kl = jnp.zeros_like(stats.logprob)
        else:
            kl = scoring.token_divergence(
                model,
                policy,
                hidden,
                reference,
                batch,
                temperature=temperature,
                other_model=reference_model,
                mask=mask,
            )
        drift = jnp.max(jnp.where(mask, jnp.abs(stats.logprob - samples.logprobs), 0.0))
        kl, entropy = (jnp.sum(jnp.where(mask, x, 0.0), axis=1) for x in (kl, stats.entropy))
        return kl, entropy, drift

    return measure


def make_sampler(
    model: models.Model,
    config: transforms.SamplingConfig,
    *,
    eos: int | Sequence[int],
    pad: int,
    rows: int,
    max_drift: float = 0.0,
    reference_model: models.Model | None = None,
    score: learned.RewardFn | None = None,
) -> Callable[..., Completions]:
    """(policy, reference, prompts, seed, *, reward=None) -> Completions.

    `rows` prompts are sampled at a time. The drift between sampler and scorer is checked on every
    batch, unless truncation makes the sampled distribution another than the model's. The tree
    `reward` is read by `score` as frozen["reward"]; score: by default that of a reward model of the
    policy's shape.
    """
    run = generate.make_generate(model, config, eos=eos, pad=pad)
    measure = make_measure(model, config.temperature or 1.0, reference_model)
    score_rows = learned.learned(model) if score is None else score

    def sample(
        policy: models.Params,
        reference: models.Params,
        prompts: tables.Table,
        seed: int,
        *,
        reward: models.Params | None = None,
    ) -> Completions:
        key = keys.stream(seed, "evaluation")
        parts = []
        for number, (batch, real) in enumerate(pipeline.in_order(prompts, rows)):
            columns = hosts.to_global(batch)
            samples = run(policy, columns["prompts"], columns["lengths"], keys.at(key, number))
            # A policy's divergence from itself needs no second model.
            other = None if reference is policy else reference
            kl, entropy, drift = measure(policy, other, samples)
            if not config.is_truncated:
                generate.check_drift(drift, generate.drift_limit(model, max_drift))
            arrays = [samples.tokens, samples.lengths, samples.prompt_lengths, samples.ended]
            missing = jnp.full(samples.lengths.shape, jnp.nan)
            scores = missing
            if reward is not None:
                found = score_rows({"reward": reward}, samples, columns)
                scores = scores_of.as_scores(found, rows).reward
            arrays += [kl, entropy, scores]
            parts.append([x[:real] for x in hosts.to_host(arrays)])
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Completions(*joined)

    return sample


def sampling_of(subject: evaluator.Subject) -> transforms.SamplingConfig:
    """The method's sampling; where it has none, plain sampling to the data's length."""
    corpus = subject.corpus
    return subject.sampling or transforms.SamplingConfig(
        max_new_tokens=corpus.length - corpus.prompt_length
    )


def prompts_of(corpus: corpora.Corpus) -> tables.Table:
    """The prompts of the eval split on which policies are evaluated."""
    return {name: x[:PROMPTS] for name, x in corpus.read("prompts", "eval").items()}


def completions_of(
    subject: evaluator.Subject, prompts: tables.Table, samples: int = 1
) -> Completions:
    """Completions of a subject's prompts, `samples` of each in a row, with their scores."""
    corpus, networks, trees = subject.corpus, subject.networks, subject.trees
    sample = subject.once(
        "sampler",
        lambda: make_sampler(
            networks["policy"],
            sampling_of(subject),
            eos=corpus.ends,
            pad=corpus.pad,
            rows=subject.rows,
            reference_model=networks.get("reference"),
            score=subject.rewards.get("reward"),
        ),
    )
    policy, reward = trees["policy"], trees.get("reward")
    reference = trees.get("reference", policy)
    wide = {name: np.repeat(x, samples, axis=0) for name, x in prompts.items()}
    return sample(policy, reference, wide, subject.seed, reward=reward)


def numbers_of(
    subject: evaluator.Subject, completions: Completions, samples: int = 1
) -> evaluator.Numbers:
    """Rewards, KL and lengths of completions, `samples` of each prompt in a row."""
    corpus, trees = subject.corpus, subject.trees

    def averaged(rows: np.ndarray) -> estimate.Estimate:
        return estimate.clustered(rows.reshape(-1, samples))

    numbers = {}
    if corpus.gold is not None:
        gold = corpus.gold(completions.tokens, completions.lengths)
        numbers["gold reward"] = averaged(gold)
    if trees.get("reward") is not None:
        numbers["reward model score"] = averaged(completions.score)
    if "reference" in trees:
        numbers["KL to the reference, nats"] = averaged(completions.kl)
    numbers["length, tokens"] = averaged(completions.completion_lengths)
    numbers["ended"] = averaged(completions.ended)
    return numbers


def _evaluate(subject: evaluator.Subject) -> evaluator.Numbers:
    return numbers_of(subject, completions_of(subject, prompts_of(subject.corpus)))


def programs_of(subject: evaluator.Subject) -> tuple[program.Program, ...]:
    """What an evaluation of samples runs: generation, and the divergence from the reference."""
    corpus, networks, trees = subject.corpus, subject.networks, subject.trees
    sampling, key = sampling_of(subject), jax.eval_shape(lambda: jax.random.key(0))
    policy, length = trees["policy"], corpus.prompt_length + sampling.max_new_tokens
    generation = plan.generation(
        networks["policy"],
        sampling,
        policy,
        parts=(("parameters", policy),),
        rows=subject.rows,
        prompt_length=corpus.prompt_length,
        eos=corpus.ends,
        pad=corpus.pad,
        key=key,
        name="evaluate generate",
    )
    samples = plan.samples(subject.rows, length)
    reference = trees.get("reference")
    passes: tuple[program.Pass, ...] = (program.Pass("policy"),)
    if reference is not None:
        passes = (*passes, program.Pass("reference"))
    measure = program.Program(
        "evaluate divergence",
        make_measure(networks["policy"], sampling.temperature or 1.0, networks.get("reference")),
        (policy, reference, samples),
        (("parameters", policy), ("frozen", reference), ("batch", samples)),
        rows=subject.rows,
        length=length,
        passes=passes,
        more_heads=("policy",) if reference is not None else (),
    )
    return generation, measure


# Reward, exact KL to the reference and length of a policy's completions.
SAMPLES = evaluator.Evaluator(
    "samples",
    _evaluate,
    reads=("policy",),
    optional=("reference", "reward"),
    programs=programs_of,
)
