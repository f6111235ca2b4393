"""alignjax serve: a model behind OpenAI's interface."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.evals import adapted
from alignjax.serving import adapters, deployed, engine, guarding, moderation, served, slots

DEFAULTS = slots.Limits()
NEEDED = ("starlette", "uvicorn", "prometheus_client")
OPTIONS = (
    flags.Option("model", str, "", "a model folder, a .gguf file or the folder of a run", True),
    flags.Option("template", str, "", "layout of chats of open weights; empty takes their own"),
    flags.Option("date", str, "", "today's for such a layout that states it, like '26 Jul 2024'"),
    flags.Option("pad", str, "", "token to pad with, where open weights name none"),
    common.SKIP,
    flags.Option("name", str, "", "by which requests ask for the model; empty is the folder's"),
    flags.Option(
        "adapters", str, "", "LoRA folders of peft over the model: NAME=FOLDER,NAME=FOLDER"
    ),
    flags.Option("adapter_slots", int, 0, "adapters at most; 0: those given, and two more if any"),
    flags.Option("adapter_rank", int, 0, "largest rank; 0: that of those given, else 16"),
    flags.Option("adapter_targets", str, "", "targets beside those of the adapters given"),
    flags.Option("slots", int, DEFAULTS.slots, "answers decoded at once"),
    flags.Option("context", int, DEFAULTS.context, "tokens of a prompt with its answer"),
    flags.Option("queue", int, DEFAULTS.waiting, "requests that may wait; then 429"),
    flags.Option("request_seconds", float, DEFAULTS.seconds, "of a request at most; 0: no limit"),
    flags.Option("port", int, 8000, "that is served on; 0 takes a free one"),
    flags.Option("host", str, "127.0.0.1", "address; any but this needs --token_file"),
    flags.Option("token_file", str, "", "who may ask, one a line: NAME TOKEN"),
    flags.Option(
        "guard", str, "", "runs of guards or files that describe them; several stand in series"
    ),
    flags.Option("thresholds", str, "", "as many files that alignjax guard --calibrate wrote"),
    flags.Option("guard_window", int, guarding.WINDOW, "tokens held back until the guard passes"),
    flags.Option("on_guard_error", str, moderation.BLOCK, "block or allow"),
    flags.Option("database", str, "", "records what the guard says, for alignjax review"),
    flags.Option("keep_text", bool, False, "in it, of what is to be reviewed; else hashes alone"),
    common.BASE,
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Serves until it is stopped."""
    options = parsed.options
    common.use_base(parsed)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"serve needs {', '.join(missing)}; got none. Run pip install 'alignjax[serve]'."
        )
    from alignjax.serving.http import run

    tokens = run.check_address(options["host"], options["port"], options["token_file"])
    limits = slots.Limits(
        options["slots"], options["context"], options["queue"], options["request_seconds"]
    )
    limits.validate()
    with guarded(options) as moderator:
        run.serve(
            lambda: open_engine(options, limits),
            host=options["host"],
            port=options["port"],
            tokens=tokens,
            moderator=moderator,
            log=common.log,
        )


@contextlib.contextmanager
def guarded(options: Mapping[str, Any]) -> Iterator[moderation.Moderation]:
    """The guard that options name, at work, and what it says in the log: never a text.

    Raises:
      ValueError: it is not to be read, or an option needs one that is missing.
    """
    own = moderation.Moderation(
        window=options["guard_window"], on_error=options["on_guard_error"], report=_told
    )
    own.validate()
    if not options["guard"]:
        given = [name for name in ("thresholds", "database", "keep_text") if options[name]]
        if given:
            raise ValueError(f"--guard must name a guard for --{given[0]}; got none (serve).")
        yield own
        return
    with deployed.opened(
        options["guard"], options["thresholds"], place=options["database"],
        keep_text=options["keep_text"],
    ) as guard:  # fmt: skip
        yield dataclasses.replace(own, guard=guard)


def _told(incident: moderation.Incident) -> None:
    verdict = incident.verdict
    scores = ", ".join(f"{name} {value:.3f}" for name, value in verdict.categories.items())
    what = "blocked" if verdict.blocked else "allowed"
    common.log(f"guard: {what} {incident.where} of {incident.model}: {verdict.error or scores}")


def open_engine(options: Mapping[str, Any], limits: slots.Limits) -> engine.Engine:
    """The engine that options of the command name."""
    own = served.load(
        options["model"],
        template=options["template"],
        pad=options["pad"],
        date=options["date"],
        name=options["name"],
        skip=options["skip"],
    )
    folders = adapted.parse_adapters(options["adapters"]) if options["adapters"] else {}
    stack = adapters.stack_of(
        own,
        folders,
        count=options["adapter_slots"] or (len(folders) + 2 if folders else 0),
        rank=options["adapter_rank"],
        targets=[name for name in options["adapter_targets"].split(",") if name],
    )
    if 0 < own.context < limits.context:
        common.log(
            f"serve: --context={limits.context} goes beyond the {own.context} tokens that "
            f"{own.name} was trained for: later positions are new to it."
        )
    common.log(f"serve: {own.name} is read; its programs are compiled")
    return engine.Engine(own, limits, stack)
