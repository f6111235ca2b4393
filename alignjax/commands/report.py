"""alignjax report: the table, report.html and figures of a lifecycle, written anew."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.reporting import report

OPTIONS = (common.WORKDIR, common.DEBUG)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Writes the report of a folder that holds results.json and prints its table."""
    folder = common.run_folder(parsed)
    print(report.write(folder))
    print(f"\nreport: {folder / 'report.html'}")
