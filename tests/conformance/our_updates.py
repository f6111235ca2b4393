"""The same three updates by AlignJAX's own algorithm: collect, loss, optimizer, on given samples.

The sampler alone is a stand-in, which returns the recorded answers with the reference's own
log-probabilities; the algorithm's check of its drift compares them with ours.
"""

import functools
import pathlib
import tempfile
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import training
from alignjax.algorithms import grpo, policy_gradient, reinforce
from alignjax.models import transformer
from alignjax.models.checkpoints import folder, hf_config, safetensors_io, sharded
from alignjax.sampling import generate, transforms
from alignjax.training import optim, stepping, update
from tests.conformance import updates

KINDS = {"grpo": grpo.GrpoConfig, "reinforce": reinforce.ReinforceConfig}
TOLERANCE = 1e-5  # of parameters, absolute
RELATIVE = 1e-5  # of gradient norms and losses, relative to the larger of the number and 0.1
FIELDS = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **updates.SHAPE}


class Run(NamedTuple):
    """params [3, n], norms [3] and losses [3], as in `updates.Recorded`."""

    params: np.ndarray
    norms: np.ndarray
    losses: np.ndarray


class Errors(NamedTuple):
    """The largest over three updates, or over the first one alone."""

    params: float
    norms: float
    losses: float

    @property
    def agrees(self) -> bool:
        return self.params <= TOLERANCE and max(self.norms, self.losses) <= RELATIVE


@functools.cache
def opened(seed: int) -> Any:
    """(folder.Stored, its parameters) of `updates.weights(seed)`."""
    named = updates.weights(seed)
    entries = [(name, x.shape, x.dtype, lambda x=x: x) for name, x in named.items()]
    with tempfile.TemporaryDirectory() as made:
        path = pathlib.Path(made) / "model"
        files = {"config.json": hf_config.encode(FIELDS)}
        safetensors_io.write_folder(path, entries, files=files)
        stored = folder.open_model(path)
        return stored, stored.load()


def config_of(recorded: updates.Recorded, **changes: Any) -> Any:
    """The configuration that a recording names."""
    sampling = transforms.SamplingConfig(max_new_tokens=updates.ANSWER)
    given = {
        "compat": recorded.preset,
        "reward": "gold",
        "group": updates.SAMPLES,
        "epochs": updates.UPDATES,
        "sampling": sampling,
        **recorded.options,
        **changes,
    }
    return KINDS[recorded.algorithm](**given)


def answers(old_logprobs: np.ndarray) -> generate.Samples:
    """The given answers, as the sampler would return them."""
    given = updates.samples()
    rows = updates.PROMPTS * updates.SAMPLES
    shape = rows, updates.PROMPT + updates.ANSWER
    tokens, mask = np.full(shape, updates.PAD, np.int32), np.zeros(shape, bool)
    logprobs = np.zeros(shape, np.float32)
    begin, end = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    for row, answer in enumerate(given["answers"]):
        prompt = given["prompts"][row // updates.SAMPLES]
        begin[row], end[row] = len(prompt), len(prompt) + len(answer)
        tokens[row, : end[row]] = prompt + answer
        mask[row, begin[row] : end[row]] = True
        logprobs[row, begin[row] : end[row]] = old_logprobs[row, : len(answer)]
    made = {
        "tokens": tokens,
        "mask": mask,
        "logprobs": logprobs,
        "lengths": end,
        "prompt_lengths": begin,
        "ended": np.array([ids[-1] == updates.EOS for ids in given["answers"]]),
    }
    return generate.Samples(**{name: jnp.asarray(x) for name, x in made.items()})


def prompts() -> dict[str, jax.Array]:
    """The batch of prompts."""
    given = updates.samples()["prompts"]
    ids = np.full((updates.PROMPTS, updates.PROMPT), updates.PAD, np.int32)
    for row, prompt in enumerate(given):
        ids[row, : len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in given], np.int32)
    index = np.arange(updates.PROMPTS, dtype=np.int32)
    batch = {"prompts": ids, "lengths": lengths, "index": index}
    return {name: jnp.asarray(x) for name, x in batch.items()}


def algorithm_of(recorded: updates.Recorded, config: Any) -> training.algorithm.Algorithm:
    """The algorithm, over a sampler that returns the given answers."""
    model = transformer.transformer(opened(0)[0].config)
    samples = answers(recorded.old_logprobs)
    rewards = jnp.asarray(updates.samples()["rewards"].reshape(-1))
    with mock.patch.object(generate, "make_generate", return_value=lambda *_: samples):
        return policy_gradient.policy_gradient(
            model,
            config,
            reward=lambda frozen, samples, columns: rewards,
            eos=updates.EOS,
            pad=updates.PAD,
            reference=model,
            micro_batches=recorded.micro_batches,
            prompts=updates.PROMPTS,
        )


def run(recorded: updates.Recorded, **changes: Any) -> Run:
    """Three updates by us; changes: of the configuration."""
    config = config_of(recorded, **changes)
    method = algorithm_of(recorded, config)
    (stored, start), reference = opened(0), opened(1)[1]
    settings = optim.OptimConfig(
        **updates.OPTIM, no_decay=recorded.no_decay, schedule="constant", warmup_steps=0
    )
    tx = optim.make_optimizer(settings, start, updates.UPDATES)
    state = training.initial_state(method, tx, start={"policy": start})
    frozen = {"reference": reference}
    keys = jax.random.split(jax.random.key(0), 3)
    rows, _, _ = method.collect(state, frozen, prompts(), keys[0])
    step = update.make_update(method.loss, tx, micro_batches=recorded.micro_batches)
    params, norms, losses = [], [], []
    for part in stepping.minibatches(rows, method.plan, keys[1]):
        state, metrics = step(state, frozen, part, keys[2])
        found = sharded.tensors_of(state.params, stored.sources, np.dtype(np.float32))
        params.append(updates.flat({name: get() for name, _, _, get in found}))
        norms.append(float(metrics["grad_norm"].value))
        losses.append(float(metrics["loss"].value))
    return Run(np.stack(params), np.array(norms), np.array(losses))


def errors(recorded: updates.Recorded, ours: Run) -> Errors:
    """How far ours are from the recorded ones."""
    apart = [
        np.abs(mine - theirs) / np.maximum(np.abs(theirs), 0.1)
        for mine, theirs in ((ours.norms, recorded.norms), (ours.losses, recorded.losses))
    ]
    far = float(np.max(np.abs(ours.params - recorded.params)))
    return Errors(far, *(float(np.nanmax(x, initial=0.0)) for x in apart))
