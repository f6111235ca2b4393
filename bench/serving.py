"""Throughput and first-token times of the server's engine, and llama.cpp's beside it.

    python bench/serving.py MODEL.gguf [FILE]

Eight clients at once against one at a time, each with requests of its own, greedy, NEW tokens; the
engine alone, without HTTP. Arms are run in turn, ROUNDS times; the median is told. CPU seconds are
those of this process. Where cyllama (a binding of llama.cpp) can be imported, it decodes the same
prompts as one batch of eight, on one thread, with F32 weights that this script writes. Writes the
table to FILE.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import importlib.metadata
import pathlib
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alignjax.commands import common
from alignjax.serving import engine as engines
from alignjax.serving import served, slots
from alignjax.serving.requests import Options, Request

CLIENTS, NEW, ROUNDS = 8, 32, 2
CORES = len(os.sched_getaffinity(0))
CONTEXT = 512
QUESTIONS = (
    "How do bees find their way home?", "Write a note to a neighbour about a noisy dog.",
    "What is a good name for a small boat?", "Explain tides to a child.",
    "List three uses of an old newspaper.", "Why is the sky dark at night?",
    "Describe a walk through a wet forest.", "How is bread made without an oven?",
)  # fmt: skip


class Run(NamedTuple):
    """tokens drawn; wall and CPU seconds; seconds to each first token."""

    tokens: int
    wall: float
    cpu: float
    first: list[float]


def ask(engine: engines.Engine, prompt: tuple[int, ...]) -> tuple[int, float]:
    """(tokens drawn, seconds to the first)."""
    begin, first, tokens = time.perf_counter(), 0.0, 0
    request = Request(prompt=prompt, options=Options(max_tokens=NEW, temperature=0.0))
    for event in engine.stream(request):
        if event.scored and not tokens:
            first = time.perf_counter() - begin
        tokens += len(event.scored)
    return tokens, first


def measured(work: Callable[[], list[tuple[int, float]]]) -> Run:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Run(sum(own[0] for own in found), wall, cpu, [own[1] for own in found])


def at_once(engine: engines.Engine, prompts: list[tuple[int, ...]]) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = [(0, 0.0)] * len(prompts)

    def client(n: int) -> None:
        found[n] = ask(engine, prompts[n])

    threads = [threading.Thread(target=client, args=(n,)) for n in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def llama(path: pathlib.Path, prompts: list[tuple[int, ...]]) -> Callable[[], Run] | None:
    """llama.cpp on the same prompts, one batch a step; None where there is no binding."""
    try:
        from cyllama.llama import llama_cpp as cpp
    except ImportError:
        return None
    cpp.disable_logging()
    cpp.ggml_backend_load_all()
    whole = pathlib.Path(tempfile.mkdtemp()) / "f32.gguf"
    quantize = cpp.LlamaModelQuantizeParams()
    quantize.ftype, quantize.allow_requantize = 0, True  # LLAMA_FTYPE_ALL_F32
    cpp.model_quantize(str(path), str(whole), quantize)
    model = cpp.LlamaModel(str(whole), cpp.LlamaModelParams())
    options = cpp.LlamaContextParams()
    options.n_ctx, options.n_seq_max = CONTEXT * CLIENTS, CLIENTS
    # Its threads wait for one another by spinning, which on a busy machine burns CPU time.
    options.n_threads = options.n_threads_batch = 1
    greedy = cpp.LlamaSampler()
    greedy.add_greedy()

    def work() -> list[tuple[int, float]]:
        context = cpp.LlamaContext(model, options)
        begin = time.perf_counter()
        places = [len(prompt) for prompt in prompts]
        tokens: list[int] = []
        firsts: list[float] = []
        for n, prompt in enumerate(prompts):
            batch = cpp.LlamaBatch(n_tokens=len(prompt), embd=0, n_seq_max=1)
            for at, token in enumerate(prompt):
                batch.add(token, at, [n], at == len(prompt) - 1)
            context.decode(batch)
            tokens.append(greedy.sample(context, -1))
            firsts.append(time.perf_counter() - begin)
        for _ in range(NEW - 1):
            batch = cpp.LlamaBatch(n_tokens=CLIENTS, embd=0, n_seq_max=1)
            for n, token in enumerate(tokens):
                batch.add(token, places[n], [n], True)
                places[n] += 1
            context.decode(batch)
            tokens = [greedy.sample(context, n) for n in range(CLIENTS)]
        return [(NEW, first) for first in firsts]

    return lambda: measured(work)


def row(name: str, runs: list[Run]) -> str:
    """A line of the table: medians over the rounds."""
    wall = statistics.median(own.tokens / own.wall for own in runs)
    cpu = statistics.median(own.tokens / own.cpu for own in runs)
    first = np.concatenate([own.first for own in runs])
    p50, p95 = (1000 * np.quantile(first, q) for q in (0.5, 0.95))
    return f"| {name} | {runs[0].tokens} | {wall:.1f} | {cpu:.1f} | {p50:.0f} | {p95:.0f} |"


def main(path: str, to: str = "") -> None:
    common.keep_freed_memory()
    own = served.load(path)
    begin = time.perf_counter()
    engine = engines.Engine(own._replace(ends=()), slots.Limits(CLIENTS, CONTEXT))
    compiling = time.perf_counter() - begin
    single = engines.Engine(own._replace(ends=()), slots.Limits(1, CONTEXT))
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    prompts = [tuple(own.speaker.encode(turn.format(text))) for text in QUESTIONS]
    few = prompts[:2]
    arms: dict[str, Callable[[], Run]] = {
        f"one client at a time, {CLIENTS} slots": lambda: measured(
            lambda: [ask(engine, prompt) for prompt in few]
        ),
        "one client at a time, 1 slot": lambda: measured(
            lambda: [ask(single, prompt) for prompt in few]
        ),
        f"{CLIENTS} clients, {CLIENTS} slots": lambda: measured(lambda: at_once(engine, prompts)),
    }
    other = llama(pathlib.Path(path), prompts)
    if other is not None:
        arms[f"llama.cpp, batch of {CLIENTS}"] = other
    for warm in (engine, single):
        ask(warm, prompts[0][:4])
    runs: dict[str, list[Run]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            runs[name].append(arm())
            own = runs[name][-1]
            print(f"{name}: {own.tokens} tokens, {own.wall:.1f} s, {own.cpu:.1f} CPU s", flush=True)
    engine.close()
    single.close()
    same, one, many = (
        statistics.median(own.tokens / own.wall for own in runs[name]) for name in list(arms)[:3]
    )
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("jax", "jaxlib")]
    if other is not None:
        versions.append(f"cyllama {importlib.metadata.version('cyllama')}")
    lines = [
        "| arm | tokens | tokens/s | tokens/CPU s | first token p50, ms | p95, ms |",
        "|---|---|---|---|---|---|",
        *(row(name, found) for name, found in runs.items()),
        "",
        f"Throughput of {CLIENTS} clients over that of one: {many / same:.2f} on the same server, "
        f"{many / one:.2f} on one of a single slot. Programs compiled in {compiling:.0f} s.",
        f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {CORES} cores. "
        f"{', '.join(versions)}, Python {platform.python_version()}.",
    ]
    print("\n".join(lines))
    if to:
        pathlib.Path(to).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
