"""What a run keeps alive: one state, and frozen trees that something still reads."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import dpo, pretrain
from alignjax.core import mean
from alignjax.data import pipeline
from alignjax.models import config as model_config
from alignjax.runs import experiment
from alignjax.runs import train as runs
from alignjax.training import algorithm, loop
from alignjax.worlds import corpus
from tests.commands import cli
from tests.training import tiny

MARK = 1237  # a size that nothing else here has


def alive(size: int = MARK) -> int:
    """How many arrays of this size the devices hold."""
    return sum(size in x.shape for x in jax.live_arrays())


def toy(collect, width: int = MARK) -> algorithm.Algorithm:
    """Least squares on `width` weights that start from an earlier run's."""

    def loss(params, frozen, batch, key):
        square = sum(jnp.mean(w**2) for w in params.values()) * batch["x"]
        return {"square": mean.of(square)}, {}

    def init(key, start):
        return algorithm.copy(start["policy"])

    return algorithm.Algorithm(init=init, loss=loss, collect=collect)


def train(workdir, method, start, steps, **changes):
    table = {"x": np.ones(8, np.float32)}
    batches = pipeline.Batches(table, batch_size=4, seed=0)
    return loop.train(
        method,
        batch_at=batches.batch,
        start=start,
        frozen={},
        optimizer=tiny.optimizer(learning_rate=1e-3),
        config=loop.LoopConfig(
            **{"steps": steps, "batch_size": 4, "checkpoint_every": 100, **changes}
        ),
        seed=0,
        workdir=workdir,
        meta={},
        name="toy",
        log=print,
    )


def test_only_the_state_is_alive_in_a_step_fresh_or_resumed(tmp_path):
    """R44, R46: not what the run started from, and no second copy of what was restored."""
    found = []

    def collect(state, frozen, batch, key):
        found.append(alive())
        return batch, state.carry, {}

    for steps in (3, 6):
        train(tmp_path, toy(collect), {"policy": {"w": jnp.ones(MARK)}}, steps)
    assert found == [3] * 6  # weights and Adam's two moments


def test_what_a_run_starts_from_is_gone_before_a_checkpoint_is_restored(tmp_path, monkeypatch):
    train(tmp_path, toy(algorithm.as_is), {"policy": {"w": jnp.ones(MARK)}}, 2)
    found = []
    inner = loop.checkpoint.Checkpoints.restore

    def restore(self, *args):
        found.append(alive())
        return inner(self, *args)

    monkeypatch.setattr(loop.checkpoint.Checkpoints, "restore", restore)
    train(tmp_path, toy(algorithm.as_is), {"policy": {"w": jnp.ones(MARK)}}, 4)
    assert found == [0]


def test_the_first_resumed_update_reuses_what_was_restored(tmp_path):
    """R46: its arrays are donated, as those of a fresh run are."""
    states = []

    def collect(state, frozen, batch, key):
        states.append(state)
        return batch, state.carry, {}

    start = {"policy": {"w": jnp.ones(MARK)}}
    train(tmp_path, toy(collect), start, 2)
    states.clear()
    train(tmp_path, toy(collect), {"policy": {"w": jnp.ones(MARK)}}, 4)
    assert len(states) == 2
    assert all(x.is_deleted() for x in jax.tree.leaves((states[0].params, states[0].opt_state)))


@pytest.fixture
def policy(tmp_path):
    """(folder of a pretrained run, its experiment); its embedding has a width of its own."""
    config = experiment.Experiment(
        algorithm=pretrain.PretrainConfig(),
        model=model_config.TransformerConfig(
            layers=1, width=88, heads=1, kv_heads=1, head_dim=8, ff=16, unroll=1
        ),
        data=corpus.ReviewConfig(documents=32, demonstrations=8, prompts=8, eval_rows=8),
        loop=loop.LoopConfig(steps=1, batch_size=8),
    )
    folder = tmp_path / "policy"
    runs.train(config, folder, name="policy", log=lambda line: None)
    return folder, config


def test_dpo_lets_go_of_the_reference_once_its_log_probabilities_are_known(
    tmp_path, policy, monkeypatch
):
    folder, config = policy
    rows = corpus.make_corpus(config.data).table("demonstrations", "train")
    pairs = {name: np.stack([x, x[::-1]], axis=1) for name, x in rows.items()}
    corpus.write_pairs(tmp_path / "pairs.npz", pairs, pairs)
    config.algorithm, config.policy = dpo.DpoConfig(), str(folder)
    config.data.pairs = str(tmp_path / "pairs.npz")
    config.loop.steps = 2
    found = []
    inner = pipeline.Batches.batch

    def batch(self, step):
        found.append(sum(x.shape == embed for x in jax.live_arrays()))
        return inner(self, step)

    embed = (corpus.make_corpus(config.data).vocab_size, 88)
    monkeypatch.setattr(pipeline.Batches, "batch", batch)
    runs.train(config, tmp_path / "dpo", name="dpo", log=lambda line: None)
    assert found == [3, 3]  # policy and moments


PEAK = """
import ctypes, json, pathlib, re, resource, sys
import jax.numpy as jnp
from tests.training import test_memory as memory
from alignjax.training import algorithm

folder, steps, every, width = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
sizes = []


def resident():
    ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()


def collect(state, frozen, batch, key):
    sizes.append(resident())
    return batch, state.carry, {}


# What imports, threads and small programs take, before the arrays of the run.
memory.train(folder / f"warm{steps}", memory.toy(algorithm.as_is), memory.weights(48), 2)
before = resident()
run = memory.toy(collect)
memory.train(folder / "run", run, memory.weights(width), steps, checkpoint_every=every)
# Of this process: `ru_maxrss` starts at that of the process which started it.
status = pathlib.Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
print(json.dumps({"before": before, "peak": peak, "sizes": sizes}))
"""


def weights(width, leaves=48):
    names = [f"w{number}" for number in range(leaves)]
    return {"policy": {name: jnp.ones(width // leaves) for name in names}}


def measure(folder, steps, every, width):
    """Resident bytes of a process that trains: before the run, at each step, and the peak."""
    words = [sys.executable, "-c", PEAK, str(folder), str(steps), str(every), str(width)]
    # Freed memory goes back to the system at once: what is resident is what is held.
    env = {**cli.environment(quick=False), "MALLOC_MMAP_THRESHOLD_": "100000"}
    ran = subprocess.run(words, cwd=cli.ROOT, env=env, text=True, capture_output=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_of_a_restore_and_of_resumed_steps(tmp_path):
    """R44 and R46 with a state of 1 GiB: weights in 48 leaves and two moments."""
    width = 2**30 // 12
    state = 12 * width
    fresh = measure(tmp_path, 2, 100, width)
    restored = measure(tmp_path, 2, 100, width)  # nothing to do: a restore alone
    resumed = measure(tmp_path, 4, 100, width)
    grown = {
        name: (found["peak"] - found["before"]) / state
        for name, found in (("fresh", fresh), ("restored", restored), ("resumed", resumed))
    }
    print(grown)
    assert grown["restored"] < 1.6
    assert resumed["peak"] <= 1.05 * fresh["peak"]


@pytest.mark.slow
def test_memory_does_not_grow_with_saves(tmp_path):
    """R45: 50 saves of 12 MiB."""
    sizes = measure(tmp_path, 60, 1, 2**20)["sizes"]
    print(sizes[8::10])
    assert max(sizes[55:]) < 1.05 * max(sizes[5:10])
