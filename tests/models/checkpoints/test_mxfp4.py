"""Experts in 4-bit floats, against a second implementation that takes their bits apart."""

import json

import jax
import numpy as np
import pytest

from alignjax.models import transformer
from alignjax.models.checkpoints import folder, sharded
from alignjax.parallel import mesh
from tests.models.families import golden

FIELDS = json.loads((golden.HERE / "goldens_moe" / "gpt_oss" / "config.json").read_text())
# Widths that are whole blocks, as the layout of the bytes wants; the rest stays odd.
FIELDS |= {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 40, "num_local_experts": 4}
KEPT = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]
ABOUT = {"quant_method": "mxfp4", "modules_to_not_convert": KEPT}
EXPERTS = "model.layers.1.mlp.experts.gate_up_proj"


def number(bits):
    """E2M1 by its definition: a sign, two bits of exponent, one of mantissa."""
    sign, exponent, mantissa = bits >> 3, (bits >> 1) & 3, bits & 1
    size = 2.0 ** (exponent - 1) * (1 + mantissa / 2) if exponent else mantissa / 2
    return -size if sign else size


def packed(rng, shape):
    """(blocks, scales, the stack [E, I, O] that they stand for)."""
    experts, inputs, outputs = shape
    blocks = rng.integers(0, 256, (experts, outputs, inputs // 32, 16)).astype(np.uint8)
    scales = rng.integers(118, 126, blocks.shape[:3]).astype(np.uint8)
    scales[0, 0, 0] = 0  # the least there is
    table = np.array([[number(byte & 15), number(byte >> 4)] for byte in range(256)])
    wide = table[blocks] * 2.0 ** (scales.astype(int) - 127)[..., None, None]
    wide = wide.reshape(experts, outputs, inputs)
    return blocks, scales, np.swapaxes(wide, 1, 2).astype(np.float32)


def write(path, fields, rng):
    """A GPT-OSS in 4 bits, and the same numbers whole."""
    config = folder.parse_config(fields, "here")
    weights = jax.jit(transformer.transformer(config).init)(jax.random.key(0))
    weights = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32), weights
    )
    small, whole = {}, {}
    for name, shape, _, get in sharded.tensors_of(weights, folder.sources_of("gpt_oss", config)):
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            small[f"{name}_blocks"], small[f"{name}_scales"], whole[name] = packed(rng, shape)
        else:
            small[name] = whole[name] = get()
    for name, tensors, more in (
        ("small", small, {"quantization_config": ABOUT}),
        ("whole", whole, {}),
    ):
        golden.write(path / name, tensors, json.dumps({**fields, **more}).encode())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("mxfp4")
    write(path, FIELDS, np.random.default_rng(0))
    return path


def test_every_weight_is_its_number_times_its_blocks_power(place):
    small, whole = folder.open_model(place / "small"), folder.open_model(place / "whole")
    assert small.config == whole.config
    assert "quantization_config" not in small.fields
    assert "mxfp4" in small.told
    assert whole.told == ""
    jax.tree.map(np.testing.assert_array_equal, small.load(), whole.load())


def test_parts_are_those_of_the_whole(place):
    """Slices within blocks, numbers of an axis, and other splits of the outputs."""
    small, whole = (folder.open_model(place / name).tensors for name in ("small", "whole"))
    split = (4, 64, 96, 2)
    for index in (
        (slice(1, 3), slice(5, 41), slice(0, 96), 1),
        (2, slice(32, 64), slice(90, 96)),
        (slice(0, 4), 33, slice(0, 96), slice(0, 2)),
        (),
    ):
        np.testing.assert_array_equal(
            small.read(EXPERTS, index, split), whole.read(EXPERTS, index, split)
        )
    with pytest.raises(ValueError, match="must be read by experts and inputs"):
        small.read(EXPERTS, (), (4, 32, 2, 192))


def test_each_device_reads_its_own_slices(place):
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(data=2, expert=2, model=2))):
        small, whole = (folder.open_model(place / n).load() for n in ("small", "whole"))
        jax.tree.map(np.testing.assert_array_equal, small, whole)


def test_what_is_written_is_whole(place, tmp_path):
    stored = folder.open_model(place / "small")
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", place / "whole")
    # Four bits and a power of two fit in bfloat16.
    params = stored.load()
    folder.save_model(tmp_path / "half", stored.config, params, stored.fields, dtype="bfloat16")
    half = folder.open_model(tmp_path / "half").tensors.read(EXPERTS)
    np.testing.assert_array_equal(half.astype(np.float32), stored.tensors.read(EXPERTS))


def changed(place, path, changes, about=None):
    """A folder with other tensors, or none where the change is None."""
    held = folder.safetensors_io.open_folder(place / "small")
    tensors = {name: held.read(name) for name in held.tensors}
    tensors |= {f"{EXPERTS}{name}": x for name, x in changes.items()}
    tensors = {name: x for name, x in tensors.items() if x is not None}
    fields = {**FIELDS, "quantization_config": about or ABOUT}
    golden.write(path, tensors, json.dumps(fields).encode())
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_scales": None}, "gate_up_proj_scales must be uint8.* got nothing"),
        ({"_blocks": None}, "gate_up_proj_scales has none"),
        ({"_scales": np.zeros((4, 192, 1), np.uint8)}, "gate_up_proj_scales must be uint8"),
        ({"_scales": np.zeros((4, 192, 2), np.float32)}, "gate_up_proj_scales must be uint8"),
        ({"_blocks": np.zeros((4, 192, 32), np.uint8)}, "4-bit blocks must be .*gate_up_proj"),
        ({"_blocks": np.zeros((4, 96, 2, 16), np.uint8)}, "gate_up_proj_scales must be uint8"),
        ({"": np.zeros((4, 64, 192), np.float32)}, "gate_up_proj stands beside its 4-bit"),
        ({"_bias": None}, "missing: .*gate_up_proj_bias"),
    ],
    ids=str,
)
def test_blocks_that_do_not_fit_are_refused(place, tmp_path, changes, message):
    path = changed(place, tmp_path / "other", changes)
    with pytest.raises(ValueError, match=message) as caught:
        folder.open_model(path).load()
    assert "\n" not in str(caught.value)


def test_a_scale_that_is_no_number_is_refused(place, tmp_path):
    path = changed(place, tmp_path / "nan", {"_scales": np.full((4, 192, 2), 255, np.uint8)})
    with pytest.raises(ValueError, match="gate_up_proj_scales must be numbers; got 255"):
        folder.open_model(path).load()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"quant_method": "awq"}, "quant_method must be fp8 or mxfp4; got 'awq'"),
        ({**ABOUT, "bits": 3}, "quantization_config must hold fields that are known; got bits"),
    ],
)
def test_other_codings_are_refused(place, tmp_path, about, message):
    path = changed(place, tmp_path / "other", {}, about)
    with pytest.raises(ValueError, match=message):
        folder.open_model(path)
