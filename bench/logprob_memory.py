"""Temporary memory of the gradients of log-probabilities and of divergences: in full, in tiles.

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
TEACHER = 96  # width of the second head
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


def naive_divergence(hidden: jax.Array, matrix: jax.Array, *teacher: jax.Array) -> jax.Array:
    """Sum of generalised JSD (1/2) from two arrays of log-probabilities [1, T, V]."""
    student, other = (jax.nn.log_softmax(h @ w, axis=-1) for h, w in ((hidden, matrix), teacher))
    return losses.generalised_jsd(student, other, beta=0.5).sum()


def tiled_divergence(hidden: jax.Array, matrix: jax.Array, *teacher: jax.Array) -> jax.Array:
    """The same by `losses.token_divergence`, TILE time steps at once."""
    return losses.token_divergence(hidden, matrix, *teacher, beta=0.5, tile=TILE).sum()


DIVERGENCES = (naive_divergence, tiled_divergence)


def temporaries(loss, time: int, *, width: int = WIDTH, vocab: int = VOCAB) -> int:
    """Bytes of the temporaries of value and gradient of `loss` over `time` steps."""
    states, matrix = (1, time, width), (width, vocab)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (states, matrix)]
    if loss in DIVERGENCES:
        shapes = (1, time, TEACHER), (TEACHER, vocab)
        arguments += [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    else:
        arguments.append(jax.ShapeDtypeStruct((1, time), jnp.int32))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def rows(*pair) -> list[str]:
    """The lines of a table: a loss in full, and the same in tiles."""
    lines = ["| T | logits in full, MiB | in tiles, MiB | ratio |", "|---|---|---|---|"]
    for time in TIMES:
        whole, parts = (temporaries(loss, time) for loss in pair)
        lines.append(f"| {time} | {whole / MIB:.1f} | {parts / MIB:.1f} | {whole / parts:.0f} |")
    return lines


def table() -> str:
    """The measurements as a page."""
    lines = [
        "# Memory of log-probabilities and divergences",
        "",
        f"Temporaries of value and gradient of the summed log-probabilities: B = 1, D = {WIDTH}, "
        f"V = {VOCAB}, fp32, tiles of {TILE}",
        "time steps, as XLA reports them for the compiled program (not run). "
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, {jax.default_backend()}.",
        "Written by `python bench/logprob_memory.py bench/results/logprob_memory.md`.",
        "",
        *rows(naive, tiled),
    ]
    matrix = 4 * WIDTH * VOCAB / MIB
    lines += [
        "",
        f"The gradient of the matrix, {matrix:.0f} MiB, and a tile's logits, "
        f"{4 * TILE * VOCAB / MIB:.0f} MiB, are part of every row of the third",
        "column; what grows there with T is hidden states, not logits.",
        "",
        "## Divergence of a student and a teacher",
        "",
        f"The same of generalised JSD (beta 1/2) between two heads, D = {WIDTH} and {TEACHER},",
        "with the gradient of the student's states and matrix (`losses.token_divergence`).",
        "",
        *rows(*DIVERGENCES),
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
