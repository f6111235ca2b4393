"""Recorded models of transformers, opened by us, and how far our values are from theirs."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import scoring, transformer
from alignjax.models.checkpoints import folder, safetensors_io, sharded
from tests.models import tiny

HERE = pathlib.Path(__file__).parent
DENSE = sorted(path.parent for path in (HERE / "goldens").glob("*/computed.npz"))
# In the quick tests: each family once, and each kind of rope scaling.
QUICK = (
    "gemma2 gemma3 gemma4 gemma4-single gemma4-experts granite lfm2 llama-biases-llama3 "
    "llama-linear llama-yarn mistral-window olmo3 qwen2-sliding qwen3 qwen3_5-odd qwen3_next "
    "smollm3 llama-dynamic phi3-longrope glm4"
)


def marked(paths: list[pathlib.Path]) -> list[Any]:
    """The paths as parameters of a test; those that are not quick are marked slow."""
    quick = QUICK.split()
    return [
        pytest.param(path, marks=[] if path.name in quick else pytest.mark.slow) for path in paths
    ]


SPARSE = sorted(path.parent for path in (HERE / "goldens_moe").glob("*/expected.npz"))
LENGTH = 24  # slots of every batch here, so that one program serves all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """What transformers computed: logits of a prompt [T, V]; of rows, without their padding;
    the prompt's mean cross entropy and its gradient by tensor name. cached: logits of the prompt
    and the rows by a cache, where these are others; else empty."""

    path: pathlib.Path
    prompt: np.ndarray
    logits: np.ndarray
    rows: list[np.ndarray]
    padded: dict[str, list[np.ndarray]]
    loss: float
    gradients: dict[str, np.ndarray]
    versions: dict[str, str]
    cached: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @functools.cached_property
    def stored(self) -> folder.Stored:
        return folder.open_model(self.path, skip="vision")

    @functools.cached_property
    def params(self) -> transformer.Transformer:
        return self.stored.load()


@functools.cache
def dense(path: pathlib.Path) -> Golden:
    """A golden of record_dense.py."""
    with np.load(path / "computed.npz", allow_pickle=False) as data:
        rows = [data[f"row/{i}"] for i in range(sum(n.startswith("row/") for n in data.files))]
        named = {n.removeprefix("gradient/"): data[n] for n in data.files if "gradient/" in n}
        return Golden(
            path=path,
            prompt=data["prompt"],
            logits=data["logits"],
            rows=rows,
            padded={s: [data[f"{s}/{i}"] for i in range(len(rows))] for s in ("left", "right")},
            loss=float(data["loss"]),
            gradients=named,
            versions=json.loads(str(data["versions"])),
            cached=[data[f"cached/{i}"] for i in range(len(rows) + 1) if f"cached/{i}" in data],
        )


@functools.cache
def sparse(path: pathlib.Path) -> Golden:
    """A golden of record_moe.py, whose rows are padded on the left only."""
    with np.load(path / "expected.npz", allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    lengths = [int(n) for n in arrays["lengths"]]
    held = safetensors_io.open_folder(path / "gradients.safetensors")
    return Golden(
        path=path,
        prompt=arrays["tokens"],
        logits=arrays["logits"],
        rows=[row[len(row) - n :] for row, n in zip(arrays["rows"], lengths, strict=True)],
        padded={"left": [x[len(x) - n :] for x, n in zip(arrays["padded"], lengths, strict=True)]},
        loss=float(arrays["loss"]),
        gradients={name: held.read(name) for name in held.tensors},
        versions=json.loads((path.parent / "versions.json").read_text()),
    )


def sequences(golden: Golden) -> list[np.ndarray]:
    """The prompt and the rows."""
    return [x.astype(np.int32) for x in (golden.prompt, *golden.rows)]


def model_of(golden: Golden) -> Any:
    return transformer.transformer(golden.stored.config)


def capped(model: Any, logits: Any) -> Any:
    cap = model.logit_softcap
    return cap * jnp.tanh(logits / cap) if cap else logits


@functools.cache
def forward(path: pathlib.Path) -> Any:
    """The jitted logits [B, T, V] of a golden's model."""
    model = transformer.transformer(folder.open_model(path, skip="vision").config)

    @jax.jit
    def run(params: Any, tokens: Any, positions: Any, segments: Any) -> Any:
        states, _ = model.hidden(params, tokens, positions=positions, segments=segments)
        return capped(model, states @ model.unembedding(params))

    return run


