"""Runs that compile at once for others to start from, and their networks read by themselves."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import mean, struct
from alignjax.models import config as model_config
from alignjax.models import flax_bridge
from alignjax.runs import evaluation, experiment
from alignjax.sampling import prefill
from alignjax.training import algorithm, method, optim
from alignjax.training import loop as loops
from tests.models import flax_toys

ROWS = 8
POLICY = model_config.TransformerConfig(layers=1, width=32, heads=2, kv_heads=1, head_dim=16, ff=32)


@dataclasses.dataclass(kw_only=True)
class ToyConfig(model_config.ModelConfig):
    """A Linen module as the model of a run."""

    vocab_size: int = 0
    width: int = 20

    def make(self):
        module = flax_toys.LinenToy(vocab=self.vocab_size, width=self.width)
        return flax_bridge.from_linen(module, flax_toys.LINEN)


@dataclasses.dataclass(kw_only=True)
class PullConfig(method.MethodConfig):
    """Weights are pulled to 1: a run whose programs compile at once, for others to start from."""

    head: bool = False  # with a scalar head, random at the start


def pull(model, config):
    def init(key, start):
        params = algorithm.from_policy(model, head=config.head)(key, start)
        if not config.head:
            return params
        return struct.replace(params, scalar=jax.random.normal(key, params.scalar.shape))

    def loss(params, frozen, batch, key):
        square = sum(jnp.mean((w - 1.0) ** 2) for w in jax.tree.leaves(params))
        return {"square": mean.of(square)}, {}

    return algorithm.Algorithm(init=init, loss=loss)


PullConfig.METHOD = method.Method(
    name="pull",
    make=lambda networks, config, task: pull(networks["policy"], config),
    table=lambda config: "demonstrations",
    roles=lambda config: {
        "policy": method.Role(trained=True, source="policy", head=config.head),
    },
    product=lambda config: {
        (method.SCORER if config.head else method.POLICY): method.whole()
    },
)  # fmt: skip


def quiet(line):
    """A log that nobody reads."""


def make(algorithm, model=POLICY, **options):
    """An experiment of one step."""
    return experiment.Experiment(
        algorithm=algorithm,
        model=model,
        loop=loops.LoopConfig(steps=1, batch_size=ROWS),
        optim=optim.OptimConfig(learning_rate=0.02, warmup_steps=0),
        **options,
    )


def rows_of(folder):
    """The rows of a run's metrics."""
    lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def opened(folder, part):
    """(model, tree) of a run by itself."""
    run = evaluation.open_run(pathlib.Path(folder))
    return run.model(part), run.joined(part)


def states(network, tokens, lengths):
    """[B, T, D] of right-padded rows."""
    model, tree = network
    positions, segments = prefill.right_padded(tokens, lengths)
    run = jax.jit(lambda w: model.hidden(w, tokens, positions=positions, segments=segments)[0])
    return run(tree)


def heads(network, tokens, lengths):
    """[B, T]: the scalar head after each token."""
    return np.asarray(network[0].scalar(network[1], states(network, tokens, lengths)))
