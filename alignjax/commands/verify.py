"""alignjax verify: the checksums of a run's checkpoints, recomputed."""

import jax

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.runs import evaluation

OPTIONS = (common.WORKDIR, common.DEBUG)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> int:
    """Prints a line a checkpoint; exit 1 when one is damaged."""
    jax.config.update("jax_platforms", "cpu")
    lines = evaluation.verify(common.run_folder(parsed))
    for step, problem in lines:
        print(f"checkpoint {step}: {problem or 'good'}")
    return int(any(problem for _, problem in lines))
