"""The machine's own rates through one framework: a JSON object on standard output.

    python -m bench.ceiling torch|jax|numpy THREADS

gflops: of a product of two [SIZE, SIZE] fp32 matrices; gbytes: read and written by a copy of COPY
bytes; each the best of ROUNDS, a CPU second on one thread and a second of the clock on several.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np

SIZE, COPY, ROUNDS = 2048, 256 << 20, 5


def best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the fastest of ROUNDS runs, after one that is not counted."""
    spent = []
    for _ in range(1 + ROUNDS):
        begin = clock()
        work()
        spent.append(clock() - begin)
    return min(spent[1:])


def work_of(framework: str, threads: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """(a matrix product, a copy)."""
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    block = np.ones(COPY // 4, np.float32)
    if framework == "numpy":
        out, to = np.empty_like(matrix), np.empty_like(block)
        return lambda: np.matmul(matrix, matrix, out=out), lambda: np.copyto(to, block)
    if framework == "torch":
        import torch

        torch.set_num_threads(threads)
        product, source = torch.from_numpy(matrix), torch.from_numpy(block)
        out, to = torch.empty_like(product), torch.empty_like(source)
        return lambda: torch.matmul(product, product, out=out), lambda: to.copy_(source)
    import jax
    import jax.numpy as jnp

    product, source = jnp.asarray(matrix), jnp.asarray(block)
    multiply, copy = jax.jit(jnp.matmul), jax.jit(lambda x: -x)  # a bare copy is no program
    return (
        lambda: multiply(product, product).block_until_ready(),
        lambda: copy(source).block_until_ready(),
    )


def main() -> None:
    framework, threads = sys.argv[1], int(sys.argv[2])
    clock = time.process_time if threads == 1 else time.perf_counter
    multiply, copy = (best(work, clock) for work in work_of(framework, threads))
    rates = {"gflops": 2 * SIZE**3 / multiply / 1e9, "gbytes": 2 * COPY / copy / 1e9}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
