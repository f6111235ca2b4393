"""Models that a command names by their id of the hub, fetched before it begins."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.runs import hub

OPTIONS = ("model",)  # of commands
FIELDS = ("weights", "data.tokenizer")  # of an experiment's configuration


def present(parsed: flags.Parsed) -> flags.Parsed:
    """The command line with the places of models on this machine in place of ids.

    Raises:
      ValueError: a name is neither here, nor to be fetched.
    """
    options = dict(parsed.options)
    for name in OPTIONS:
        if isinstance(options.get(name), str):
            options[name] = hub.present(options[name], f"--{name}", common.log)
    for path in FIELDS:
        owner, last = parsed.config, path.rpartition(".")[2]
        for part in path.split(".")[:-1]:
            owner = getattr(owner, part, None)
        if isinstance(getattr(owner, last, None), str):
            place = hub.present(getattr(owner, last), f"--config.{path}", common.log)
            setattr(owner, last, place)
    return parsed._replace(options=options)
