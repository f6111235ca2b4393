"""CPU seconds of the sampler: one program for all rows, and chunks that rows leave as they end.

    taskset -c 0 python bench/sampler_speed.py [FILE]

One thread. Both arms draw the same tokens of the same rows and are run in turn, several times; each
row's length is given (`RowOptions.limit`; no token ends a row): lognormal, sigma 1, at most 256, or
equal. Compilation is not counted. Writes the table to FILE too, if one is named.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from alignjax.models import transformer
from alignjax.models.config import TransformerConfig
from alignjax.sampling import generate, transforms

MODEL = TransformerConfig(
    vocab_size=4096, layers=6, width=384, heads=6, kv_heads=3, head_dim=64, ff=1024
)
PROMPT, NEW, MEDIAN = 32, 256, 40
ROUNDS = 2


def sampler(**options) -> Callable:
    config = transforms.SamplingConfig(max_new_tokens=NEW, **options)
    return generate.make_generate(transformer.transformer(MODEL), config, eos=-1, pad=0)


def ragged_lengths(rows: int) -> np.ndarray:
    """[rows] lengths with ln n ~ N(ln MEDIAN, 1), at most NEW."""
    drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN), 1.0, rows)
    return np.clip(drawn.round(), 1, NEW).astype(np.int32)


def measure(arms: Sequence[Callable[[], None]]) -> list[float]:
    """The least CPU seconds of each arm over ROUNDS turns, after one that compiles."""
    for arm in arms:
        arm()
    spent = [[] for _ in arms]
    for _ in range(ROUNDS):
        for arm, seconds in zip(arms, spent, strict=True):
            begin = time.process_time()
            arm()
            seconds.append(time.process_time() - begin)
    return [min(seconds) for seconds in spent]


def arm(run: Callable, params, lengths: np.ndarray, wave: int) -> Callable[[], None]:
    """Samples rows of these lengths, `wave` of them at a time."""
    rows = len(lengths)
    prompts = np.random.default_rng(1).integers(1, MODEL.vocab_size, (rows, PROMPT), np.int32)
    whole = np.full(rows, PROMPT, np.int32)

    def go() -> None:
        for start in range(0, rows, wave):
            at = slice(start, start + wave)
            options = transforms.RowOptions(limit=lengths[at])
            numbers = np.arange(rows, dtype=np.int32)[at]
            found = run(
                params, prompts[at], whole[at], jax.random.key(0), rows=numbers, options=options
            )
            assert int(found.mask.sum()) == lengths[at].sum()

    return go


CASES = (
    ("64 rows, ragged, all fit", 64, ragged_lengths, 64, {"rungs": 4}),
    ("256 rows, ragged, through 32 slots", 256, ragged_lengths, 32, {"rungs": 4, "slots": 32}),
    ("16 rows, all 256 tokens", 16, lambda n: np.full(n, NEW, np.int32), 16, {"rungs": 4}),
)


def table(names: Sequence[str]) -> str:
    params = jax.jit(transformer.transformer(MODEL).init)(jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(params))
    static = sampler()
    lines = [
        "# Speed of the sampler",
        "",
        f"{count / 1e6:.0f}M parameters, fp32, prompts of {PROMPT} tokens, at most {NEW} new ones; "
        f"lengths lognormal, median {MEDIAN}, sigma 1. CPU seconds,",
        f"one thread, the least of {ROUNDS} interleaved rounds; jax {jax.__version__}. The first "
        "arm is one program for all rows, or for one wave of slots after another.",
        "Written by `taskset -c 0 python bench/sampler_speed.py bench/results/sampler_speed.md`.",
        "",
        "| case | max / mean length | one program, s | chunks, s | times as fast |",
        "|---|---|---|---|---|",
    ]
    for name, rows, law, wave, options in CASES:
        if names and not any(part in name for part in names):
            continue
        lengths = law(rows)
        arms = [
            arm(static, params, lengths, wave),
            arm(sampler(**options), params, lengths, rows),
        ]
        one, chunks = measure(arms)
        ratio = lengths.max() / lengths.mean()
        lines.append(f"| {name} | {ratio:.2f} | {one:.2f} | {chunks:.2f} | {one / chunks:.2f} |")
        print(lines[-1], flush=True)
    return "\n".join([*lines, ""])


def main() -> None:
    page = table(sys.argv[2:])
    print(page)
    if len(sys.argv) > 1 and sys.argv[1] != "-":
        pathlib.Path(sys.argv[1]).write_text(page)


if __name__ == "__main__":
    main()
