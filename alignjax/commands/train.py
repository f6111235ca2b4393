"""alignjax train: one experiment."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.runs import experiment, train
from alignjax.training import speed

OPTIONS = (
    common.WORKDIR,
    *common.PROCESSES,
    flags.Option("profile", str, "", "START:STEPS to trace into profile/, for TensorBoard"),
    common.DATA_CACHE,
    common.WORKERS,
    common.ALLOW_CODE,
    flags.Option(
        "allow_unfinished", bool, False, "start from runs that have not reached their last step"
    ),
    common.BASE,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = True


def main(parsed: flags.Parsed) -> None:
    """Trains, or goes on where the folder's newest good checkpoint stands."""
    common.stop_on_signals()
    if not isinstance(parsed.config, experiment.Experiment):
        raise ValueError(
            f"alignjax train takes an experiment; got {type(parsed.config).__name__} "
            f"({parsed.name}). Use `alignjax run` for a lifecycle."
        )
    workdir, profile = common.workdir(parsed), speed.parse_window(parsed.options["profile"])
    cache = common.data_cache(parsed, workdir)
    common.use_definitions(parsed)
    common.use_base(parsed)
    common.join(parsed)
    common.keep_freed_memory()
    with common.compilation_cache(workdir):
        train.train(
            parsed.config,
            workdir,
            name=parsed.name,
            log=common.log,
            profile=profile,
            allow_code=parsed.options["allow_code"],
            allow_unfinished=parsed.options["allow_unfinished"],
            cache=cache,
        )
    common.tell(f"finished: {workdir}")
