"""The page of results, from the file of results alone.

python -m bench.report [RESULTS.jsonl] [PAGE.md]
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from bench import targets, workloads

SCHEMA = 1
ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "speed.jsonl"
PAGE = ROOT / "docs" / "performance.md"
OURS = "alignjax"
IDLE = 1.5  # load average up to which little but the bench itself was at work
BUSY = ": **other jobs ran beside it, so that these figures are rough and no claim**"
Line = dict[str, Any]
Key = tuple[str, int, str]  # model, threads, workload


class Spread(NamedTuple):
    """A number with the least and the largest of the pairs that it is of."""

    value: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.least:.2f} to {self.most:.2f})"


class Group(NamedTuple):
    """The arms of one case, measured side by side."""

    key: Key
    lines: dict[str, Line]

    def seconds(self, arm: str) -> list[float]:
        """Of the steps that count: of CPU on one thread, of the clock on several."""
        kind = "cpu" if self.key[1] == 1 else "wall"
        line = self.lines[arm]
        return [turn[kind] for turn in line["turns"][line["warm"] :]]

    def tokens(self, arm: str) -> list[int]:
        line = self.lines[arm]
        return [turn["tokens"] for turn in line["turns"][line["warm"] :]]

    def rate(self, arm: str) -> float:
        """Tokens a second over all steps that count."""
        return sum(self.tokens(arm)) / sum(self.seconds(arm))

    def peak(self, arm: str) -> float:
        """MiB, of the whole process."""
        return self.lines[arm]["turns"][-1]["peak"]

    def share(self, arm: str) -> float:
        """Of the machine's own matrix products, in model FLOPs."""
        line = self.lines[arm]
        of_token = sum(line["flops"]) / sum(line["tokens"])
        return self.rate(arm) * of_token / 1e9 / line["ceiling"]["gflops"]

    def times(self, peer: str) -> Spread:
        """How many times as many tokens a second AlignJAX does as a peer, pair by pair.

        The median of pairs; where rows are packed the steps of a pair hold other rows, and the
        ratio is that of whole rates.
        """
        pairs = [
            mine / spent / (theirs / other)
            for mine, spent, theirs, other in zip(
                self.tokens(OURS), self.seconds(OURS), self.tokens(peer), self.seconds(peer),
                strict=True,
            )
        ]  # fmt: skip
        middle = statistics.median(pairs)
        workload = workloads.WORKLOADS[self.key[2]]
        if workload.kind == "sft" and workload.lengths is not None:
            middle = self.rate(OURS) / self.rate(peer)
        return Spread(middle, min(pairs), max(pairs))

    def memory(self, peer: str) -> float:
        """AlignJAX's peak as a share of a peer's."""
        return self.peak(OURS) / self.peak(peer)

    @property
    def peers(self) -> list[str]:
        return [arm for arm in workloads.ARMS if arm in self.lines and arm != OURS]


def read(file: pathlib.Path) -> list[Line]:
    """The lines of a file of results.

    Raises:
      ValueError: one is not of this schema.
    """
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number, line in enumerate(lines, 1):
        if line.get("schema") != SCHEMA:
            raise ValueError(
                f"lines of results must be of schema {SCHEMA}; got {line.get('schema')} ({file}, "
                f"line {number}). Measure again: python -m bench.run."
            )
    return lines


def groups(lines: Iterable[Line]) -> list[Group]:
    """The newest measurement of every case that AlignJAX is in, in the order of workloads."""
    newest: dict[Key, dict[str, Line]] = {}
    for line in lines:
        key = (line["model"], line["threads"], line["workload"])
        if key in newest and next(iter(newest[key].values()))["session"] != line["session"]:
            del newest[key]
        newest.setdefault(key, {})[line["arm"]] = line
    order = list(workloads.WORKLOADS)
    found = [Group(key, own) for key, own in newest.items() if OURS in own]
    return sorted(found, key=lambda g: (g.key[0], g.key[1], order.index(g.key[2])))


def _row(group: Group, arm: str) -> str:
    line = group.lines[arm]
    turns = line["turns"][line["warm"] :]
    cpu, wall = (statistics.median(turn[kind] for turn in turns) for kind in ("cpu", "wall"))
    ratio, memory = "", ""
    if arm != OURS:
        ratio, memory = str(group.times(arm)), f"{group.memory(arm):.2f}"
    return (
        f"| {group.key[2]} | {workloads.ARMS[arm]} | {cpu:.2f} | {wall:.2f} | "
        f"{group.rate(arm):.0f} | {ratio} | {group.peak(arm):.0f} | {memory} | "
        f"{100 * group.share(arm):.0f} % |"
    )


