"""alignjax report: the table, report.html and figures of a lifecycle or a sweep, written anew."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.reporting import report

OPTIONS = (
    common.WORKDIR,
    flags.Option("expected", bool, False, "of a sweep: its numbers as a file's EXPECTED has them"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Writes the report of a folder that holds results.json, or of a sweep; prints its table."""
    from alignjax.sweeps import folder as sweeps
    from alignjax.sweeps import report as swept

    folder = common.run_folder(parsed)
    if sweeps.is_sweep(folder):
        shown, found = swept.write(folder)
        print(swept.expected_text(found) if parsed.options["expected"] else shown)
        print(f"\nreport: {folder / swept.PAGE}")
        return
    print(report.write(folder))
    print(f"\nreport: {folder / 'report.html'}")
