"""Checkpoints: exact, verified, fallen back on; never cast, never silently lost."""

import json
import os
import pathlib
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from alignjax.core import errors, struct, trees
from alignjax.parallel import axes
from alignjax.parallel import mesh as meshes
from alignjax.training import algorithm, checkpoint, fingerprints, patience

META = {"method": "toy", "config": {"seed": 3}}


def make_state(step, scale=1.0):
    """Every dtype that a run may hold; leaves large enough to lie in files of their own."""
    key = jax.random.key(0)
    wide = scale * jax.random.normal(key, (64, 32))
    params = {
        "matrix": axes.shard(wide, "fsdp ff"),
        "half": axes.shard(wide.astype(jnp.bfloat16), "fsdp ff"),
        "flat": scale * jnp.arange(5, dtype=jnp.float32),
    }
    return algorithm.TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        opt_state={"mu": axes.shard(-wide, "fsdp ff"), "count": jnp.asarray(step, jnp.int32)},
        carry={"flag": jnp.array([True, False]), "byte": jnp.arange(7, dtype=jnp.uint8)},
    )


def abstract(state=None):
    return jax.eval_shape(make_state, 0) if state is None else jax.eval_shape(lambda: state)


def save(folder, *states):
    checkpoints = checkpoint.Checkpoints(folder)
    for state in states:
        checkpoints.save(state, META)
    checkpoints.close()


def restore(folder, shapes=None):
    """(state or None, what was said)."""
    said = []
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        return checkpoints.restore(shapes or abstract(), said.append), said
    finally:
        checkpoints.close()


def assert_same(one, other):
    left, right = trees.named_leaves(one), trees.named_leaves(other)
    assert left.keys() == right.keys()
    for name, x in left.items():
        assert x.dtype == right[name].dtype, name
        np.testing.assert_array_equal(np.asarray(x), np.asarray(right[name]), err_msg=name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with steps 1 and 2, to be copied."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, make_state(1), make_state(2, scale=2.0))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def test_round_trip_on_every_mesh(tmp_path, any_mesh):
    state = jax.jit(make_state)(4)
    save(tmp_path, state)
    found, said = restore(tmp_path)
    assert_same(found, state)
    assert not said
    for name, x in trees.named_leaves(found.params).items():
        assert x.sharding.is_equivalent_to(trees.named_leaves(state.params)[name].sharding, x.ndim)
    assert any_mesh is None or not found.params["matrix"].sharding.is_fully_replicated


def test_a_checkpoint_moves_between_meshes(tmp_path):
    def mesh(*sizes):
        config = meshes.MeshConfig(replica=sizes[0], data=sizes[1], model=sizes[2])
        return meshes.make_mesh(config, jax.devices())

    layouts = [mesh(1, 8, 1), None, mesh(1, 4, 2)]
    host = jax.device_get(jax.jit(make_state)(4))
    sums = set()
    for number, layout in enumerate(layouts):
        with meshes.use(layout):
            state = jax.jit(make_state)(4)
            sums.add(tuple(fingerprints.checksums(state.params).items()))
            save(tmp_path / str(number), state)
    assert len(sums) == 1
    for number in range(3):
        for layout in layouts:
            with meshes.use(layout):
                found, said = restore(tmp_path / str(number))
            assert_same(jax.device_get(found), host)
            assert not said


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path) == (None, [])
    assert not checkpoint.exists(tmp_path)


def test_the_newest_steps_are_kept_and_debris_is_gone(tmp_path):
    save(tmp_path, *[make_state(step) for step in (1, 2, 3)])
    root = tmp_path / checkpoint.FOLDER
    (root / "trash" / "1").mkdir(parents=True)
    half = root / "7.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "data").write_text("half")
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 3]
    checkpoints.save(make_state(4), META)
    checkpoints.close()
    assert sorted(p.name for p in root.iterdir() if not p.name.startswith("_")) == ["3", "4"]


