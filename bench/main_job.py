"""The README's main job from several checkouts in turns: time, CPU time and peak memory.

    python bench/main_job.py TREE [TREE ...] --rounds=2 --config=experiments/lifecycle.py

Each tree is a checkout, run by this interpreter with its own package. A round runs every tree once.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

START = "import sys; from alignjax.main import main; sys.exit(main(sys.argv[1:]))"


def once(tree: pathlib.Path, config: str) -> dict[str, object]:
    """One run in a process of its own, whose children are all that this one has."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        command = [sys.executable, "-c", START, "run", f"--config={config}"]
        code = subprocess.run(
            [*command, f"--workdir={folder}/run"],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit code": code,
        "wall s": round(time.perf_counter() - begin, 1),
        "CPU s": round(used.ru_utime + used.ru_stime, 1),
        "peak MiB": round(used.ru_maxrss / 1024),
        "load before": round(os.getloadavg()[2], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="+", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--config", default="experiments/lifecycle.py")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(once(options.trees[0].resolve(), options.config)))
        return
    for number in range(options.rounds):
        order = options.trees if number % 2 == 0 else options.trees[::-1]
        for tree in order:  # a process each, since usage of children adds up
            told = subprocess.run(
                [sys.executable, __file__, str(tree), "--alone", f"--config={options.config}"],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            print(json.dumps({"tree": str(tree), "round": number + 1, **json.loads(told)}))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
