"""Checkpoints: saved by Orbax, verified by checksums of our own, fallen back on when damaged.

A checkpoint is one Orbax step: `params`, `rest` (optimizer, carry, step) and a JSON `meta` with the
resolved configuration, shapes and a checksum of every leaf. Orbax alone does not notice flipped
bits and casts dtypes without a word.
"""

import logging
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp

from alignjax.core import errors, struct, trees
from alignjax.parallel import processes
from alignjax.training import algorithm, fingerprints, patience, stored_tree

FOLDER = "checkpoints"


def _items(state: algorithm.TrainState) -> dict[str, Any]:
    rest = {"step": state.step, "opt_state": state.opt_state, "carry": state.carry}
    return {"params": state.params, "rest": rest}


def _check_finite(step: int, names: list[str]) -> None:
    """Parameters must be finite; what else a state holds may be infinite on purpose.

    Raises:
      errors.NonFinite: one is not.
    """
    wrong = [name for name in names if name.startswith("params")]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise errors.NonFinite(
            f"step {step} is not saved, for its parameters must be finite; got others in "
            f"{wrong[0]}{more}. The checkpoint before it stands; lower the learning rate."
        )


class Checkpoints:
    """The checkpoints of one run, newest last.

    Only the run itself may open them to write: that sweeps away what a kill left half done, and
    would sweep away what a live run is just saving.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int = 2,
        read_only: bool = False,
        save_patience: float = 600.0,
    ):
        """save_patience: seconds without progress after which a save counts as hanging."""
        self.folder = pathlib.Path(workdir).absolute() / FOLDER
        self._read_only, self._patience, self._stalled = read_only, save_patience, False
        self._complaints = patience.Complaints()
        logging.getLogger("absl").addHandler(self._complaints)
        if read_only:
            options = ocp.CheckpointManagerOptions(create=False)
        else:
            processes.only_first(lambda: self.folder.mkdir(parents=True, exist_ok=True))
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                # A kill while an old step is deleted leaves it half there unless it is moved first.
                todelete_subdir="trash",
                cleanup_tmp_directories=True,
            )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._empty_trash()

    def _empty_trash(self) -> None:
        if not self._read_only and processes.is_first():
            shutil.rmtree(self.folder / "trash", ignore_errors=True)

    def prepare(self, state: algorithm.TrainState) -> None:
        """Compiles what a save of this state runs: nothing compiles in the middle of a run."""
        fingerprints.checksums(_items(state))

    def save(self, state: algorithm.TrainState, meta: dict[str, Any]) -> None:
        """Starts saving the state in the background.

        Raises:
          errors.Failure: this save could not start, or the one before it failed.
          errors.NonFinite: a parameter is not finite; checkpoints before it are left as they are.
        """
        self.wait()
        items, step = _items(state), int(state.step)
        found = fingerprints.read(items)
        _check_finite(step, [n for n, (_, finite) in found.items() if not finite])
        sums = {name: number for name, (number, _) in found.items()}
        meta = {**meta, "step": step, "shapes": fingerprints.shapes(items), "checksums": sums}
        meta["sha256"] = fingerprints.digest(meta)
        saves = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        saves["meta"] = ocp.args.JsonSave(meta)
        try:
            self._patiently(
                lambda: self._manager.save(step, args=ocp.args.Composite(**saves), force=True)
            )
        except (OSError, ValueError) as error:
            raise errors.Failure(
                f"checkpoint {step} was not saved: {errors.condense(error)}"
            ) from error

    def wait(self) -> None:
        """Returns when the save under way is on disk.

        Raises:
          errors.Failure: it failed.
        """
        try:
            self._patiently(self._manager.wait_until_finished)
            self._manager.check_for_errors()
        except errors.Failure:
            raise
        except Exception as error:
            raise self._not_saved(error) from error
        self._empty_trash()

    def check(self) -> None:
        """Returns if nothing has failed in the background so far.

        Raises:
          errors.Failure: a save has.
        """
        if self._complaints.error is not None:
            raise self._not_saved(self._complaints.error) from self._complaints.error

    def _not_saved(self, error: BaseException) -> errors.Failure:
        return errors.Failure(
            f"a checkpoint in {self.folder} was not saved: {errors.condense(error)}. "
            "Earlier ones are untouched; make room and run the same command again."
        )

    def _patiently(self, act: Callable[[], Any]) -> None:
        try:
            patience.patiently(act, self.check, self.folder, self._patience)
        except errors.Stalled:
            self._stalled = True
            raise

    def steps(self) -> list[int]:
        """Finished steps, oldest first."""
        return sorted(self._manager.all_steps())

    def delete(self, step: int) -> None:
        """Removes a finished step."""
        self._manager.delete(step)

    def _read(self, step: int, **restores: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**restores))
        except Exception as error:
            if processes.all_failed():
                raise errors.Failure(f"files are damaged ({errors.condense(error)})") from error
            # The others wait for this process inside Orbax: no falling back together.
            raise errors.Alone(
                f"checkpoint {step} in {self.folder} can't be read by process "
                f"{processes.index()} alone: {errors.condense(error)}. Look at its storage and "
                "run the same command again, or move the step aside."
            ) from error

    def meta(self, step: int) -> dict[str, Any]:
        """The meta of a step, checked against its own digest.

        Raises:
          errors.Failure: it is unreadable or was changed.
        """
        meta = dict(self._read(step, meta=ocp.args.JsonRestore()).meta or {})
        digest = meta.pop("sha256", None)
        if digest != fingerprints.digest(meta):
            raise errors.Failure("meta differs from its own digest")
        return meta

    def restore_items(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """The items of a step in the layout of `abstract`, every leaf verified.

        Raises:
          errors.Failure: files are damaged.
          ValueError: another tree, shape or dtype is stored: nothing is cast silently.
        """
        meta = self.meta(step)
        wanted = fingerprints.shapes(abstract)
        stored = {n: s for n, s in meta["shapes"].items() if n.split("/")[0] in abstract}
        if wanted != stored:
            name = next(n for n in [*wanted, *stored] if wanted.get(n) != stored.get(n))
            raise ValueError(
                f"checkpoint {step} in {self.folder} must hold what this run trains; got "
                f"{name}: {stored.get(name, 'nothing')} stored, {wanted.get(name, 'nothing')} "
                "expected. Use the configuration of the run that saved the checkpoint."
            )
        held = {
            name: stored_tree.as_stored(self.folder / str(step) / name, tree)
            for name, tree in abstract.items()
        }
        read = self._read(step, **{n: ocp.args.StandardRestore(t) for n, t in held.items()})
        items = {}
        for name, tree in abstract.items():
            leaves = trees.named_leaves(read[name])
            items[name] = trees.map_named(lambda own, _, found=leaves: found[own], tree)
        _compare(fingerprints.checksums(items), meta["checksums"])
        return items

    def verify(self, step: int) -> None:
        """Recomputes every checksum of a step, whatever it holds.

        Raises:
          errors.Failure: naming the leaves that differ.
        """
        meta = self.meta(step)
        names = dict.fromkeys(name.split("/")[0] for name in meta["shapes"])
        held = {n: stored_tree.read(self.folder / str(step) / n) for n in names}
        items = self._read(step, **{n: ocp.args.StandardRestore(t) for n, t in held.items()})
        _compare(fingerprints.checksums({name: items[name] for name in names}), meta["checksums"])

    def newest(
        self, abstract: dict[str, Any], log: Callable[[str], None], *, move: bool = True
    ) -> tuple[int, dict[str, Any]] | None:
        """(step, items) of the newest step that verifies; None where there is no checkpoint.

        A damaged step is moved to `damaged/` (not deleted) and the one before it is tried.

        Raises:
          errors.Failure: there are checkpoints and all are damaged. Nothing was changed then.
        """
        steps = self.steps()
        damaged = []
        for step in reversed(steps):
            try:
                items = self.restore_items(step, abstract)
            except errors.Alone:
                raise
            except errors.Failure as failure:
                log(f"warning: checkpoint {step} is damaged: {failure}")
                damaged.append(step)
                continue
            if damaged and move:
                processes.only_first(lambda: self._move_aside(damaged))
                self._manager.reload()
            return step, items
        if damaged:
            raise errors.Failure(
                f"no checkpoint in {self.folder} can be restored, all {len(damaged)} are damaged. "
                "Nothing was changed; put a good copy there or use an empty --workdir."
            )
        return None

    def _move_aside(self, steps: list[int]) -> None:
        for step in steps:
            _move(self.folder / str(step), self.folder.parent / "damaged")

    def restore(
        self, abstract: algorithm.TrainState, log: Callable[[str], None]
    ) -> algorithm.TrainState | None:
        """The newest good state, or None where there is no checkpoint. Raises as `newest`."""
        newest = self.newest(_items(abstract), log)
        if newest is None:
            return None
        return struct.replace(abstract, params=newest[1]["params"], **newest[1]["rest"])

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        # A save needs all processes: one that failed would wait for the others in vain. What all
        # of them raise together is another matter.
        if error is None or isinstance(error, errors.NonFinite) or processes.count() == 1:
            self.close()

    def close(self) -> None:
        """Waits for the last save and releases the threads."""
        logging.getLogger("absl").removeHandler(self._complaints)
        if self._stalled:
            return
        self.wait()
        self._manager.close()


def _compare(actual: dict[str, int], stored: dict[str, int]) -> None:
    wrong = [name for name, value in actual.items() if stored.get(name) != value]
    if wrong:
        raise errors.Failure(f"the checksum of {', '.join(wrong[:3])} does not match")


def _move(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Moves a step aside, numbered if its name is taken."""
    folder.mkdir(exist_ok=True)
    number, free = 1, folder / path.name
    while free.exists():
        number, free = number + 1, folder / f"{path.name}.{number}"
    shutil.move(path, free)


