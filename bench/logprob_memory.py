"""Temporary memory of the gradient of log-probabilities: logits in full, and in tiles.

    python bench/logprob_memory.py [FILE]

Programs are compiled and never run: nothing of these sizes is allocated. The peak of a program's
temporaries is what XLA reports for it. Writes the table to FILE too, if one is named.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import jaxlib

from alignjax import losses

VOCAB = 131072
WIDTH = 64
TILE = 16
TIMES = (1024, 4096, 16384)
MIB = 2**20


def naive(hidden: jax.Array, matrix: jax.Array, targets: jax.Array) -> jax.Array:
    """Sum of log-probabilities from logits [1, T, V] that exist in full."""
    logprobs = jax.nn.log_softmax(hidden @ matrix, axis=-1)
    return jnp.take_along_axis(logprobs, targets[..., None], axis=-1).sum()


def tiled(hidden: jax.Array, matrix: jax.Array, targets: jax.Array) -> jax.Array:
    """The same by `losses.token_logprobs`, TILE time steps at once."""
    return losses.token_logprobs(hidden, matrix, targets, tile=TILE).sum()


def temporaries(loss, time: int, *, width: int = WIDTH, vocab: int = VOCAB) -> int:
    """Bytes of the temporaries of value and gradient of `loss` over `time` steps."""
    arguments = (
        jax.ShapeDtypeStruct((1, time, width), jnp.float32),
        jax.ShapeDtypeStruct((width, vocab), jnp.float32),
        jax.ShapeDtypeStruct((1, time), jnp.int32),
    )
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def table() -> str:
    """The measurements as a page."""
    lines = [
        "# Memory of log-probabilities",
        "",
        f"Temporaries of value and gradient of the summed log-probabilities: B = 1, D = {WIDTH}, "
        f"V = {VOCAB}, fp32, tiles of {TILE}",
        "time steps, as XLA reports them for the compiled program (not run). "
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, {jax.default_backend()}.",
        "Written by `python bench/logprob_memory.py bench/results/logprob_memory.md`.",
        "",
        "| T | logits in full, MiB | in tiles, MiB | ratio |",
        "|---|---|---|---|",
    ]
    for time in TIMES:
        whole, parts = (temporaries(loss, time) for loss in (naive, tiled))
        lines.append(f"| {time} | {whole / MIB:.1f} | {parts / MIB:.1f} | {whole / parts:.0f} |")
    matrix = 4 * WIDTH * VOCAB / MIB
    lines += [
        "",
        f"The gradient of the matrix, {matrix:.0f} MiB, and a tile's logits, "
        f"{4 * TILE * VOCAB / MIB:.0f} MiB, are part of every row of the third",
        "column; what grows there with T is hidden states, not logits.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    page = table()
    print(page)
    if len(sys.argv) > 1:
        pathlib.Path(sys.argv[1]).write_text(page)


if __name__ == "__main__":
    main()
