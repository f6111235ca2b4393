"""Runs the tests that docs/reliability.md names and writes their results there.

    python -m tests.reliability [WORD]

WORD: of the rows that contain it alone.
"""

import datetime
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
_ROW = re.compile(r"\| (R\d+ [^|]+) \| ([\w/]+\.py)::(\w+) \|(.*)\|")


class Row(NamedTuple):
    """A promise, the test that holds it, and what was last found."""

    promise: str
    file: str
    test: str
    result: str


def rows(text: str) -> list[Row]:
    """The rows of the page's last table."""
    found = [_ROW.fullmatch(line) for line in text.splitlines()]
    return [Row(*(part.strip() for part in match.groups())) for match in found if match]


def outcome(row: Row) -> str:
    """Runs a row's test; the day and what came of its cases."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "", row.file, "-k", row.test]
    said = subprocess.run(command, cwd=ROOT, text=True, capture_output=True).stdout
    last = said.strip().splitlines()[-1]
    counts = re.findall(r"\d+ (?:passed|failed|skipped|error)", last)
    return f"{datetime.date.today()}: {', '.join(counts) or 'nothing was run'}"


def main(word: str = "") -> None:
    """Writes the page after each test, so that nothing is lost where it is ended."""
    for row in rows(PAGE.read_text()):
        if word in f"{row.promise} {row.file}::{row.test}":
            found = outcome(row)
            print(f"{row.file}::{row.test}: {found}", flush=True)
            lines = PAGE.read_text().splitlines()
            at = next(i for i, own in enumerate(lines) if own.startswith(f"| {row.promise} |"))
            lines[at] = f"| {row.promise} | {row.file}::{row.test} | {found} |"
            PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
