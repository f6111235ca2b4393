"""Writes docs/tpu.md from tests/planning/plans.jsonl: `python -m tests.planning.table`.

Each line of that file is what `alignjax plan --json` printed.
"""

import json
import pathlib

from alignjax.planning import report

ROOT = pathlib.Path(__file__).parents[2]
PLANS = pathlib.Path(__file__).with_name("plans.jsonl")
PAGE = ROOT / "docs" / "tpu.md"
TEXT = """# TPU slices, planned without a TPU

`alignjax plan --config=FILE --topology=v5e:4x4` compiles every program of a run from shapes alone,
for a slice that is not here, with the compiler in `libtpu` (`pip install alignjax[tpu-plan]`). It
also takes `cuda:8` and `cpu:8`. `python -m tests.planning.table` writes this page.

**Nothing below was run on a TPU.** Memory, FLOPs and collectives are read from the compiled
programs; times are estimates. Numerics on a TPU, real step times and the runtime across hosts stay
unproven until someone runs them.

## Plans

{table}

Made with {versions}. Each row is one command:

```
{commands}
```

Every preset of `experiments/scale_*.py` for a slice is here but `scale_8b:grpo-v5e256`,
`scale_8b:grpo-v6e256` and `scale_70b:grpo-v5p512`, whose plans are not recorded yet; a test sees to it.

Mesh axes of size 1 are left out. "HBM peak" is of the program that needs most on one device, with
everything that the run holds meanwhile. "FLOPs against formula" holds the matrix products of the
compiled update, loops counted as often as they run, against what the model's shape implies (masked
attention in full, recomputation included).

{programs}

## How to read it

- **HBM**: parameters, optimizer, frozen trees and the batch are exact, from the shapes' layout;
  temporaries, outputs and the program's own size are the compiler's. Trees that the run holds but
  a program does not read are counted too. 97.5% of the chip's HBM counts as usable.
- **Time** replays the compiler's schedule: each fusion takes its `estimated_cycles` at the chip's
  clock (peak FLOP/s over the matrix units' FLOPs a cycle); a collective takes its bytes over the
  links of the torus dimensions that its group may span; asynchronous ones run beside what is
  scheduled before their end, one at a time. Moves without cycles go at HBM's speed, those to fast
  memory beside computation too, and so do rows that are gathered or scattered. Where the compiler
  gives no cycles (CPU, GPU, TPU7x) the time is the roofline, and is labelled so.
- **MFU** is useful work over peak: no recomputation, and of causal attention only the half that
  counts. Counting attention in full, as some do, gives a larger figure.
- **cuda:N** compiles XLA's CPU programs in the GPUs' place: layouts, collectives and FLOPs hold,
  temporaries are only near.
- An overflow at compile time is a verdict (exit code 1) with the largest arrays. Sizes that do not
  fit each other, or an unknown topology, end with one line and exit code 2 before any compile.
- **v5e, v5p and v6e** are compiled with the options that their runs should have, printed as
  LIBTPU_INIT_ARGS by the plan: sparse cores of v5p and v6e then move weights beside the
  computation, and matrix products of v5e and v6e have more of the fast memory.
- **Evaluation** is a command of its own after a run: its programs are planned at the rows that it
  takes by default, and are no part of a step (`--evaluation=false` leaves them out). Where the loop
  evaluates (`loop.evaluate_every`) they are planned as it runs them, beside all that it holds.
- **Kernels** (splash attention, grouped products of experts) carry neither cycles nor FLOPs: both
  are counted from their operands, causal blocks only, at 60% of the matrix units' peak with inner
  sizes padded to 128. That efficiency is an assumption.
- **Gradients**: a sum over the data axis of which each device keeps a slice sends twice the bytes
  of a reduce-scatter; the plan says how many leave each way.

## `--json`

One object. Bytes and FLOPs are of one device, `work` of all of them; times are seconds.

| key | meaning |
|---|---|
| `config`, `method`, `versions` | what was planned, and the jax, jaxlib and libtpu that compiled it |
| `topology`, `slices`, `accelerator_type`, `chip`, `devices`, `mesh` | the machine; `accelerator_type` is what Cloud TPU calls a slice; `chip` holds `name`, `hbm`, `bandwidth`, `flops`, `link`, `dims`, `clock` and `options` |
| `own_compiler` | false where XLA's CPU programs stand for a GPU's |
| `trained_parameters` | elements |
| `fits`, `verdict` | of all programs |
| `estimate_basis` | `compiler cycles`, or `roofline`: then the estimates are bounds |
| `estimated_step_seconds`, `estimated_mfu`, `estimated_tokens_per_second_per_device` | of one step; 0 is not known |
| `programs` | a list, in the order of the run, of the following |
| `name`, `stage`, `per_step` | `stage` is `run`, `evaluation` or `loop evaluation`; `per_step` 0 is outside the loop |
| `tokens` | of all rows that one run of the program reads |
| `compile_seconds` | of this program |
| `overflow` | null, or `kind` (`hbm`, `vmem`), `needed`, `limit` and `arrays`, pairs of name and bytes |
| `memory` | null on overflow, or `arguments` and `resident` (held, not read) by category, `padding`, `outputs`, `temporaries`, `code`, `cache` (of the temporaries) and `total` |
| `limit`, `largest` | usable bytes (0 is not judged); pairs of name and bytes |
| `flops`, `kernel_flops`, `uncounted` | matrix products; those in kernels; kernels that are unknown |
| `work` | null, or by the formula: `useful`, `run` and of it `scores` |
| `collectives` | by `kind` and `axes`: `times`, `payload`, `wire` (bytes sent) and `overlapping` |
| `leaving` | of the update: gradients' wire bytes `scattered`, `sliced` and `whole` |
| `estimate` | null, or `total`, `matmul`, `vector`, `kernels`, `copies`, `exposed`, `hidden`, `cycles` and `slowest`, pairs of operation and seconds |
| `roofline`, `estimated_seconds` | the least time; the estimate, or the least time without one |

`--sweep --json` has `considered`, `pruned_by_arithmetic`, `skipped_as_worse` and `left_by_limit`
(counts of choices), `fits`, `best` (options to write on a command line), `verdict`, and `tried`, a
list of `mesh`, `micro_batches`, `remat`, `fits`, `refused`, `memory_total`,
`memory_least_by_arithmetic`, `limit`, `overflow`, `estimated_update_seconds`, `estimate_basis`,
`estimated_update_mfu` and `options`, best first.

## Levers, measured by the same estimate

{levers}
"""  # noqa: E501
LEVERS = """All by the compiler's estimate, taken as the code grew: beside the change named, the two figures of
an 8B row may differ in the log-probability tile (256, later 512).

| change | where | before | after |
|---|---|---|---|
| splash attention instead of written-out scores | 1B SFT, v5e:4x4 | 1.17 s, MFU 27.7% | 0.757 s, 43.0% |
| FSDP over 16 instead of FSDP 4 x TP 4 | 1B SFT, v5e:4x4 | 1.13 s, 28.8% | 0.757 s, 43.0% |
| `model.logit_tile=512` instead of whole logits (2,048) | 1B SFT, v5e:4x4 | 0.718 s, 45.3%, 7.6 GiB of temporaries | 0.757 s, 43.0%, 5.3 GiB |
| `model.logit_tile=256` instead of 16 steps, chosen by size | 1B SFT, v5e:4x4, scores written out | 1.95 s, 16.6% | 1.31 s, 24.8% |
| `model.remat=attention` instead of `full` | 8B SFT, v5e:16x16 | 4.11 s, 48.8% | 3.89 s, 51.6% |
| `model.remat=dots` instead of `full` | 8B SFT, v5p:4x4x4, default options | 1.93 s, 44.7% | 1.80 s, 47.8% |
| sparse cores gather the weights (the plan's LIBTPU_INIT_ARGS) | 8B SFT, v5p:4x4x4 | 1.80 s, 47.8% | 1.57 s, 55.0% |
| 32 MiB of fast memory to a fusion instead of 16 (LIBTPU_INIT_ARGS) | 1B SFT, v5e:4x4 | 0.757 s, 43.0% | 0.718 s, 45.3% |
| 64 MiB instead of 32 | 8B SFT, v6e:16x16, 512 x 8,192 tokens | 2.71 s, 33.9% | 2.22 s, 41.4% |
| 96 MiB instead of 64; queries kept as splash reads them, its result kept once | 8B SFT, v6e:16x16, 1,024 x 4,096 tokens | 2.01 s, 42.8% | 1.79 s, 48.2% |
| sparse cores gather and reduce-scatter over both dimensions of the torus | the same | 1.79 s, 48.2% | 1.69 s, 51.0% |
| sparse cores reduce-scatter gradients; queries kept as splash reads them | 8B SFT, v5p:4x4x4 | 1.56 s, 55.0% | 1.46 s, 58.8% |
| keys and values lie slot by slot | 8B rollout, v5e:2x4, TP 8, 64 rows, 1,024 + 1,024 tokens | 22.7 s | 14.9 s |
| weights cast and gathered once a rollout, what is contracted beside the heads' axis | the same | 14.9 s | 13.1 s |
| tokens drawn without gathering the logits | the same | 13.1 s | 12.6 s |
| each layer's weights in arrays of their own, which are fetched beside computation | the same | 12.6 s | 9.77 s |
| 32 MiB of fast memory to a fusion instead of 16 | the same | 9.77 s | 9.25 s |
| the same for experts, whose products copied their part of a stack | 30B-A3B rollout, v5p:2x2x4, TP 4, 64 rows | 96.8 s | 22.9 s |
| the same; experts in 8 parts of an axis of their own and TP 8, instead of TP 64 | 671B rollout, v5p:8x8x8, 512 rows | 369 s, 138 GiB | 52.4 s, 88.9 GiB |
| experts' rows go and come by gathers, masked only where experts are shared out; their weights before the last product, which is not made again | 30B-A3B SFT, v5p:2x2x2 | 3.07 s, 26.8% | 2.93 s, 28.1% |
| the same | 671B SFT, v5p:4x8x8 | 11.0 s, 20.3% | 10.6 s, 21.0% |
| parameters drawn in parts instead of whole on every device (`init`'s temporaries) | 1B SFT, v5e:4x4 | 6.50 GiB | under 1 MiB |

The figures before sparse cores reduce-scattered take what they gathered as free; the later ones have
it on the wire. The last ones of experts have the time of gathered rows too; those before took it as
nothing. A token of that rollout takes 7.07 ms with its cache full, 1.42 times the 4.97 ms in
which HBM could read the weights and the cache (`python -m tests.planning.decode`). Where layers are
scanned, compile time does not grow with depth; decoding on TPU is unrolled.
On v5e:4x4 gradients leave as all-reduces of which each device keeps a slice; v5e has no sparse cores.
"""  # noqa: E501


