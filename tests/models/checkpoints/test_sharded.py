"""Parameters read from tensors onto meshes, and written back bit for bit."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from alignjax.models import params
from alignjax.models.checkpoints import safetensors_io, sharded, sources
from alignjax.models.checkpoints.sharded import Source
from alignjax.models.params import ParamInfo
from alignjax.parallel import axes

L, E, D, K, G, H, F, V = 3, 2, 8, 2, 3, 4, 16, 24
DECLARED = {
    "embed": ParamInfo((V, D), "vocab fsdp", 1),
    "query": ParamInfo((L, D, K, G, H), "layers fsdp kv group head", 1),
    "out": ParamInfo((L, K, G, H, D), "layers kv group head fsdp", 1),
    "norm": ParamInfo((L, D), "layers embed", 1),
    "gate": ParamInfo((L, E, D, F), "layers choice fsdp ff", 1),
    "up": ParamInfo((L, E, D, F), "layers choice fsdp ff", 1),
    "key": ParamInfo((L, H, K, 6), "layers fsdp kv head", 1),
    "value": ParamInfo((L, H, K, 5), "layers fsdp kv head", 1),
    "none": None,
    "bias": ParamInfo((D,), "fsdp", 1),
}


def names(pattern, experts=False):
    if not experts:
        return tuple(pattern.format(i) for i in range(L))
    return tuple(tuple(pattern.format(i, e) for e in range(E)) for i in range(L))


FUSED = {"sizes": {"two": 2}, "axes": "(two f) d -> d f"}
JOINT = {"sizes": {"x": 11}, "axes": "(k x) r -> r k x"}
SOURCES = {
    "embed": Source("embed.weight"),
    "query": Source(names("h.{}.q.weight"), "(k g h) d -> d k g h"),
    "out": Source(names("h.{}.o.weight"), "d (k g h) -> k g h d"),
    "norm": Source(names("h.{}.norm.weight")),
    "gate": Source(names("h.{}.e.{}.w13", True), take={"two": 0}, **FUSED),
    "up": Source(names("h.{}.e.{}.w13", True), take={"two": 1}, **FUSED),
    "key": Source(names("h.{}.kv"), take={"x": (0, 6)}, **JOINT),
    "value": Source(names("h.{}.kv"), take={"x": (6, 11)}, **JOINT),
    "none": None,
    "bias": Source("bias", "(two p) -> (p two)", {"two": 2}, scale=0.5),
}
SHAPES = {
    "embed.weight": (V, D),
    "bias": (D,),
    **{f"h.{i}.q.weight": (K * G * H, D) for i in range(L)},
    **{f"h.{i}.o.weight": (D, K * G * H) for i in range(L)},
    **{f"h.{i}.norm.weight": (D,) for i in range(L)},
    **{f"h.{i}.kv": (K * 11, H) for i in range(L)},
    **{f"h.{i}.e.{e}.w13": (2 * F, D) for i in range(L) for e in range(E)},
}


def made(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def write(path, tensors, **options):
    entries = [(n, x.shape, x.dtype, lambda x=x: x) for n, x in tensors.items()]
    safetensors_io.write_folder(path, entries, **options)
    return safetensors_io.open_folder(path)


def by_hand(t):
    """The parameters, written out with numpy."""
    layers = range(L)

    def stack(f):
        return np.stack([f(i) for i in layers])

    def experts(half):
        return stack(
            lambda i: np.stack(
                [t[f"h.{i}.e.{e}.w13"][half * F : (half + 1) * F].T for e in range(E)]
            )
        )

    def joint(i):
        return t[f"h.{i}.kv"].reshape(K, 11, H).transpose(2, 0, 1)

    bias = t["bias"]
    return {
        "embed": t["embed.weight"],
        "query": stack(lambda i: t[f"h.{i}.q.weight"].T.reshape(D, K, G, H)),
        "out": stack(lambda i: t[f"h.{i}.o.weight"].T.reshape(K, G, H, D)),
        "norm": stack(lambda i: t[f"h.{i}.norm.weight"]),
        "gate": experts(0),
        "up": experts(1),
        "key": stack(lambda i: joint(i)[..., :6]),
        "value": stack(lambda i: joint(i)[..., 6:]),
        "none": None,
        "bias": np.stack([bias[: D // 2], bias[D // 2 :]], -1).reshape(D) * bias.dtype.type(0.5),
    }


def targets(dtype=np.float32):
    return sharded.targets(DECLARED, dtype)


@pytest.fixture(scope="module", params=[1e9, 500], ids=["one file", "many files"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w"
    return write(path, made(ml_dtypes.bfloat16), max_file_bytes=request.param)


def test_values_and_layout(any_mesh, tmp_path):
    if any_mesh is not None and any_mesh.shape["model"] * any_mesh.shape["data"] > 8:
        pytest.skip("sizes")
    tensors = made()
    loaded = sharded.load(write(tmp_path / "w", tensors), reduced(any_mesh), SOURCES)
    expected = by_hand(tensors)
    for name, x in expected.items():
        if x is None:
            assert loaded[name] is None
            continue
        np.testing.assert_array_equal(np.asarray(loaded[name]), x, name)
        if any_mesh is not None:
            assert loaded[name].sharding == reduced(any_mesh)[name].sharding, name


def reduced(mesh):
    """Targets whose layouts divide the sizes: H = 4 is not split over 8."""
    wanted = targets()
    if mesh is not None and H % mesh.shape["data"]:
        for name in ("key", "value"):
            spec = jax.sharding.PartitionSpec(None, None, "model", None)
            where = jax.sharding.NamedSharding(mesh, spec)
            wanted[name] = jax.ShapeDtypeStruct(
                wanted[name].shape, wanted[name].dtype, sharding=where
            )
    return wanted


def test_round_trip_is_bit_equal(any_mesh, folder):
    """bf16 in a file, fp32 on any mesh, bf16 again."""
    loaded = sharded.load(folder, reduced(any_mesh), SOURCES)
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    kinds = {name: info.dtype for name, info in folder.tensors.items()}
    tensors = sharded.tensors_of(loaded, SOURCES, kinds)
    assert {name for name, *_ in tensors} == folder.tensors.keys()
    for name, shape, dtype, get in tensors:
        assert (shape, dtype) == folder.tensors[name][:2]
        assert get().tobytes() == folder.read(name).tobytes(), name


def test_numpy_trees_are_written_too(tmp_path):
    tensors = made()
    entries = sharded.tensors_of(by_hand(tensors), SOURCES)
    safetensors_io.write_folder(tmp_path / "w", entries)
    again = safetensors_io.open_folder(tmp_path / "w")
    for name, x in tensors.items():
        np.testing.assert_array_equal(again.read(name), x)


class Recorder:
    """A folder that counts the elements it reads."""

    def __init__(self, folder):
        self.folder, self.tensors, self.count = folder, folder.tensors, 0

    def read(self, name, index=(), shape=None):
        found = self.folder.read(name, index, shape)
        self.count += found.size
        return found


def test_devices_read_their_slices_only(folder):
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    wanted = jax.ShapeDtypeStruct(
        (L, D, K, G, H),
        jnp.bfloat16,
        sharding=jax.sharding.NamedSharding(mesh, jax.P(None, "a", "b")),
    )
    recorder = Recorder(folder)
    source = {"query": SOURCES["query"]}
    unread = ("h.*.o.weight", "h.*.norm.weight", "h.*.kv", "h.*.w13", "bias", "embed*")
    loaded = sharded.load(recorder, {"query": wanted}, source, unread=unread)
    assert recorder.count == L * D * K * G * H
    assert loaded["query"].addressable_shards[0].data.shape == (L, D // 4, K // 2, G, H)


def test_copies_on_several_devices_are_read_once(folder):
    mesh = jax.make_mesh((8,), ("a",))
    whole = jax.sharding.NamedSharding(mesh, jax.P())
    wanted = {"x": jax.ShapeDtypeStruct((V, D), jnp.float32, sharding=whole)}
    recorder = Recorder(folder)
    unread = ("h.*", "bias")
    loaded = sharded.load(recorder, wanted, {"x": Source("embed.weight")}, unread=unread)
    assert recorder.count == V * D
    assert len(loaded["x"].addressable_shards) == 8


@pytest.mark.parametrize("start", range(0, 8))
@pytest.mark.parametrize("stop", range(0, 9))
def test_part_of_a_joined_axis(start, stop):
    """Any range of "(p two)", whose outer axis is not cut at its elements."""
    x = np.arange(16).reshape(8, 2)

    class One:
        def read(self, name, index, shape):
            return x.reshape(shape)[index]

    if start <= stop:
        plan = sharded.Plan("x", Source("x", "(two p) d -> d (p two)", {"two": 2}), (2, 8))
        expected = x.reshape(2, 4, 2).transpose(2, 1, 0).reshape(2, 8)
        found = plan.read(One(), "x", [(0, 2), (start, stop)])
        np.testing.assert_array_equal(found, expected[:, start:stop])


ALL, PART = [(0, 5), (0, 2), (0, 3), (0, 4)], [(1, 4), (1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize("box", [ALL, PART])
def test_rows_of_a_matrix(box):
    """Queries, keys and values in one matrix: any part of the queries, read and written."""
    whole = np.arange(5 * 44).reshape(44, 5)  # 2 x 3 heads of 4 behind 8 rows, and 12 more
    source = Source("x", "(k g h) d -> d k g h", rows=(8, 32, 44))

    class One:
        def read(self, name, index, shape):
            return whole.reshape(shape)[index]

    plan = sharded.Plan("x", source, (5, 2, 3, 4))
    assert plan.tensor_shape == (44, 5)
    expected = whole[8:32].reshape(2, 3, 4, 5).transpose(3, 0, 1, 2)
    at = tuple(slice(*one) for one in box)
    np.testing.assert_array_equal(plan.read(One(), "x", box), expected[at])
    out = np.zeros_like(whole)
    plan.write(expected, out)
    np.testing.assert_array_equal(out[8:32], whole[8:32])
    assert not out[:8].any()
    assert not out[32:].any()


@pytest.mark.parametrize("piece", [1, 8, 100, 2**16])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 1, 6), (4, 3, 5, 2)])
def test_copies_in_pieces(monkeypatch, piece, shape):
    monkeypatch.setattr(sources, "PIECE", piece)
    x = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    for order in itertools.permutations(range(len(shape))):
        out = np.empty([shape[i] for i in order], np.float32)
        sources.fill(out, x.transpose(order))
        np.testing.assert_array_equal(out, x.transpose(order))


MISTAKES = [
    (Source("x", "a b"), "one '->'"),
    (Source("x", "a b -> b a -> a b"), "one '->'"),
    (Source("x", "(a b -> a b"), "brackets"),
    (Source("x", "((a) b) -> a b"), "brackets"),
    (Source("x", "a 2 -> a"), "brackets"),
    (Source("x", "a b -> b"), "once on the left"),
    (Source("x", "a -> a b"), "once on the left"),
    (Source("x", "a a -> a a"), "once on the left"),
    (Source("x", "a b c -> a b c"), "those of the parameter"),
    (Source("x", "a b c -> (a b) c"), "sizes must give"),
    (Source("x", "a b c -> (a b) c", {"a": 5}), "must fit"),
    (Source("x", "a b -> a b", {"a": 5}), "must fit"),
    (Source("x", "a b -> a b", take={"a": (0, 4)}), "sizes must give"),
    (Source("x", "a b -> a b", {"a": 9}, {"a": (6, 10)}), "must fit"),
    (Source("x", "a b -> a b", {"a": 9}, {"a": (0, 5)}), "must fit"),
    (Source("x", "a b c -> a b", {"c": 2}, {"c": 2}), "take must be below"),
    (Source("x", "a b c -> a b", take={"c": 0}), "take must be below"),
    (Source("x", "a b c -> (a b) c", {"b": 2}, {"b": (0, 1)}), "without brackets"),
    (Source("x", "a b -> a b", rows=(2, 5, 6)), "rows must be as many as the axes speak of"),
    (Source(("x", "y")), "stacked names"),
    (Source((("x", "y"), ("x",))), "evenly"),
    (Source(()), "evenly"),
]


@pytest.mark.parametrize(("source", "message"), MISTAKES, ids=[s.axes or "-" for s, _ in MISTAKES])
def test_sources_that_make_no_sense(source, message):
    with pytest.raises(ValueError, match=message) as caught:
        sharded.Plan("blocks/x", source, (4, 3))
    assert "blocks/x" in str(caught.value)
    assert "\n" not in str(caught.value)


class TestRefused:
    def load(self, tmp_path, tensors, wanted=None, sources=None, **options):
        folder = Recorder(write(tmp_path / "w", tensors))
        with pytest.raises(ValueError) as caught:
            sharded.load(folder, wanted or targets(), sources or SOURCES, **options)
        assert folder.count == 0
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_missing_and_unknown_tensors(self, tmp_path):
        tensors = made()
        tensors["h.1.kv.weight"] = tensors.pop("h.1.kv")
        said = self.load(tmp_path, tensors)
        assert "missing: h.1.kv; not of the model: h.1.kv.weight" in said

    def test_unread_names_are_let_be(self, tmp_path):
        tensors = {**made(), "h.0.rotary.inv_freq": np.zeros(2), "h.1.rotary.inv_freq": np.ones(2)}
        assert "h.0.rotary.inv_freq, h.1.rotary" in self.load(tmp_path, tensors)
        folder = safetensors_io.open_folder(tmp_path / "w")
        loaded = sharded.load(folder, targets(), SOURCES, unread=["h.*.inv_freq"])
        assert loaded["bias"].shape == (D,)

    def test_long_lists_are_cut(self, tmp_path):
        tensors = {**made(), **{f"x.{i}": np.zeros(1) for i in range(100)}}
        assert "and 92 more" in self.load(tmp_path, tensors)

    def test_shapes(self, tmp_path):
        tensors = {**made(), "h.2.q.weight": np.zeros((K * G * H, D + 1), np.float32)}
        said = self.load(tmp_path, tensors)
        assert "h.2.q.weight must have shape [24, 8]; got [24, 9] (query)" in said

    @pytest.mark.parametrize("dtype", [np.int32, ml_dtypes.float8_e4m3fn])
    def test_dtypes(self, tmp_path, dtype):
        tensors = {**made(), "bias": np.zeros(D).astype(dtype)}
        assert f"without a scale; got {np.dtype(dtype)} (bias)" in self.load(tmp_path, tensors)

    def test_part_of_a_tensor(self, tmp_path):
        wanted = {**targets(), "up": None}
        said = self.load(tmp_path, made(), wanted, {**SOURCES, "up": None})
        assert "used in part: h.0.e.0.w13" in said

    def test_trees_that_differ(self, tmp_path):
        said = self.load(tmp_path, made(), None, {**SOURCES, "more": Source("x"), "bias": None})
        assert "without source: bias; without parameter: more" in said

    def test_a_dtype_that_jax_does_not_hold(self, tmp_path):
        folder = write(tmp_path / "w", {"x": np.zeros(3)})
        wanted = jax.eval_shape(lambda: np.zeros(3, np.float32))
        wanted = type("Wanted", (), {"shape": (3,), "dtype": np.dtype("f8"), "sharding": None})()
        with pytest.raises(ValueError, match="jax holds"):
            sharded.load(folder, {"x": wanted}, {"x": Source("x")})

    def test_parameters_that_do_not_make_a_tensor(self):
        tree = by_hand(made())
        with pytest.raises(ValueError, match=r"h\.0\.e\.0\.w13 exactly once; got gate"):
            sharded.tensors_of({**tree, "up": None}, {**SOURCES, "up": None})
        same = {**SOURCES, "up": SOURCES["gate"]}
        entries = {name: get for name, _, _, get in sharded.tensors_of(tree, same)}
        with pytest.raises(ValueError, match="without overlap"):
            entries["h.0.e.0.w13"]()


def test_declared_layouts_of_a_mesh(any_mesh):
    wanted = targets(jnp.bfloat16)["query"]
    assert (wanted.shape, wanted.dtype) == ((L, D, K, G, H), jnp.bfloat16)
    if any_mesh is None:
        assert wanted.sharding is None
    else:
        assert wanted.sharding.spec == axes.spec(DECLARED["query"].axes)
        weights = jax.jit(lambda k: params.init({"q": DECLARED["query"]}, k, jnp.bfloat16))
        assert weights(jax.random.key(0))["q"].sharding == wanted.sharding
