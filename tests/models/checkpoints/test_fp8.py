"""8-bit weights with scales of blocks, against a second implementation in NumPy."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from alignjax.models.checkpoints import folder, fp8, safetensors_io
from alignjax.parallel import mesh
from tests.models.checkpoints import weights
from tests.models.families import golden

BLOCK = (4, 3)  # no divisor of most sizes
ABOUT = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": list(BLOCK),
}
MODEL = golden.HERE / "goldens_moe" / "deepseek_v3"
KEPT = ("layernorm", "norm.weight", "bias", "embed_tokens", "lm_head", "gate.weight")


def quantised(x, block=BLOCK):
    """(float8 [R, C], scales, the values that they stand for), block by block."""
    rows, columns = (-(-n // b) for n, b in zip(x.shape, block, strict=True))
    stored, whole = np.zeros(x.shape, ml_dtypes.float8_e4m3fn), np.zeros(x.shape, np.float32)
    scales = np.zeros((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            at = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            scales[i, j] = max(np.abs(x[at]).max(), 1e-6) / 448
            stored[at] = (x[at] / scales[i, j]).astype(stored.dtype)
            whole[at] = stored[at].astype(np.float32) * scales[i, j]
    return stored, scales, whole


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A DeepSeek V3 in 8 bits, and the same numbers whole."""
    path = tmp_path_factory.mktemp("fp8")
    held = safetensors_io.open_folder(MODEL)
    small, whole = {}, {}
    for name in held.tensors:
        x = held.read(name)
        whole[name] = small[name] = x
        if not name.endswith(KEPT):
            small[name], small[name + fp8.SCALE], whole[name] = quantised(x)
    fields = json.loads((MODEL / "config.json").read_text())
    for name, tensors, more in (
        ("small", small, {"quantization_config": ABOUT}),
        ("whole", whole, {}),
    ):
        text = json.dumps({**fields, **more}).encode()
        golden.write(path / name, tensors, text)
    assert sum(x.dtype == np.dtype(ml_dtypes.float8_e4m3fn) for x in small.values()) > 60
    return path


def test_every_weight_is_its_number_times_its_blocks_scale(place):
    """Split and joined axes, halves of a matrix, stacks of experts: all slices are scaled alike."""
    small, whole = folder.open_model(place / "small"), folder.open_model(place / "whole")
    assert small.config == whole.config
    assert "quantization_config" not in small.fields
    jax.tree.map(np.testing.assert_array_equal, small.load(), whole.load())


def test_each_device_reads_and_scales_its_own_slices(place):
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(data=2, expert=4))):
        small, whole = (folder.open_model(place / n).load() for n in ("small", "whole"))
        jax.tree.map(np.testing.assert_array_equal, small, whole)
        down = small.blocks[1].mlp.down
        assert down.addressable_shards[0].data.shape[1] == down.shape[1] // 4


def test_what_is_written_is_whole(place, tmp_path):
    stored = folder.open_model(place / "small")
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", place / "whole")


def test_parts_of_a_matrix():
    x = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)
    stored, scales, whole = quantised(x)

    arrays = {"w": stored, "w_scale_inv": scales, "n": x}

    class Held:
        def __init__(self):
            self.tensors = {
                name: safetensors_io.TensorInfo(x.shape, x.dtype, "here", 0, x.nbytes)
                for name, x in arrays.items()
            }

        def read(self, name, index=(), shape=None):
            found = arrays[name]
            return found.reshape(found.shape if shape is None else shape)[index]

    made = fp8.Fp8Folder(Held(), BLOCK)
    assert made.tensors.keys() == {"w", "n"}
    for index, shape in (
        ((), None),
        ((slice(3, 9), slice(1, 7)), None),
        ((7,), None),
        ((slice(None), 5), None),
        ((1, slice(2, 5), slice(3, 8)), (2, 5, 8)),
        ((slice(1, 5), slice(0, 2), 1, slice(1, 3)), (5, 2, 2, 4)),
    ):
        wanted = whole.reshape(whole.shape if shape is None else shape)[index]
        found = made.read("w", index, shape)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(made.read("n", (slice(0, 2),)), x[:2])
    with pytest.raises(ValueError, match="by rows and columns"):
        made.read("w", (), (4, 20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quant_method": "awq"},
            "quantization_config.quant_method must be fp8 or mxfp4; got 'awq'",
        ),
        ({"quant_method": "bitsandbytes"}, "quant_method must be fp8 or mxfp4; got 'bitsandbytes'"),
        ({"fmt": "e5m2"}, "fmt must be e4m3; got 'e5m2'"),
        ({"activation_scheme": "static"}, "activation_scheme must be dynamic; got 'static'"),
        ({"weight_block_size": None}, "weight_block_size must be two sizes; got None"),
        ({"weight_block_size": [4, 0]}, "weight_block_size must be two sizes"),
        ({"weight_block_size": [4, 4]}, r"must have scales .* of blocks \[4, 4\]; got float32"),
        ({"bits": 4}, "must hold fields that are known; got bits"),
    ],
)
def test_other_ways_to_store_are_refused(place, tmp_path, changes, message):
    fields = json.loads((place / "small" / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**fields, "quantization_config": {**ABOUT, **changes}})
    )
    (tmp_path / "model.safetensors").write_bytes(
        (place / "small" / "model.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match=message) as caught:
        folder.open_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_forged_scales(tmp_path):
    stored, scales, _ = quantised(np.ones((5, 4), np.float32))
    cases = {
        "missing": {"w": stored},
        "integers": {"w": stored, "w_scale_inv": scales.astype(np.int32)},
        "alone": {"w": scales, "w_scale_inv": scales},
        "vector": {"w": stored[0], "w_scale_inv": scales},
    }
    for name, tensors in cases.items():
        safetensors_io.write_folder(tmp_path / name, weights.entries(tensors))
        with pytest.raises(ValueError, match="must"):
            fp8.Fp8Folder(safetensors_io.open_folder(tmp_path / name), BLOCK)
