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
    flags.Option(
        "allow_moved_schedule",
        bool,
        False,
        "go on with another loop.steps although it moves the learning-rate schedule",
    ),
    *common.TRACKING,
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
    tracking = common.tracking(parsed)
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
            allow_moved_schedule=parsed.options["allow_moved_schedule"],
            cache=cache,
            command=common.command_of(parsed),
            tracking=tracking,
        )
    common.tell(f"finished: {workdir}")