def table(own: list[Group]) -> list[str]:
    """The table of one model and number of threads."""
    model, threads, _ = own[0].key
    clock = "CPU second" if threads == 1 else "second"
    where = "one pinned thread" if threads == 1 else f"{threads} threads, not pinned"
    pairs = sorted({len(g.seconds(OURS)) for g in own})
    counted = " or ".join(map(str, pairs)) + (" pair" if pairs == [1] else " pairs")
    lines = [
        f"## {model}, {where}",
        "",
        f"{workloads.MODELS[model].parameters / 1e6:.1f}M parameters; medians of {counted}. "
        f"Ratios are of tokens a {clock}.",
        "",
        f"| workload | by | CPU s | wall s | tokens a {clock} | AlignJAX is times as fast "
        "| peak MiB | AlignJAX's peak / this | of the matmul rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group in own:
        arms = [OURS, *group.peers]
        lines += [_row(group, arm) for arm in arms]
    absent = [
        why for (name, arm), why in workloads.ABSENT.items()
        if any(g.key[2] == name and arm not in g.lines for g in own)
    ]  # fmt: skip
    return [*lines, "", *([f"{'; '.join(absent)}.", ""] if absent else [])]


def sessions(own: list[Group]) -> list[str]:
    """What was measured when, on what, with what, beside what."""
    found: dict[str, list[Line]] = {}
    for group in own:
        for line in group.lines.values():
            found.setdefault(line["session"], []).append(line)
    lines = []
    for name, of_session in sorted(found.items()):
        first = of_session[0]
        about = first["machine"]
        versions = {n: v for line in of_session for n, v in line["versions"].items()}
        loads = [line["load"]["before"][0] for line in of_session]
        cases = sorted({line["workload"] for line in of_session})
        rates = {line["threads"]: line["ceiling"] for line in of_session}
        told = "; ".join(
            f"on {n} thread{'s' * (n > 1)} {r['gflops']:.0f} GFLOP/s of fp32 products and "
            f"{r['gbytes']:.1f} GB/s of copies"
            for n, r in sorted(rates.items())
        )
        lines += [
            f"- {name}: {', '.join(cases)}. {about['cpu']}, {about['cores']} cores, "
            f"{about['system']}; {about['flags']}. At best {told}. "
            f"Load average (1 min) before its cases: {min(loads):.2f} to {max(loads):.2f}"
            f"{BUSY if max(loads) > IDLE else ''}. "
            + ", ".join(f"{n} {v}" for n, v in versions.items())
            + "."
        ]
    return lines


def verdicts(own: list[Group]) -> list[str]:
    """Targets beside what was measured, and what is not reached."""
    judged = [v for group in own if group.key[1] == 1 for v in targets.judge(group)]
    if not judged:
        return []
    lines = [
        "## Targets",
        "",
        "On one thread, of medians. A peak is compared with the lower one of the peers.",
        "",
        "| workload | model | what | against | target | measured | met |",
        "|---|---|---|---|---|---|---|",
        *(str(v) for v in judged),
        "",
    ]
    missed = [v for v in judged if not v.met]
    if not missed:
        return [*lines, "All are reached.", ""]
    told = ", ".join(f"{v.workload} on {v.model} ({v.what}, {v.against})" for v in missed)
    return [*lines, f"{len(judged) - len(missed)} of {len(judged)} are reached. Not: {told}.", ""]


HEAD = """# Performance beside TRL and Tunix

Whole steps of real trainers, on CPUs, in fp32, from the same weights on the same rows: AlignJAX by
`training.steps`; TRL by SFTTrainer, DPOTrainer, RewardTrainer, GRPOTrainer, RLOOTrainer and
transformers' `generate`; Tunix by PeftTrainer (with a Bradley-Terry loss for W3, for it has no
trainer of reward models), DPOTrainer, GRPOLearner, PPOLearner and its sampler. Each is a process
of its own and they take turns, a step each; a ratio is the median of pairs, with the least and the
largest. AdamW, learning rate 1e-5, gradients clipped at norm 1; peers have their defaults but for
the workload's numbers and no checkpointing of gradients (`bench/arms/`). Before a result counts,
all must train the same number of parameters, count the same tokens, and find the same loss within
1e-4 in the first step of W1, W2 and W3.

W1 SFT on full rows of 512; W1v on rows of uneven length (lognormal, median 160, sigma 0.7, at most
512), of which AlignJAX packs as many in a step as its peers pad; W2 DPO of prompts and answers of
256 tokens, for AlignJAX with its rows' share of reading the reference's log-probabilities ahead;
W3 a reward model of the same pairs; W4 16 rows of 128 tokens sampled after 64; W5 an iteration of
GRPO, RLOO (4 samples of each prompt) and PPO on 16 such rows; W5ragged GRPO on 64 rows of 16
prompts, at most 256 new tokens, lognormal with median 40 and sigma 1. Tokens are those that enter
the policy, padding left out, and in W4 and W5 those that are sampled. The last column is of the
model's own FLOPs (`bench/flops.py`): what is recomputed, padded or scored for nothing does not
count. Peaks are of whole processes, compilation included.

Written by `python -m bench.report` from `bench/results/speed.jsonl`; `bench/README.md` says how to
measure.
"""


def page(lines: list[Line], *, smoke: bool = False) -> str:
    """The page. smoke: with the smallest model, which is no result."""
    own = [g for g in groups(lines) if smoke or g.key[0] != "M0"]
    text = [HEAD, *sessions(own), ""]
    for model, threads in dict.fromkeys(g.key[:2] for g in own):
        text += table([g for g in own if g.key[:2] == (model, threads)])
    text += verdicts([g for g in own if g.key[0] != "M0"])
    return "\n".join(text)


def main() -> None:
    files = [pathlib.Path(name) for name in sys.argv[1:]]
    results = files[0] if files else RESULTS
    to = files[1] if len(files) > 1 else PAGE
    to.write_text(page(read(results)))
    print(to)


if __name__ == "__main__":
    main()