def test_checksums_see_every_bit():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, jnp.bfloat16, np.int32, np.uint8, np.bool_):
        x = rng.integers(0, 2, (33, 5)).astype(dtype)
        before = fingerprints.checksums({"x": jnp.asarray(x)})
        for _ in range(20):
            changed = x.copy()
            flat = changed.reshape(-1).view(np.uint8)
            bit = 0 if dtype == np.bool_ else rng.integers(8)
            flat[rng.integers(len(flat))] ^= np.uint8(1 << bit)
            assert fingerprints.checksums({"x": jnp.asarray(changed)}) != before, dtype
    a = jnp.arange(6.0)
    assert fingerprints.checksums({"x": a}) != fingerprints.checksums({"x": a[::-1]})


def data_files(step_folder: pathlib.Path) -> list[pathlib.Path]:
    files = [p for p in step_folder.rglob("*") if p.is_file()]
    return sorted(files, key=lambda p: -p.stat().st_size)


def test_a_flipped_byte_is_found_and_the_step_before_is_used(saved, tmp_path):
    rng = np.random.default_rng(0)
    noticed = 0
    for attempt in range(10):
        run = tmp_path / str(attempt)
        shutil.copytree(saved, run)
        file = data_files(run / checkpoint.FOLDER / "2")[attempt % 2]
        content = bytearray(file.read_bytes())
        place = int(rng.integers(len(content)))
        content[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        found, said = restore(run)
        where = f"byte {place} of {file.relative_to(run)}"
        noticed += len(said)
        if not said:  # a byte of the file that no number depends on
            assert_same(found, make_state(2, scale=2.0))
            continue
        assert_same(found, make_state(1))
        assert len(said) == 1, where
        assert said[0].startswith("warning: checkpoint 2 is damaged: "), where
        assert "\n" not in said[0]
        assert (run / "damaged" / "2").is_dir()
        assert not (run / checkpoint.FOLDER / "2").exists()
    assert noticed >= 7


@pytest.mark.parametrize("harm", ["cut", "empty", "missing"])
def test_any_harmed_file_leaves_a_right_state(saved, tmp_path, harm):
    names = [p.relative_to(saved) for p in data_files(saved / checkpoint.FOLDER / "2")]
    assert len(names) > 5
    noticed = 0
    for number, name in enumerate(names):
        run = tmp_path / str(number)
        shutil.copytree(saved, run)
        file = run / name
        if harm == "missing":
            file.unlink()
        else:
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
        found, said = restore(run)
        step = int(found.step)
        assert step == (1 if said else 2), name
        assert_same(found, make_state(1) if said else make_state(2, scale=2.0))
        noticed += len(said)
    assert noticed >= 2  # those that hold the numbers


def test_a_second_damaged_step_gets_a_name_of_its_own(folder):
    root = folder / checkpoint.FOLDER
    (folder / "damaged" / "2").mkdir(parents=True)
    data_files(root / "2")[0].write_bytes(b"")
    restore(folder)
    assert (folder / "damaged" / "2.1").is_dir()
    assert not list((folder / "damaged" / "2").iterdir())


def test_after_a_fall_back_the_run_saves_the_step_again(folder):
    data_files(folder / checkpoint.FOLDER / "2")[0].write_bytes(b"")
    restore(folder)
    save(folder, make_state(2, scale=2.0))
    found, said = restore(folder)
    assert_same(found, make_state(2, scale=2.0))
    assert not said


def test_a_signal_while_a_checkpoint_is_read_is_no_damage(folder, monkeypatch):
    def terminated(*args, **kwargs):
        raise errors.Preempted("stopped by a signal.")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", terminated)
    with pytest.raises(errors.Preempted):
        restore(folder)
    monkeypatch.undo()
    found, said = restore(folder)
    assert (found.step, said) == (2, [])


def test_what_is_renamed_while_it_is_looked_at_is_passed_over(tmp_path, monkeypatch):
    for place in ("4.orbax-checkpoint-tmp/meta.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp/b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "data").write_text("12345")
    files, size = patience.written(tmp_path)
    assert files == 4
    scandir = os.scandir

    def renamed(path):
        if "meta" in str(path):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", renamed)
    assert patience.written(tmp_path) == (3, size - 5)


def test_all_damaged_is_a_failure_that_changes_nothing(folder):
    for step in ("1", "2"):
        data_files(folder / checkpoint.FOLDER / step)[0].write_bytes(b"")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(errors.Failure, match="all 2 are damaged"):
        restore(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_another_shape_dtype_or_leaf_is_refused(folder):
    shapes = abstract()

    def with_params(**changes):
        return struct.replace(shapes, params={**shapes.params, **changes})

    wrong = {
        "params/flat: float32.5. stored, float32.6. expected": with_params(
            flat=jax.ShapeDtypeStruct((6,), jnp.float32)
        ),
        "params/matrix: float32.64, 32. stored, bfloat16.64, 32. expected": with_params(
            matrix=jax.ShapeDtypeStruct((64, 32), jnp.bfloat16)
        ),
        "params/more: nothing stored": with_params(more=jax.ShapeDtypeStruct((), jnp.float32)),
        "rest/carry/byte: uint8.7. stored, nothing expected": struct.replace(
            shapes, carry={"flag": shapes.carry["flag"]}
        ),
    }
    for message, other in wrong.items():
        with pytest.raises(ValueError, match=message):
            restore(folder, other)
    assert sorted(p.name for p in folder.iterdir()) == [checkpoint.FOLDER]  # nothing moved aside
    assert int(restore(folder)[0].step) == 2


def test_verify_names_the_leaf(folder):
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.verify(1)
    checkpoints.verify(2)
    assert checkpoints.meta(2)["config"] == META["config"]
    checkpoints.close()
    # A checkpoint whose files are well formed and whose numbers are not those of its meta.
    other = folder.parent / "other"
    state = make_state(2, scale=2.0)
    flat = state.params["flat"].at[3].add(1e-6)
    save(other, struct.replace(state, params={**state.params, "flat": flat}))
    target = folder / checkpoint.FOLDER / "2"
    shutil.rmtree(target / "params")
    shutil.copytree(other / checkpoint.FOLDER / "2" / "params", target / "params")
    checkpoints = checkpoint.Checkpoints(folder)
    with pytest.raises(errors.Failure, match="checksum of params/flat does not match"):
        checkpoints.verify(2)
    checkpoints.verify(1)
    checkpoints.close()


@pytest.mark.parametrize("harm", ["a leaf is gone", "a leaf is another", "no JSON"])
def test_a_damaged_structure_is_damage(folder, harm):
    file = folder / checkpoint.FOLDER / "2" / "params" / "_METADATA"
    content = json.loads(file.read_text())
    (_, leaf), *others = content["tree_metadata"].items()
    kept = dict(others)
    if harm == "a leaf is another":
        kept["('other',)"] = {**leaf, "key_metadata": [{"key": "other", "key_type": 2}]}
    content["tree_metadata"] = kept
    file.write_text("{" if harm == "no JSON" else json.dumps(content))
    found, said = restore(folder)
    assert int(found.step) == 1
    assert said[0].startswith("warning: checkpoint 2 is damaged: files are damaged")
    assert ("other leaves" in said[0]) == (harm == "a leaf is gone")


def test_a_changed_meta_is_noticed(folder):
    file = folder / checkpoint.FOLDER / "2" / "meta" / "metadata"
    text = file.read_text()
    assert '"seed": 3' in text or '"seed":3' in text
    file.write_text(text.replace('"seed": 3', '"seed": 4').replace('"seed":3', '"seed":4'))
    found, said = restore(folder)
    assert int(found.step) == 1
    assert "digest" in said[0]


def test_load_gives_params_alone_and_needs_a_checkpoint(folder, tmp_path):
    params, meta = checkpoint.load(folder, lambda meta: abstract().params)
    assert_same(params, make_state(2, scale=2.0).params)
    assert meta["step"] == 2
    with pytest.raises(ValueError, match="holds none"):
        checkpoint.load(tmp_path / "empty", lambda meta: None)
    assert not (tmp_path / "empty").exists()


def test_a_damaged_last_checkpoint_never_starts_another_run(folder):
    assert checkpoint.is_finished(folder, 2)
    assert not checkpoint.is_finished(folder, 3)
    params = folder / checkpoint.FOLDER / "2" / "params"
    files = [p for p in params.rglob("*") if p.is_file()]
    max(files, key=lambda p: p.stat().st_size).write_bytes(b"")
    assert not checkpoint.is_finished(folder, 2)
    with pytest.raises(errors.Failure, match=r"checkpoint 2 of .* is damaged"):
        checkpoint.load(folder, lambda meta: abstract().params)


def test_reading_leaves_a_save_under_way_alone(folder):
    """`alignjax evaluate` beside a running `alignjax train` must not sweep its files away."""
    root = folder / checkpoint.FOLDER
    for name in ("3.orbax-checkpoint-tmp", "trash/0"):
        (root / name).mkdir(parents=True)
        (root / name / "data").write_text("being written")
    before = sorted(str(p) for p in folder.rglob("*"))
    checkpoint.load(folder, lambda meta: abstract().params)
    checkpoints = checkpoint.Checkpoints(folder, read_only=True)
    checkpoints.verify(2)
    checkpoints.close()
    assert sorted(str(p) for p in folder.rglob("*")) == before


def test_a_save_that_fails_is_said_in_words(tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(errors.Failure, match=r"checkpoint 1 was not saved: OSError.*No space"):
        checkpoints.save(make_state(1), META)
    monkeypatch.undo()
    monkeypatch.setattr(checkpoints._manager, "check_for_errors", full)
    with pytest.raises(errors.Failure, match="Earlier ones are untouched"):
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.close()


def test_a_save_without_progress_is_an_error_and_one_that_gets_on_is_not(tmp_path, monkeypatch):
    """R18, with a file system that hangs, and one that is slow but writes."""
    hangs = threading.Event()

    def slow():
        half = tmp_path / checkpoint.FOLDER / "slow-tmp"
        half.mkdir()
        for number in range(10):
            time.sleep(0.2)
            (half / str(number)).write_text("more")

    checkpoints = checkpoint.Checkpoints(tmp_path, save_patience=0.8)
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", slow)
    checkpoints.wait()  # 2 s, with something new every 0.2 s
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", hangs.wait)
    with pytest.raises(errors.Stalled, match=r"made no progress for 0\.8 s"):
        checkpoints.save(make_state(1), META)
    checkpoints.close()  # does not wait either
    hangs.set()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_parameters_that_are_not_finite_are_never_saved(tmp_path, value):
    """R34: the good checkpoint before them stands, however few are kept."""
    good, bad = make_state(1), make_state(2)
    harmed = bad.params["half"].at[3, 4].set(value)
    bad = struct.replace(bad, params={**bad.params, "half": harmed})
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    checkpoints.save(good, META)
    with pytest.raises(errors.NonFinite, match=r"step 2 is not saved.*must be finite.*half"):
        checkpoints.save(bad, META)
    checkpoints.close()
    assert int(restore(tmp_path)[0].step) == 1
    # An optimizer may begin at infinity, as one that waits for the best loss does.
    rest = struct.replace(make_state(2), opt_state={**good.opt_state, "mu": harmed})
    save(tmp_path, struct.replace(rest, step=jnp.asarray(2, jnp.int32)))
    assert checkpoint.Checkpoints(tmp_path, read_only=True).steps()[-1] == 2
