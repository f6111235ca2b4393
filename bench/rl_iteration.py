"""One GRPO iteration by AlignJAX and by others: useful tokens a CPU second, and peak memory.

    taskset -c 0 python bench/rl_iteration.py [FILE] [--python-trl=PATH] [--python-tunix=PATH]
        [--cases=ragged,equal] [--iterations=3] [--micro-batches=4] [--peer-micro-batches=1]

Each code base is a process of its own with one thread; they take turns, an iteration each, so that
what else the machine does meets them alike. Peers' interpreters have them installed:
`pip install torch trl==1.16.0` and `pip install google-tunix==0.1.7`; without its path a peer is
left out. Writes the page to FILE too, if one is named.

An iteration (peers/workload.py): prompts of 64 tokens, 4 completions each, at temperature 1; a
reward in Python; log-probabilities of the reference, beta 0.04; one update on all rows by AdamW.
Useful tokens are those of completions.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))

import workload

HERE = pathlib.Path(__file__).parent
WARM = 1  # iterations that compile
NAMES = {"alignjax": "AlignJAX", "trl": "TRL", "tunix": "Tunix"}
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Arm:
    """A code base at work on a case, in a process of its own."""

    def __init__(self, name: str, python: str, case: str, count: int, micro: int):
        self.name, self.turns = name, []
        path = os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))
        own = {"PYTHONPATH": path} if name == "alignjax" else {"PYTHONPATH": ""}
        self._process = subprocess.Popen(
            [python, str(HERE / "peers" / f"{name}_arm.py"), case, str(count), str(micro)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **THREADS, **own},
        )
        self.versions = self._told()["versions"]

    def turn(self) -> None:
        """One iteration."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.turns.append(self._told())

    def close(self) -> None:
        self._process.stdin.close()
        if self._process.wait():
            raise SystemExit(f"{self.name} ended with {self._process.returncode}.")

    def _told(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early, with {self._process.wait()}.")
        return json.loads(line)

    @property
    def seconds(self) -> list[float]:
        """CPU seconds of the iterations that count."""
        return [turn["cpu"] for turn in self.turns[WARM:]]

    @property
    def peak(self) -> float:
        """MiB."""
        return self.turns[-1]["peak"]


def measure(case: str, pythons: dict[str, str], count: int, parts: dict[str, int]) -> list[Arm]:
    """The arms after their turns."""
    arms = [Arm(name, python, case, WARM + count, parts[name]) for name, python in pythons.items()]
    for number in range(WARM + count):
        for arm in arms:
            arm.turn()
            told = {name: round(x, 2) for name, x in arm.turns[-1].items()}
            print(case, number, arm.name, told, file=sys.stderr, flush=True)
    for arm in arms:
        arm.close()
    return arms


def rows(case: str, arms: list[Arm]) -> list[str]:
    """Lines of the table."""
    useful, own = int(workload.CASES[case].lengths().sum()), arms[0]
    lines = []
    for arm in arms:
        middle = statistics.median(arm.seconds)
        # Iterations that stood side by side are compared, so that a busy minute meets both.
        pairs = [theirs / mine for mine, theirs in zip(own.seconds, arm.seconds, strict=True)]
        lines.append(
            f"| {case} | {NAMES[arm.name]} | {middle:.1f} | {min(arm.seconds):.1f} to "
            f"{max(arm.seconds):.1f} | {useful / middle:.0f} | {statistics.median(pairs):.2f} | "
            f"{arm.peak:.0f} | {own.peak / arm.peak:.2f} |"
        )
    return lines


def page(cases: list[str], pythons: dict[str, str], count: int, parts: dict[str, int]) -> str:
    """The measurements as a page."""
    lines, versions, peers = [], {}, max(n for name, n in parts.items() if name != "alignjax")
    for case in cases:
        arms = measure(case, pythons, count, parts)
        versions |= {name: x for arm in arms for name, x in arm.versions.items()}
        lines += rows(case, arms)
        print("\n".join(lines[-len(arms) :]), flush=True)
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    ragged, equal = workload.CASES["ragged"], workload.CASES["equal"]
    lengths = ragged.lengths()
    return "\n".join(
        [
            "# A GRPO iteration beside TRL and Tunix",
            "",
            f"10.2M parameters (6 layers of 320, vocabulary {workload.VOCAB}), fp32, one thread of "
            f"{platform.processor() or platform.machine()}. ragged: {ragged.rows} rows of "
            f"{ragged.prompts} prompts of {ragged.prompt} tokens, at most {ragged.new} new ones,",
            f"lognormal with median {ragged.median} and sigma 1: {lengths.sum()} in all, the "
            f"longest {lengths.max()}. equal: {equal.rows} rows of {equal.new} new tokens each.",
            f"{told}; each peer by its own trainer, with its defaults but for the workload's "
            "numbers (peers/*_arm.py).",
            f"The update's gradient is summed over {parts['alignjax']} parts of the rows by "
            f"AlignJAX, {peers} by its peers: what is held at once falls with them.",
            f"Processes take turns, an iteration each; {count} iterations after {WARM} that "
            "compiles; median, and range. The ratio of CPU seconds is the median over turns.",
            "Written by `taskset -c 0 python bench/rl_iteration.py bench/results/rl_iteration.md "
            "--python-trl=... --python-tunix=...`.",
            "",
            "| case | by | CPU s | range | useful tokens a CPU s | CPU s / AlignJAX's | peak MiB | "
            "AlignJAX's peak / this |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=pathlib.Path)
    parser.add_argument("--python-trl", default="")
    parser.add_argument("--python-tunix", default="")
    parser.add_argument("--cases", default=",".join(workload.CASES))
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--peer-micro-batches", type=int, default=1)
    given = parser.parse_args()
    pythons = {"alignjax": sys.executable, "trl": given.python_trl, "tunix": given.python_tunix}
    for name, python in pythons.items():
        if not python:
            print(f"{NAMES[name]} is left out: no --python-{name}", file=sys.stderr)
    pythons = {name: python for name, python in pythons.items() if python}
    parts = dict.fromkeys(NAMES, given.peer_micro_batches) | {"alignjax": given.micro_batches}
    text = page(given.cases.split(","), pythons, given.iterations, parts)
    print(text)
    if given.file:
        given.file.write_text(text)


if __name__ == "__main__":
    main()
