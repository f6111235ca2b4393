"""alignjax report: the table, report.html and figures of a lifecycle or a sweep, written anew."""

import pathlib

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.reporting import report

OPTIONS = (
    common.WORKDIR,
    flags.Option("expected", bool, False, "of a sweep: its numbers as a file's EXPECTED has them"),
    flags.Option("book", str, "", "folder of committed reports; FOLDER.md is made of them"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Writes the report of a folder that holds results.json, or of a sweep; prints its table."""
    from alignjax.sweeps import folder as sweeps
    from alignjax.sweeps import report as swept

    folder = common.run_folder(parsed)
    named = [n for n in ("expected", "book") if parsed.options[n]]
    if sweeps.is_sweep(folder):
        shown, result = swept.write(folder)
        print(swept.expected_text(result) if parsed.options["expected"] else shown)
        print(f"\nreport: {folder / swept.PAGE}")
        if parsed.options["book"]:
            _add(folder, pathlib.Path(parsed.options["book"]))
        return
    if named:
        raise ValueError(
            f"--{named[0]} must be of a sweep's folder; got {folder}. Name that of alignjax sweep."
        )
    print(report.write(folder))
    print(f"\nreport: {folder / 'report.html'}")


def _add(sweep: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts a sweep into the book, whose page stands beside its folder."""
    from alignjax.sweeps import book

    name = book.add(sweep, folder)
    page = folder.with_suffix(".md")
    page.write_text(book.text(folder), encoding="utf-8")
    print(f"{name} is in {page}")
