"""A falsification drill: bugs planted in a copy of the package must make their tests fail.

A mutant is one change of one file's text, and the fast tests which must notice it: an expression
that selects them of the losses' tests, or behind the file of tests of another room. A mutant that
lives shows a hole in the tests, not a fault of the package.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TESTS_FAILED = 1  # pytest's status; an import error or an empty selection has another
CRASH = r"^E +(Name|Type|Attribute|Import|UnboundLocal)Error"


class Mutant(NamedTuple):
    file: str  # in alignjax
    old: str
    new: str
    where: str  # file or folder of tests
    tests: str  # as pytest -k takes it

    def __str__(self) -> str:
        return f"{self.file}: {self.old} -> {self.new or 'nothing'}"

    def mutated(self, source: str) -> str:
        """The text with the bug.

        Raises:
          ValueError: the text to change does not stand there exactly once.
        """
        if source.count(self.old) != 1:
            times = source.count(self.old)
            raise ValueError(f"{self.old!r} must stand once in {self.file}; got {times} times.")
        return source.replace(self.old, self.new)


def read() -> list[Mutant]:
    """Those of mutants.txt: blocks of three lines, `file | tests`, `- old`, `+ new`.

    A file with a folder stands before the file of its tests: `folder/file | file of tests | tests`.
    """
    found = []
    for block in (ROOT / "tests/losses/mutants.txt").read_text().strip().split("\n\n"):
        head, old, new = block.splitlines()
        file, *where, tests = head.split(" | ")
        assert (old[:2], new[:1]) == ("- ", "+"), block
        assert len(where) == ("/" in file), block
        path = file if where else f"losses/{file}"
        found.append(Mutant(path, old[2:], new[2:], (where or ["tests/losses"])[0], tests))
    return found


MUTANTS = read()


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutants_still_apply(mutant):
    source = (ROOT / "alignjax" / mutant.file).read_text()
    assert mutant.mutated(source) != source


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and its tests in another place."""
    folder = tmp_path_factory.mktemp("mutants")
    for part in ("alignjax", "bench", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", pathlib.Path(__file__).name, "goldens")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    """Python in the copy, which nothing of this tree reaches."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, capture_output=True
    )


@pytest.mark.slow
def test_the_copy_is_what_runs(copy):
    found = run(copy, "-c", "from alignjax import losses; print(losses.__file__)").stdout
    assert pathlib.Path(found.strip()).is_relative_to(copy)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_noticed(copy, mutant):
    file = copy / "alignjax" / mutant.file
    source = file.read_text()
    file.write_text(mutant.mutated(source))
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--no-header"]
    try:
        done = run(copy, "-m", "pytest", *options, mutant.where, "-k", mutant.tests)
    finally:
        file.write_text(source)
    assert done.returncode == TESTS_FAILED, done.stdout[-2000:] + done.stderr[-2000:]
    assert not re.search(CRASH, done.stdout, re.MULTILINE), "the mutant does not even run"
