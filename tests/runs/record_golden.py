"""Records the golden run folders: python -m tests.runs.record_golden

Folders of older releases are what the tests are for: one that is there already stays as it is, and
a new format gets new folders beside the old ones.

sft-1 has format 1 and is of commit e8838e9: that release's own `alignjax train` trained
golden/experiment.py:sft-1 (there `alignjax.experiment` in place of `alignjax.runs.experiment`), its
`alignjax evaluate` gave the numbers of expected.json, and `thin` took away what is not needed.
"""

import json
import pathlib
import shutil
import subprocess
import sys

from alignjax.worlds import corpus
from tests.commands import cli

GOLDEN = pathlib.Path(__file__).parent / "golden"
RUNS = ("base", "sft", "reward", "ppo")  # each after those that it starts from


def call(*argv: str) -> str:
    """What a command prints that runs inside the golden folder: its paths name no machine."""
    command = [sys.executable, "-m", "alignjax", *argv]
    return subprocess.run(
        command,
        cwd=GOLDEN,
        env=cli.environment(quick=False),
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout


def write_pairs() -> None:
    """8 pairs of reviews; which is preferred does not matter here."""
    answers = corpus.make_corpus(corpus.ReviewConfig(demonstrations=16, eval_rows=16))
    tables = [answers.read("demonstrations", split) for split in ("train", "eval")]
    pairs = [{name: x.reshape(8, 2, *x.shape[1:]) for name, x in t.items()} for t in tables]
    corpus.write_pairs(GOLDEN / "pairs.npz", *pairs)


def thin(folder: pathlib.Path) -> None:
    """Takes away what no command reads of a run's folder, and the machine's name for it."""
    for name in ("compiled", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for file in folder.rglob("commit_success.txt"):  # Orbax asks only whether it is there
        file.write_text("Checkpoint commit was successful.\n")


def main() -> None:
    """Trains what is not there, in the order in which one starts from the other."""
    file = GOLDEN / "expected.json"
    expected = json.loads(file.read_text()) if file.exists() else {}
    if not (GOLDEN / "pairs.npz").exists():
        write_pairs()
    for name in RUNS:
        if (GOLDEN / name).exists():
            continue
        call("train", f"--config=experiment.py:{name}", f"--workdir={name}")
        thin(GOLDEN / name)
        numbers = json.loads(call("evaluate", f"--workdir={name}", "--rows=8", "--json"))
        expected[name] = {number: cell["value"] for number, cell in numbers.items()}
        file.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
