"""alignjax check-data: a folder of preferences, read and checked without a model."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.data import check

OPTIONS = (
    flags.Option("path", str, "", "folder or file of preference rows"),
    flags.Option("names", str, "*", "glob that selects files of the folder"),
    flags.Option("on_bad_row", str, "error", "error | skip"),
    flags.Option("length", int, 512, "tokens of a row"),
    flags.Option("prompt_length", int, 256, "most tokens of a prompt"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints counts, length percentiles, duplicates and the share that would be cut."""
    options = {name: value for name, value in parsed.options.items() if name != "debug"}
    path = options.pop("path")
    if not path:
        raise ValueError("--path must name a folder or file of preference rows; got none.")
    for line in check.check_data(path, **options):
        print(line)
