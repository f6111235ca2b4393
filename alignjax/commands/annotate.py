"""alignjax annotate: a page in the browser on which people judge answers."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.feedback import database

OPTIONS = (
    common.DATABASE,
    flags.Option("port", int, 8080, "that the page is served on; 0 takes a free one"),
    *common.RATERS,
    flags.Option("project", str, "", "JSON file of what raters are asked; empty keeps it"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Serves the page until it is stopped."""
    options = parsed.options
    database.check_extra()
    from alignjax.web import serve

    if not 0 <= options["port"] < 65536:
        raise ValueError(f"--port must be from 0 to 65535; got {options['port']} (annotate).")
    serve.serve(
        options["database"],
        host=options["host"],
        port=options["port"],
        rater=serve.check_name(options["rater"]),
        token_file=options["token_file"],
        settings=options["project"],
        log=common.log,
    )