def worst(actual: Any, wanted: np.ndarray) -> float:
    """Largest absolute difference; infinite if either is not a number."""
    error = np.max(np.abs(np.asarray(actual, np.float64) - wanted))
    return float("inf") if np.isnan(error) else float(error)


def padded_error(golden: Golden, side: str, params: Any = None) -> float:
    """Logits of the prompt and the rows in one batch, padded on a side."""
    rows = sequences(golden)
    batch = tiny.rows(rows, LENGTH, left=side == "left", pad=3)
    logits = np.asarray(forward(golden.path)(golden.params if params is None else params, *batch))
    wanted = [golden.logits, *golden.padded[side]]
    return max(worst(logits[i][segments > 0], wanted[i]) for i, segments in enumerate(batch[2]))


def packed_error(golden: Golden) -> float:
    """Logits of two rows packed into one, and of the prompt alone in the next."""
    *_, second, third = sequences(golden)
    together = tiny.packed([third, second], LENGTH, pad=3)
    alone = tiny.rows(sequences(golden)[:3], LENGTH, pad=3)
    batch = [np.concatenate(pair) for pair in zip(together, alone, strict=True)]
    logits = np.asarray(forward(golden.path)(golden.params, *batch)[0])
    wanted = next(iter(golden.padded.values()))
    ends = np.cumsum([len(third), len(second)])
    return max(worst(logits[: ends[0]], wanted[-1]), worst(logits[ends[0] : ends[1]], wanted[-2]))


def decoded_error(golden: Golden, prefill: int = 10) -> float:
    """Logits by a cache: so many slots at once, then one by one, with rows padded on the left."""
    model, rows = model_of(golden), sequences(golden)
    batch = tiny.rows(rows, LENGTH, left=True, pad=3)

    @jax.jit
    def step(params: Any, cache: Any, tokens: Any, positions: Any, segments: Any) -> Any:
        states, cache = model.hidden(
            params, tokens, positions=positions, segments=segments, cache=cache
        )
        return capped(model, states @ model.unembedding(params)), cache

    cache, parts = model.cache(len(rows), LENGTH), []
    for start, stop in [(0, prefill), *((n, n + 1) for n in range(prefill, LENGTH))]:
        logits, cache = step(golden.params, cache, *(x[:, start:stop] for x in batch))
        parts.append(np.asarray(logits))
    logits = np.concatenate(parts, axis=1)
    wanted = golden.cached or [golden.logits, *golden.padded["left"]]
    return max(worst(logits[i][segments > 0], wanted[i]) for i, segments in enumerate(batch[2]))


def gradient_error(golden: Golden) -> tuple[float, float]:
    """(of the prompt's mean cross entropy, of its gradient relative to a tensor's largest entry).

    An entry counts as 1e-4 at least: that of a bias of keys without position is 0 but for rounding.
    """
    model = model_of(golden)
    fields = tiny.batch(*tiny.rows(sequences(golden)[:1], LENGTH, pad=3))

    def loss(params: Any) -> Any:
        stats = scoring.token_stats(model, params, fields)
        return -jnp.sum(jnp.where(scoring.counted(fields), stats.logprob, 0.0)) / (
            len(golden.prompt) - 1
        )

    value, gradients = jax.jit(jax.value_and_grad(loss))(golden.params)
    named = {
        name: get()
        for name, _, _, get in sharded.tensors_of(gradients, golden.stored.sources, jnp.float32)
    }
    assert named.keys() == golden.gradients.keys()
    errors = {
        name: worst(named[name], wanted) / max(float(np.max(np.abs(wanted))), 1e-4)
        for name, wanted in golden.gradients.items()
    }
    return abs(float(value) - golden.loss), max(errors.values())


def write(path: pathlib.Path, tensors: dict[str, np.ndarray], config: bytes) -> None:
    """A folder of these tensors."""
    entries = [(n, x.shape, x.dtype, lambda x=x: x) for n, x in tensors.items()]
    safetensors_io.write_folder(path, entries, files={"config.json": config})


def assert_same_tensors(path: pathlib.Path, other: pathlib.Path) -> None:
    """Two folders hold the same tensors, bit for bit; of one that sees images, those of text."""
    ours, theirs = (folder.open_model(one, skip="vision").tensors for one in (path, other))
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name in theirs.tensors:
        one, two = ours.read(name), theirs.read(name)
        assert (one.dtype, one.shape) == (two.dtype, two.shape), name
        assert one.tobytes() == two.tobytes(), name
