"""The interpreters of the arms: this one for AlignJAX, environments of their own for its peers."""

import os
import pathlib
import subprocess
import sys

from bench import workloads

# What is installed, by steps: torch first, so that the index at hand may give a build for CPUs.
PINNED = {
    "trl": (("torch==2.13.0",), ("trl==1.16.0", "transformers==5.24.0")),
    "tunix": (("google-tunix==0.1.7", "jax==0.10.2"),),
}
IMPORTED = {"trl": "trl, torch", "tunix": "tunix, jax"}


def default_folder() -> pathlib.Path:
    """In the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "alignjax-bench"


def python_of(arm: str, folder: pathlib.Path) -> str:
    return sys.executable if arm == "alignjax" else str(folder / arm / "bin" / "python")


def is_there(arm: str, folder: pathlib.Path) -> bool:
    """Whether an arm's interpreter has what it needs."""
    if arm == "alignjax":
        return True
    python = pathlib.Path(python_of(arm, folder))
    try:
        command = [python, "-c", f"import {IMPORTED[arm]}"]
        return subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def set_up(arm: str, folder: pathlib.Path) -> str:
    """Makes an arm's environment by the index that pip is configured for.

    Returns the line that says what went wrong, empty where nothing did.
    """
    if is_there(arm, folder):
        return ""
    python, name = python_of(arm, folder), workloads.ARMS[arm]
    steps = [
        [sys.executable, "-m", "venv", str(folder / arm)],
        *([python, "-m", "pip", "install", "-q", *packages] for packages in PINNED[arm]),
    ]
    for command in steps:
        print(f"{name}: {' '.join(command)}", file=sys.stderr, flush=True)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            return f"{name} is not installed: {' '.join(command)} failed: {said[-1]}"
    return "" if is_there(arm, folder) else f"{name} is installed in {folder} but not importable."


def pythons(arms: list[str], folder: pathlib.Path, *, install: bool) -> dict[str, str]:
    """Interpreters by arm, without arms that are not there; a line on standard error for each."""
    found = {}
    for arm in arms:
        problem = set_up(arm, folder) if install else ""
        if not install and not is_there(arm, folder):
            problem = f"{workloads.ARMS[arm]} is left out: it is not in {folder} (bench --setup)."
        if problem:
            print(problem, file=sys.stderr)
        else:
            found[arm] = python_of(arm, folder)
    return found
