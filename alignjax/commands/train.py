"""alignjax train: one experiment."""

from alignjax import experiment
from alignjax.cli import flags
from alignjax.commands import common

OPTIONS = (common.WORKDIR, *common.PROCESSES, common.DEBUG)
NEEDS_CONFIG = True


def main(parsed: flags.Parsed) -> None:
    """Trains, or goes on where the folder's newest good checkpoint stands."""
    if not isinstance(parsed.config, experiment.Experiment):
        raise ValueError(
            f"alignjax train takes an experiment; got {type(parsed.config).__name__} "
            f"({parsed.name}). Use `alignjax run` for a lifecycle."
        )
    workdir = common.workdir(parsed)
    common.join(parsed)
    common.keep_freed_memory()
    common.stop_on_sigterm()
    with common.compilation_cache(workdir):
        experiment.train(parsed.config, workdir, name=parsed.name, say=common.say)
    common.tell(f"finished: {workdir}")
