"""A sweep for a cluster, as text: a SLURM array, or commands of XPK. Nothing is started here.

The runs of one seed share stages: whoever comes first trains them, the others wait for a lock on
the shared file system. What has finished is skipped, so the same text goes on after a failure.
"""

import pathlib
import shlex
from collections.abc import Sequence

from alignjax.sweeps import folder

KINDS = ("slurm", "xpk")


def slurm(cells: Sequence[folder.Cell], sweep: pathlib.Path, jobs: int) -> str:
    """The text of an sbatch script: one task of an array for each run, at most `jobs` at once."""
    lines = "\n".join(f"  {shlex.quote(shlex.join(cell.argv))}" for cell in cells)
    return f"""#!/usr/bin/env bash
# The {len(cells)} runs of the sweep {sweep.name}, a task each. Submit it where the folder of the
# sweep and alignjax are; then `alignjax report --workdir={shlex.quote(str(sweep))}`.
# A task that ended with 143 was stopped by a signal and has saved: it is queued again.
#SBATCH --job-name=alignjax-sweep
#SBATCH --array=0-{len(cells) - 1}%{jobs}
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

runs=(
{lines}
)

eval "srun --kill-on-bad-exit=0 alignjax ${{runs[$SLURM_ARRAY_TASK_ID]}}"
code=$?
if [ "$code" -eq 143 ]; then scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"; fi
exit "$code"
"""


def xpk(cells: Sequence[folder.Cell], sweep: pathlib.Path) -> str:
    """Commands of launch/xpk.sh, a line for each run; its environment is the user's."""
    lines = [
        f"NAME={_workload(sweep.name, number)} COMMAND={cell.argv[0]} launch/xpk.sh "
        f"{shlex.join(cell.argv[1:])}"
        for number, cell in enumerate(cells)
    ]
    return "\n".join(lines) + "\n"


def _workload(name: str, number: int) -> str:
    """A name as Kubernetes takes it: at most 40 lower-case letters, digits and dashes."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower()).strip("-")
    return f"{plain[:30] or 'sweep'}-{number}"
