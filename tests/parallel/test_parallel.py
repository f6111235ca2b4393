"""The logical axes, the three verbs and the mesh they act on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from alignjax.parallel import axes, hosts, mesh


@pytest.fixture
def cube():
    """The mesh (replica, data, model) = (2, 2, 2), set."""
    made = mesh.make_mesh(mesh.MeshConfig(replica=2, data=2, model=2))
    with mesh.use(made):
        yield made


def layout(x):
    return jax.typeof(x).sharding.spec


def test_spec_reads_the_table(cube):
    assert axes.spec("batch time embed") == P(("replica", "data"), None, None)
    assert axes.spec("layers fsdp kv group head") == P(None, "data", "model", None, None)
    assert axes.spec("vocab fsdp") == P("model", "data")
    assert axes.spec("") == P()
    sizes = {name: axes.axis_size(name) for name in ("batch", "fsdp", "kv", "time")}
    assert sizes == {"batch": 4, "fsdp": 2, "kv": 2, "time": 1}


def test_spec_skips_axes_that_the_mesh_has_not():
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))):
        assert axes.spec("batch ff") == P("data", None)
        assert axes.axis_size("batch") == 8
        assert axes.axis_size("ff") == 1


def test_a_collision_names_both_axes(cube):
    with pytest.raises(ValueError, match="Axes 'kv' and 'ff' of 'kv ff' both want mesh axis 'mod"):
        axes.spec("kv ff")
    with pytest.raises(ValueError, match=r"Axes 'batch' and 'fsdp' .* mesh axis 'data'"):
        axes.spec("batch time fsdp")
    with pytest.raises(ValueError, match="Unknown logical axis 'heads'; the axes are batch, fsdp,"):
        axes.spec("batch heads")


def test_without_a_mesh_every_verb_is_the_plain_operation():
    assert not axes.has_mesh()
    assert axes.spec("batch kv time") == P(None, None, None)
    assert axes.axis_size("batch") == 1
    x = jnp.arange(6.0).reshape(2, 3)
    assert axes.shard(x, "batch embed") is x
    placed = hosts.to_global({"x": np.arange(3)})
    np.testing.assert_array_equal(placed["x"], [0, 1, 2])


def test_verbs_compute_the_same_and_place_the_result(any_mesh):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(8, 4)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    ids = rng.integers(0, 8, size=(8, 4))
    left = axes.shard(jnp.asarray(x), "batch embed")
    right = axes.shard(jnp.asarray(w), "embed ff")

    def run(left, right):
        product = axes.einsum("bd,df->bf", left, right, out="batch ff")
        # The contracted axis is sharded here: the result is a sum over devices.
        back = axes.einsum("bf,df->bd", product, right, out="batch embed")
        rows = axes.take(axes.shard(left, "slot embed"), jnp.asarray(ids), out="batch time embed")
        return product, back, rows, axes.shard(product, "slot vocab")

    for product, back, rows, moved in (run(left, right), jax.jit(run)(left, right)):
        np.testing.assert_allclose(product, x @ w, atol=1e-5)
        np.testing.assert_allclose(back, x @ w @ w.T, atol=1e-5)
        np.testing.assert_array_equal(rows, x[ids])
        np.testing.assert_array_equal(moved, product)
        if any_mesh is not None:
            for array, names in [
                (product, "batch ff"),
                (back, "batch embed"),
                (rows, "batch time embed"),
                (moved, "slot vocab"),
            ]:
                assert array.sharding.spec == axes.spec(names)


def test_einsum_accumulates_in_the_dtype_asked_for():
    ones = jnp.ones((1, 1024), jnp.bfloat16)
    wide = axes.einsum("bd,cd->bc", ones * 1.0078125, ones, "batch slot", jnp.float32)
    assert (wide.dtype, float(wide[0, 0])) == (jnp.float32, 1032.0)
    assert axes.einsum("bd,cd->bc", ones, ones, "batch slot").dtype == jnp.bfloat16


def test_take_clips_ids_into_the_table(any_mesh):
    table = axes.shard(jnp.arange(8.0)[:, None], "slot embed")
    ids = axes.shard(jnp.array([0, 7, 8, 99, 1, 2, 3, 4]), "batch")
    rows = axes.take(table, ids, out="batch embed")
    np.testing.assert_array_equal(rows[:, 0], [0, 7, 7, 7, 1, 2, 3, 4])


def test_to_global_splits_the_batch(cube):
    host = {"x": np.arange(24).reshape(8, 3), "y": np.arange(8.0, dtype=np.float32)}
    placed = hosts.to_global(host)
    for name, value in placed.items():
        np.testing.assert_array_equal(value, host[name])
        assert value.sharding.spec[0] == ("replica", "data")
        assert {s.data.shape[0] for s in value.addressable_shards} == {2}


def test_check_rows_names_the_batch_and_the_axes(cube):
    hosts.check_rows("loop.batch_size", 8)
    with pytest.raises(ValueError, match=r"loop.batch_size must be a multiple .* = 4\); got 6"):
        hosts.check_rows("loop.batch_size", 6)


@pytest.mark.parametrize(
    ("sizes", "devices", "want"),
    [
        ((1, -1, 1), 8, (1, 8, 1)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((-1, 2, 2), 8, (2, 2, 2)),
        ((1, 1, -1), 4, (1, 1, 4)),
        ((1, -1, 1), 1, (1, 1, 1)),
    ],
)
def test_mesh_shape(sizes, devices, want):
    config = mesh.MeshConfig(**dict(zip(mesh.AXIS_NAMES, sizes, strict=True)))
    assert mesh.shape(config, devices) == want


@pytest.mark.parametrize(
    ("sizes", "devices", "message"),
    [
        ((1, -1, -1), 8, "at most one of them -1; got \\(1, -1, -1\\)"),
        ((1, 0, 1), 8, "must be >= 1"),
        ((1, -2, 1), 8, "must be >= 1"),
        ((1, -1, 3), 8, "\\(1, 2, 3\\) must multiply to the number of devices; got 8"),
        ((1, -1, 16), 8, "\\(1, 1, 16\\) must multiply"),
        ((1, 4, 1), 8, "\\(1, 4, 1\\) must multiply"),
    ],
)
def test_mesh_shape_errors(sizes, devices, message):
    config = mesh.MeshConfig(**dict(zip(mesh.AXIS_NAMES, sizes, strict=True)))
    with pytest.raises(ValueError, match=message):
        mesh.shape(config, devices)


def test_one_device_needs_no_mesh_and_more_are_explicit():
    assert mesh.make_mesh(mesh.MeshConfig(), jax.devices()[:1]) is None
    made = mesh.make_mesh(mesh.MeshConfig(model=2))
    assert dict(made.shape) == {"replica": 1, "data": 4, "model": 2}
    assert set(made.axis_types) == {jax.sharding.AxisType.Explicit}
    with mesh.use(made):
        assert axes.has_mesh()
    assert not axes.has_mesh()


def test_a_platform_that_is_not_here_is_told(monkeypatch):
    def missing():
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", missing)
    with pytest.raises(ValueError, match=r"^JAX_PLATFORMS must name devices that are here; got"):
        mesh.make_mesh(mesh.MeshConfig())
