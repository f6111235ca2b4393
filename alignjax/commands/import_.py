"""alignjax import: open weights as a run's folder."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.runs import exchange, experiment

OPTIONS = (common.WORKDIR, common.DEBUG)
NEEDS_CONFIG = True


def main(parsed: flags.Parsed) -> None:
    """Reads --config.weights and writes a checkpoint at step 0."""
    if not isinstance(parsed.config, experiment.Experiment):
        raise ValueError(
            f"alignjax import takes an experiment; got {type(parsed.config).__name__} "
            f"({parsed.name})."
        )
    workdir = common.workdir(parsed)
    exchange.import_model(parsed.config, workdir, log=common.log)
    print(f"finished: {workdir}")