def exists(workdir: pathlib.Path) -> bool:
    """Whether a run's folder holds a checkpoint."""
    folder = pathlib.Path(workdir) / FOLDER
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def newest_name(workdir: pathlib.Path) -> int | None:
    """The step in the name of a folder's newest checkpoint, unread; None where there is none."""
    folder = pathlib.Path(workdir) / FOLDER
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def is_finished(workdir: pathlib.Path, step: int) -> bool:
    """Whether a run's folder holds a checkpoint of this step that verifies."""
    folder = pathlib.Path(workdir) / FOLDER / str(step)
    if not processes.from_first(folder.is_dir):
        return False
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        checkpoints.verify(step)
    except errors.Alone:
        raise
    except errors.Failure:
        return False
    finally:
        checkpoints.close()
    return True


def load(
    workdir: pathlib.Path, abstract: Callable[[dict[str, Any]], Any]
) -> tuple[Any, dict[str, Any]]:
    """(params, meta) of a run's last checkpoint, without its optimizer.

    An earlier checkpoint never stands in for a damaged last one: what starts from this run would
    start from another policy.

    Args:
      workdir: the run's folder. abstract: from the meta to the shapes of params.

    Raises:
      ValueError: no checkpoint there. errors.Failure: the last one is damaged.
    """
    if not exists(workdir):
        raise ValueError(
            f"a checkpoint to start from must be the folder of a finished run; got {workdir}, "
            "which holds none. Train that stage first or correct the path."
        )
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.steps()[-1]
    try:
        meta = checkpoints.meta(step)
        return checkpoints.restore_items(step, {"params": abstract(meta)})["params"], meta
    except errors.Failure as failure:
        raise errors.Failure(
            f"checkpoint {step} of {workdir} is damaged: {failure}. Run that stage's command "
            "again: it goes on from the checkpoint before it."
        ) from failure
    finally:
        checkpoints.close()


def stored_shapes(workdir: pathlib.Path) -> dict[str, str]:
    """{name of a leaf: its type and shape} of a run's last checkpoint; empty where none is read."""
    if not exists(workdir):
        return {}
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return dict(checkpoints.meta(checkpoints.steps()[-1])["shapes"])
    except errors.Failure:
        return {}
    finally:
        checkpoints.close()