def load() -> list[dict]:
    """The plans, in the file's order."""
    return [json.loads(line) for line in PLANS.read_text().splitlines()]


def command(plan: dict) -> str:
    """The command line of a plan."""
    name, _, variant = plan["config"].partition(":")
    file = f"experiments/{name}.py" + (f":{variant}" if variant else "")
    policy = " --config.policy=RUN"
    needs = {
        "dpo": policy,
        "ppo": f"{policy} --config.reward=RUN",
        "grpo": f"{policy} --config.data.tokenizer=TOKENIZER",
    }
    slices = f" --slices={plan['slices']}" if plan["slices"] > 1 else ""
    more = needs.get(plan["method"], "")
    where = f"--topology={plan['topology']}{slices}"
    return f"alignjax plan --config={file}{more} {where} --evaluation=false --json"


def programs(plan: dict) -> str:
    """The programs of one plan as a table."""
    lines = [
        f"### {plan['config']} on {plan['topology']}",
        "",
        "| program | HBM GiB | parameters | optimizer | frozen | batch | temporaries | of it KV "
        "cache | est. s | matmul | vector | kernels | exposed collectives | largest collective |",
        "|" + "---|" * 14,
    ]
    for row in plan["programs"]:
        held = row["memory"]
        if held is None:
            lines.append(f"| {row['name']} | does not fit |" + " |" * 12)
            continue
        both = [held["arguments"], held["resident"]]
        names = ("parameters", "optimizer", "frozen", "batch")
        sizes = [sum(part.get(name, 0) for part in both) for name in names]
        sizes = [held["total"], *sizes, held["temporaries"], held["cache"]]
        estimate = row["estimate"] or {}
        names = ("total", "matmul", "vector", "kernels", "exposed")
        times = [estimate.get(name) for name in names]
        largest = next(iter(row["collectives"]), None)
        said = "-"
        if largest is not None:
            said = f"{largest['kind']} over {largest['axes']}, {report.size(largest['wire'])} sent"
        cells = [f"{size / 2**30:.3f}" for size in sizes] + [
            "-" if time is None else f"{time:.3g}" for time in times
        ]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines)


def page() -> str:
    """The page's text."""
    plans = load()
    versions = sorted({", ".join(f"{k} {v}" for k, v in p["versions"].items()) for p in plans})
    return TEXT.format(
        table=report.markdown(plans),
        versions="; ".join(versions),
        commands="\n".join(map(command, plans)),
        programs="\n\n".join(map(programs, plans)),
        levers=LEVERS.strip(),
    )


if __name__ == "__main__":
    PAGE.write_text(page())
