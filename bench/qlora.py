"""LoRA over a base of 32, 8 and 4 bits beside each other: losses, memory, CPU time.

The first updates of experiments/smollm2_sft.py:cpu on one batch order, each arm in a process of its
own, one after another. Resident memory is that of the process: its peak, and the median while it
trains.
Command: python bench/qlora.py --weights=MODEL --data=GSM8K --workdir=FOLDER --steps=12
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time

ARMS = {"fp32": 0, "int8": 8, "nf4": 4}
CHILD = """
import resource, sys
from alignjax import main
code = main.main(sys.argv[1:])
use = resource.getrusage(resource.RUSAGE_SELF)
print(f"USED {use.ru_maxrss} {use.ru_utime + use.ru_stime}")
sys.exit(code)
"""


def arm(name: str, options: argparse.Namespace) -> dict[str, float | list[float]]:
    """Losses of each update [nats a token], and MB of the process of one arm."""
    workdir = pathlib.Path(options.workdir) / name
    command = [
        *(sys.executable, "-c", CHILD, "train"),
        "--config=experiments/smollm2_sft.py:cpu",
        f"--config.weights={options.weights}",
        f"--config.data.tokenizer={options.weights}",
        f"--config.data.path={options.data}",
        f"--config.base.bits={ARMS[name]}",
        f"--config.loop.steps={options.steps}",
        f"--config.loop.batch_size={options.rows}",
        f"--config.data.length={options.length}",
        f"--config.data.prompt_length={options.length * 3 // 4}",
        "--config.data.train_rows=300",
        "--config.optim.warmup_steps=0",
        "--config.optim.schedule=constant",
        f"--workdir={workdir}",
    ]
    metrics, held = workdir / "metrics.jsonl", []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            time.sleep(0.5)
            status = pathlib.Path(f"/proc/{child.pid}/status").read_text()
            found = re.search(r"VmRSS:\s+(\d+)", status)
            if found and metrics.exists() and metrics.read_text().count("\n") > 1:
                held.append(float(found[1]) / 1024)
        told = child.stdout.read() if child.stdout else ""
    used = re.search(r"USED (\d+) ([\d.]+)", told)
    if used is None:
        raise SystemExit(f"{name}: {told[-500:]}")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {
        "losses": [row["nll"] for row in rows if "nll" in row],
        "peak": float(used[1]) / 1024,
        "held": statistics.median(held),
        "seconds": float(used[2]),
    }


def main() -> None:
    """Runs the arms and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "data", "workdir"):
        parser.add_argument(f"--{name}", required=True)
    for name, value in (("steps", 12), ("rows", 2), ("length", 96)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args()
    for name in options.arms:
        own = arm(name, options)
        losses = " ".join(f"{x:.3f}" for x in own["losses"])
        sizes = f"peak {own['peak']:.0f} MB, held {own['held']:.0f} MB, {own['seconds']:.0f} CPU s"
        print(f"{name}: {sizes}, nats a token {losses}", flush=True)


if __name__ == "__main__":
    main()
