"""One command started once for each of several processes, on CPU devices over loopback."""

import dataclasses
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
import time

from tests.commands import cli

# Of two threads that greet their peers at once the pieces mix.
GLOO = (
    r"(?:(?:\[Gloo\] Rank | is connected to | peer ranks\. |"
    r"Expected number of connected peer ranks is : )[\d\n]*)+"
)
DEADLINE = 60.0  # seconds in which all processes must have ended after one of them failed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass
class Processes:
    """The running processes and the files that hold what each one says."""

    started: list[subprocess.Popen]
    folder: pathlib.Path

    def out(self, index: int) -> str:
        return (self.folder / f"out.{index}").read_text()

    def err(self, index: int) -> str:
        """What a process said on stderr, without what JAX's CPU collectives say there."""
        return re.sub(GLOO, "", (self.folder / f"err.{index}").read_text())

    def talked(self, index: int) -> bool:
        """Whether a program with collectives has begun there."""
        return "[Gloo]" in (self.folder / f"err.{index}").read_text()

    def codes(self, timeout: float = 1200) -> list[int]:
        """All exit codes; processes that outlive the timeout are killed and it is an error."""
        end = time.monotonic() + timeout
        try:
            return [p.wait(max(end - time.monotonic(), 0.01)) for p in self.started]
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()

    def wait_for_steps(self, workdir: pathlib.Path, rows: int, timeout: float = 120) -> None:
        """Returns once the run's metrics hold so many rows."""
        file = workdir / "metrics.jsonl"
        end = time.monotonic() + timeout
        while not file.exists() or len(file.read_text().splitlines()) < rows:
            assert time.monotonic() < end, self.report()
            assert all(p.poll() is None for p in self.started), self.report()
            time.sleep(0.1)

    def wait_for_save(self, workdir: pathlib.Path, step: int, timeout: float = 60) -> None:
        """Returns once a checkpoint is complete, which its own thread writes during later steps."""
        end = time.monotonic() + timeout
        while not (workdir / "checkpoints" / str(step)).exists():
            assert time.monotonic() < end, self.report()
            time.sleep(0.1)

    def report(self) -> str:
        """The end of all that was said, for the message of a failed test."""
        return "\n".join(
            f"--- process {i}, exit {p.poll()}\n{self.out(i)[-1000:]}\n{self.err(i)[-2500:]}"
            for i, p in enumerate(self.started)
        )


def start(
    folder: pathlib.Path,
    *argv: str | pathlib.Path,
    count: int = 2,
    devices: int = 2,
    own: dict[int, list[str]] | None = None,
    only: int | None = None,
) -> Processes:
    """The command in `count` processes of so many devices each; logs go to the folder.

    own: further words of single processes. only: the one process that is really started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    started: list[subprocess.Popen] = []
    for index in range(count) if only is None else [only]:
        where = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        words = [*map(str, argv), *(own or {}).get(index, [])]
        command = words if words[0].endswith(".py") else ["-m", "alignjax", *words]
        log = len(started)
        with (folder / f"out.{log}").open("w") as out, (folder / f"err.{log}").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=cli.ROOT,
                env={**cli.environment(devices), **(where if count > 1 else {})},
                stdout=out,
                stderr=err,
            )
        started.append(process)
    return Processes(started, folder)


def run(folder: pathlib.Path, *argv: str | pathlib.Path, code: int = 0, **options) -> Processes:
    """The ended processes, after checking that each ended with the code."""
    processes = start(folder, *argv, **options)
    assert set(processes.codes()) == {code}, processes.report()
    return processes


def config_file(folder: pathlib.Path, changes: str = "", fault: str = "") -> pathlib.Path:
    """A config file of a tiny SFT run of 8 steps.

    changes: statements on `config`. fault: statements that run in every process at start; `index`
    is the process's number.
    """
    file = folder / "experiments" / "tiny.py"  # errors raised there are those of a user
    text = """\
        import os

        from alignjax.algorithms import sft
        from alignjax.runs.experiment import Experiment
        from alignjax.models.config import TransformerConfig
        from alignjax.training.loop import LoopConfig
        from alignjax.worlds.corpus import ReviewConfig

        index = int(os.environ.get("JAX_PROCESS_ID", "0"))

        {fault}


        def get_config(variant=""):
            config = Experiment(
                algorithm=sft.SftConfig(),
                model=TransformerConfig(
                    layers=1, width=16, heads=2, kv_heads=2, head_dim=8, ff=16, unroll=1
                ),
                data=ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=37),
                loop=LoopConfig(steps=8, batch_size=8, checkpoint_every=4, log_every=1),
            )
            {changes}
            return config
        """
    parts = {"fault": textwrap.dedent(fault), "changes": changes or "pass"}
    text = textwrap.dedent(text).replace("{changes}", parts["changes"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace("{fault}", parts["fault"]))
    return file
