"""What a run reads, in shapes: its data, its batches and the trees that it starts from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from alignjax import experiment
from alignjax.algorithms import ppo
from alignjax.data import corpus as corpora
from alignjax.models import model as models
from alignjax.models.adapters import adapt
from alignjax.parallel import axes, hosts
from alignjax.sampling import generate
from alignjax.worlds import corpus as world_corpus

READ = {"tokens": np.int32, "loss_mask": np.bool_, "segments": np.int32, "positions": np.int32}


def without_data(config: experiment.Experiment) -> experiment.Experiment:
    """A copy whose missing folders have names: a plan reads none of them."""
    needs = isinstance(config.algorithm, experiment.REFERRING)
    policy = config.policy or ("policy" if needs and not config.weights else "")
    scored = isinstance(config.algorithm, ppo.PpoConfig) and config.algorithm.reward == "model"
    return dataclasses.replace(
        config, policy=policy, reward=config.reward or ("reward" if scored else "")
    )


def corpus(config: experiment.Experiment) -> corpora.Corpus:
    """The sizes of the data, without reading any where they do not depend on it."""
    data = config.data
    if isinstance(data, world_corpus.ReviewConfig):
        return experiment.make_corpus(data, lambda line: None)
    vocab = 0 if config.weights else config.model.vocab_size or getattr(data, "vocab_size", 0)
    return corpora.Corpus(
        vocab_size=vocab,
        pad=0,
        eos=1,
        length=data.length,
        prompt_length=data.prompt_length,
        table=lambda kind, split: {},
        text=str,
        fingerprints={},
    )


def rows(columns: Mapping[str, Any], *sizes: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Global arrays [*sizes] with the layout of a batch; columns: dtype by name."""
    where = hosts.sharding(len(sizes)) if axes.has_mesh() else None
    return {n: jax.ShapeDtypeStruct(sizes, t, sharding=where) for n, t in columns.items()}


def samples(count: int, length: int) -> generate.Samples:
    """Samples of `count` rows, in shapes."""
    wide = {"tokens": np.int32, "mask": np.bool_, "logprobs": np.float32}
    narrow = {"lengths": np.int32, "prompt_lengths": np.int32, "ended": np.bool_}
    fields: dict[str, Any] = {**rows(wide, count, length), **rows(narrow, count)}
    return generate.Samples(**fields)


def starts(
    config: experiment.Experiment, plain: models.Model, model: models.Model, key: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(start, frozen) of the run as experiment.load_start gives them, in shapes."""
    base = jax.eval_shape(plain.init, key)
    start: dict[str, Any] = {}
    frozen: dict[str, Any] = {}
    refers = isinstance(config.algorithm, experiment.REFERRING)
    adapted = not isinstance(config.adapter, adapt.FullConfig)
    if config.policy or config.weights:
        start["policy"] = jax.eval_shape(model.init, key) if adapted else base
    if adapted:
        frozen["base"] = base
    if refers:
        frozen["reference"] = adapt.empty(start["policy"]) if adapted else start["policy"]
    if config.reward:
        frozen["reward"] = jax.eval_shape(plain.with_scalar, base)
        if not adapted:
            start["reward"] = frozen["reward"]
    return start, frozen


def laid_out(tree: Any, where: Any) -> Any:
    """The same shapes with these layouts."""
    return jax.tree.map(
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), tree, where
    )
