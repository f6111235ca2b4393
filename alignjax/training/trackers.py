"""Metrics sent to wandb, mlflow or trackio besides the run's own files.

A tracker is fed by the thread that writes metrics.jsonl, so that no step waits for it. One that
fails on the way is told of and left; the files have everything.
"""

import contextlib
import importlib.util
import json
import pathlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from alignjax.core import errors, untrusted
from alignjax.parallel import processes

NAMES = ("wandb", "mlflow", "trackio")
FILE = "trackers.json"  # in a run's folder: what a tracker knows it by, so that it goes on there
HINTS = {
    "wandb": "Run `wandb login`, or set WANDB_MODE=offline.",
    "mlflow": "MLFLOW_TRACKING_URI names its server or database, like sqlite:///mlflow.db.",
    "trackio": "TRACKIO_DIR names its folder.",
}
UNNAMED = re.compile(r"[^\w./: -]")  # what mlflow takes in no name


class Tracking(NamedTuple):
    """Which trackers, and the project in which they show the run."""

    names: tuple[str, ...] = ()
    project: str = "alignjax"


NONE = Tracking()


class About(NamedTuple):
    """A run as trackers are told of it. known: its id there, "" for a new one."""

    project: str
    name: str
    folder: pathlib.Path
    config: Mapping[str, Any]
    known: str


class Tracker(Protocol):
    """A run at a tracker."""

    id: str

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; the same step may come twice, with others."""

    def close(self, ok: bool) -> None:
        """Ends it; ok: whether the run ended well."""


class _Wandb:
    def __init__(self, about: About):
        import wandb

        self.id = about.known or secrets.token_hex(4)
        self._run = wandb.init(
            project=about.project, name=about.name, id=self.id, resume="allow",
            dir=str(about.folder), config=dict(about.config),
            settings=wandb.Settings(console="off"),
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)


class _Mlflow:
    def __init__(self, about: About):
        import mlflow

        self._client = mlflow.MlflowClient()
        self.id = about.known
        if self.id:
            self._client.set_terminated(self.id, "RUNNING")  # it goes on
            return
        found = self._client.get_experiment_by_name(about.project)
        place = found.experiment_id if found else self._client.create_experiment(about.project)
        self.id = self._client.create_run(place, run_name=about.name).info.run_id
        for name, value in about.config.items():
            self._client.log_param(self.id, UNNAMED.sub("-", name), str(value)[:500])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow import entities

        now = int(time.time() * 1000)
        metrics = [
            entities.Metric(UNNAMED.sub("-", name), value, now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, ok: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if ok else "FAILED")


class _Trackio:
    def __init__(self, about: About):
        import trackio

        self.id = about.known or f"{about.name}-{secrets.token_hex(3)}"
        self._run = trackio.init(
            project=about.project, name=self.id, resume="allow", config=dict(about.config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, ok: bool) -> None:
        self._run.finish()


MAKERS: Mapping[str, Callable[[About], Tracker]] = {
    "wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio,
}  # fmt: skip


def parse(names: str, project: str) -> Tracking:
    """Trackers by their names between commas.

    Raises:
      ValueError: one is not known, or its package is not installed.
    """
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        if name not in NAMES:
            raise ValueError(
                f"--tracker must name one of {', '.join(NAMES)}, or several by commas; got "
                f"{name!r}."
            )
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--tracker={name} needs the package {name}; it is not installed. Run pip install "
                f"'alignjax[{name}]'."
            )
    return Tracking(found, project)


class Tracked:
    """The trackers of a run together."""

    def __init__(self, trackers: Mapping[str, Tracker], log: Callable[[str], None]):
        self._trackers, self._log = dict(trackers), log

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, to each."""
        self._each(lambda tracker: tracker.write(step, values))

    def close(self, ok: bool) -> None:
        """Ends each."""
        self._each(lambda tracker: tracker.close(ok))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self._trackers.items()]:
            try:
                act(tracker)
            except Exception as error:  # a library's, or of a network: the run needs neither
                del self._trackers[name]
                self._log(
                    f"warning: {name} gets no more of this run ({errors.condense(error)}); its "
                    "folder has everything."
                )


@contextlib.contextmanager
def opened(
    tracking: Tracking,
    folder: pathlib.Path,
    config: Mapping[str, Any],
    log: Callable[[str], None],
) -> Iterator[Tracked | None]:
    """A run at its trackers while the body runs; None without any, and but in the first process.

    Raises:
      ValueError: a tracker can't begin.
    """
    if not tracking.names:
        yield None
        return
    begun: dict[str, Tracker] = {}
    processes.only_first(lambda: begun.update(_begin(tracking, folder, config)))
    tracked, ok = Tracked(begun, log), False
    try:
        yield tracked if begun else None
        ok = True
    finally:
        tracked.close(ok)


def _begin(
    tracking: Tracking, folder: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, Tracker]:
    file = folder / FILE
    known = untrusted.read_object(file, untrusted.OPTION) if file.exists() else {}
    found: dict[str, Tracker] = {}
    for own in tracking.names:
        about = About(tracking.project, folder.name, folder, config, str(known.get(own) or ""))
        try:
            found[own] = MAKERS[own](about)
        except Exception as error:  # a library's, or of a network: nothing has begun yet
            Tracked(found, lambda line: None).close(False)
            raise ValueError(
                f"--tracker={own} must be able to begin a run; got {errors.condense(error)}. "
                f"{HINTS[own]}"
            ) from error
    ids = {own: tracker.id for own, tracker in found.items()}
    file.write_text(json.dumps({**known, **ids}) + "\n")
    return found
