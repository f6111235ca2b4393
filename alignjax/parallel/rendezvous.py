"""How the processes of a run find one another, and how long they wait."""

from collections.abc import Mapping
from typing import NamedTuple

AUTO = "auto"
JOIN = 50  # seconds in which all processes must have come
PATIENCE = "ALIGNJAX_JOIN_SECONDS"  # another number of them


class Launch(NamedTuple):
    """Where the processes meet, how many there are and which one this is; None: JAX finds out."""

    coordinator: str | None
    processes: int | None
    process_id: int | None


def launch(
    coordinator: str, count: int, index: int, environment: Mapping[str, str]
) -> Launch | None:
    """How to connect to the others; None where this command is a process on its own.

    Args:
      coordinator: HOST:PORT of process 0, or "auto"; "" takes JAX_COORDINATOR_ADDRESS.
      count: of processes; 0 takes JAX_NUM_PROCESSES. index: of this one; -1 takes JAX_PROCESS_ID.
      environment: the environment variables. A SLURM step, Open MPI or GKE slice of several
        processes shows in them, and JAX itself finds the rest.

    Raises:
      ValueError: some of the three are missing or out of range.
    """
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    count = count or _number(environment, "JAX_NUM_PROCESSES", 0)
    index = _number(environment, "JAX_PROCESS_ID", -1) if index < 0 else index
    if coordinator == AUTO or (not coordinator and not count and _is_one_of_many(environment)):
        return Launch(None, None, None)
    if not coordinator and count <= 1:
        return None
    if not coordinator or count < 1 or index < 0:
        raise ValueError(
            "coordinator, processes and process_id must be given together; got "
            f"{coordinator!r}, {count or 'no count'} and {index if index >= 0 else 'no id'}. Set "
            "all three on every process, or --coordinator=auto where JAX can find them."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--coordinator must be HOST:PORT of process 0; got {coordinator!r}.")
    if index >= count:
        raise ValueError(f"--process_id must be below --processes={count}; got {index}.")
    return Launch(coordinator, count, index) if count > 1 else None


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    if text and not text.isdigit():
        raise ValueError(f"{name} must be a number; got {text!r} (environment).")
    return int(text) if text else default


def _is_one_of_many(environment: Mapping[str, str]) -> bool:
    """Whether a launcher of several processes started this one."""
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    several = any(environment.get(name, "1") not in ("", "0", "1") for name in counts)
    return several or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def patience(environment: Mapping[str, str]) -> int:
    """Seconds in which all processes must have come.

    Raises:
      ValueError: the variable for it holds no number above 0.
    """
    seconds = _number(environment, PATIENCE, JOIN)
    if seconds < 1:
        raise ValueError(f"{PATIENCE} must be at least 1; got {seconds} (environment).")
    return seconds


def late(how: Launch, seconds: int, environment: Mapping[str, str]) -> str:
    """The message of a process whose peers did not connect in time."""
    who, number = "the processes of all hosts", ""
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if how.coordinator:
        who, number = f"{how.processes} processes at {how.coordinator}", f"[{how.process_id}]"
    elif len(hosts) > 1:
        who = f"the processes of the {len(hosts)} hosts in TPU_WORKER_HOSTNAMES"
    return (
        f"alignjax{number}: error: {who} must come within {seconds} s; got fewer. Start the same "
        f"command once for each of them, with the same --coordinator; {PATIENCE} is the time for "
        "hosts that start late."
    )
