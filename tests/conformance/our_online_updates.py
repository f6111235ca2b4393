"""Three updates of online DPO, XPO and Nash-MD by AlignJAX, on given pairs of answers.

The sampler alone is a stand-in, which returns them at every step.
"""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import training
from alignjax.algorithms import nash_md, online_dpo, xpo
from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.checkpoints import sharded
from alignjax.sampling import generate, transforms
from alignjax.training import optim, update
from tests.conformance import online_updates, our_updates, updates

MAKERS: dict[str, Any] = {
    "online_dpo": (online_dpo.online_dpo, online_dpo.OnlineDpoConfig, {}),
    "xpo": (xpo.xpo, xpo.XpoConfig, {}),
    # The stand-in's samples are not drawn from the policy as it moves.
    "nash_md": (nash_md.nash_md, nash_md.NashMdConfig, {"max_drift": 1e3}),
}


def samples(sides: tuple[int, ...]) -> generate.Samples:
    """The given answers of these sides, group-major, as the sampler would return them."""
    given = online_updates.pairs()
    rows = [(p, given["answers"][p][side]) for p in range(updates.PROMPTS) for side in sides]
    shape = len(rows), updates.PROMPT + updates.ANSWER
    tokens, mask = np.full(shape, updates.PAD, np.int32), np.zeros(shape, bool)
    begin, end = (np.zeros(len(rows), np.int32) for _ in range(2))
    for row, (p, answer) in enumerate(rows):
        prompt = given["prompts"][p]
        begin[row], end[row] = len(prompt), len(prompt) + len(answer)
        tokens[row, : end[row]] = prompt + answer
        mask[row, begin[row] : end[row]] = True
    return generate.Samples(
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        logprobs=jnp.zeros(shape),
        lengths=jnp.asarray(end),
        prompt_lengths=jnp.asarray(begin),
        ended=jnp.asarray([ids[-1] == updates.EOS for _, ids in rows]),
    )


def run(recorded: updates.Recorded) -> our_updates.Run:
    """Three updates by us."""
    make, kind, own = MAKERS[recorded.algorithm]
    sampling = transforms.SamplingConfig(max_new_tokens=updates.ANSWER)
    options = {"compat": recorded.preset, "reward": "gold", "sampling": sampling}
    config = kind(**options, **own, **recorded.options)
    model = transformer.transformer(our_updates.opened(0)[0].config)
    whole = recorded.algorithm == "online_dpo"
    drawn = [samples((0, 1))] if whole else [samples((0,)), samples((1,))]
    rewards = jnp.asarray(online_updates.pairs()["rewards"].reshape(-1))
    stands = [lambda *_, one=one: one for one in drawn]
    with mock.patch.object(generate, "make_generate", side_effect=stands):
        method = make(
            model,
            config,
            reward=lambda frozen, samples, columns: rewards,
            eos=updates.EOS,
            pad=updates.PAD,
            reference=model,
        )
    (stored, start), reference = our_updates.opened(0), our_updates.opened(1)[1]
    settings = optim.OptimConfig(
        **updates.OPTIM, no_decay=recorded.no_decay, schedule="constant", warmup_steps=0
    )
    tx = optim.make_optimizer(settings, start, updates.UPDATES)
    state = training.initial_state(method, tx, start={"policy": start})
    step = update.make_update(method.loss, tx)
    frozen, key = {"reference": reference}, jax.random.key(0)
    params, norms, found = [], [], []
    for _ in range(updates.UPDATES):
        rows, carry, _ = method.collect(state, frozen, our_updates.prompts(), key)
        state, metrics = step(struct.replace(state, carry=carry), frozen, rows, key)
        tensors = sharded.tensors_of(state.params, stored.sources, np.dtype(np.float32))
        params.append(updates.flat({name: get() for name, _, _, get in tensors}))
        norms.append(float(metrics["grad_norm"].value))
        found.append(float(metrics["loss"].value))
    return our_updates.Run(np.stack(params), np.array(norms), np.array(found))
