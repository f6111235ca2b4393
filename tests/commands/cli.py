"""`alignjax ...` as a process of its own, on one device, and folders compared."""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]


def environment(devices: int = 1, quick: bool = True) -> dict[str, str]:
    """The environment of a command on so many CPU devices; `quick` compiles without optimizing."""
    flags = f"--xla_force_host_platform_device_count={devices}" if devices > 1 else ""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "PYTHONPATH": path,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true" if quick else "false",
    }


def start(*argv: str | pathlib.Path, devices: int = 1, quick: bool = True) -> subprocess.Popen:
    """The running command."""
    return subprocess.Popen(
        [sys.executable, "-m", "alignjax", *map(str, argv)],
        cwd=ROOT,
        env=environment(devices, quick),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(
    *argv: str | pathlib.Path,
    devices: int = 1,
    code: int = 0,
    timeout: float = 600,
    quick: bool = True,
) -> str:
    """What the command prints on stdout, after checking its exit code."""
    process = start(*argv, devices=devices, quick=quick)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == code, f"exit {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
    return out


def stage_config(folder: pathlib.Path, stage: pathlib.Path, changes: str = "") -> pathlib.Path:
    """A config file for `alignjax train` that repeats the experiment of a stage's folder."""
    file = folder / f"{stage.name.replace('-', '_').replace('.', '_')}.py"
    file.write_text(
        textwrap.dedent(
            f"""\
            import pathlib

            from alignjax.runs import folder

            def get_config(variant=""):
                config = folder.read(pathlib.Path({str(stage)!r})).config
                {changes or "pass"}
                return config
            """
        )
    )
    return file


def stored_checksums(run_folder: pathlib.Path) -> dict[str, int]:
    """Checksums of the newest checkpoint, from its meta."""
    steps = [int(p.name) for p in (run_folder / "checkpoints").iterdir() if p.name.isdigit()]
    meta = run_folder / "checkpoints" / str(max(steps)) / "meta" / "metadata"
    return json.loads(meta.read_text())["checksums"]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run_blocks(page: pathlib.Path, folder: pathlib.Path) -> int:
    """How many blocks of Python a page of documentation has; they run one after the other."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    file = folder / "blocks.py"
    file.write_text("\n".join(blocks))
    found = subprocess.run(
        [sys.executable, str(file)], cwd=folder, env=environment(), text=True, capture_output=True
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return len(blocks)
