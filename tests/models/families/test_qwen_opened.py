"""Folders of Qwen 3 Next and 3.5: what is left out on request, stacked experts, odd fields."""

import json

import numpy as np
import pytest

from alignjax.models.checkpoints import folder, safetensors_io
from tests.models.families import golden

DENSE = golden.HERE / "goldens"


def copied(case, path, change=lambda tensors: tensors, **changes):
    """A golden with other tensors or other fields; `...` takes a field out."""
    held = safetensors_io.open_folder(DENSE / case)
    found = change({name: held.read(name) for name in held.tensors})
    fields = {**json.loads((DENSE / case / "config.json").read_text()), **changes}
    fields = {name: value for name, value in fields.items() if value is not ...}
    golden.write(path, found, json.dumps(fields).encode())
    return path


def predicting(tensors):
    return {**tensors, "mtp.fc.weight": np.zeros(2, np.float32), "mtp.norm.weight": np.zeros(1)}


def stacked(tensors):
    """Experts side by side, as in published folders of Qwen 3.5."""
    found = {name: x for name, x in tensors.items() if ".experts." not in name}
    starts = {name.split(".experts.")[0] for name in tensors if ".experts." in name}
    for start in starts:

        def one(number, part, start=start):
            return tensors[f"{start}.experts.{number}.{part}.weight"]

        fused = [np.concatenate([one(n, "gate_proj"), one(n, "up_proj")]) for n in range(5)]
        found[f"{start}.experts.gate_up_proj"] = np.stack(fused)
        found[f"{start}.experts.down_proj"] = np.stack([one(n, "down_proj") for n in range(5)])
    assert len(starts) > 1
    return found


@pytest.mark.parametrize("case", ["qwen3_5-images", "qwen3_5_moe-images"])
def test_images_and_a_further_token_are_left_out_on_request(case, tmp_path):
    path = copied(case, tmp_path / "more", predicting)
    with pytest.raises(ValueError, match=r"sees images too: visual \(\d+ tensors\).*weights_skip"):
        folder.open_model(path)
    with pytest.raises(ValueError, match=r"mtp\.\* \(2 tensors\).*weights_skip=vision\+mtp") as one:
        folder.open_model(path, skip="vision")
    assert "\n" not in str(one.value)
    golden_tensors = folder.open_model(DENSE / case, skip="vision").tensors
    found = folder.open_model(path, skip="vision+mtp").tensors
    assert found.tensors.keys() == golden_tensors.tensors.keys()


@pytest.mark.parametrize("case", ["qwen3_next", "qwen3_5", "qwen3_5_moe"])
def test_a_further_token_is_left_out_of_a_model_of_text(case, tmp_path):
    path = copied(case, tmp_path / "more", predicting)
    with pytest.raises(ValueError, match=r"--config\.weights_skip=mtp, or --skip=mtp"):
        folder.open_model(path)
    stored = folder.open_model(path, skip="mtp")
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", DENSE / case)


def test_stacked_experts_are_the_same_model(tmp_path):
    stored = folder.open_model(copied("qwen3_5_moe", tmp_path / "stacked", stacked))
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", DENSE / "qwen3_5_moe")

    def odd(tensors):
        found = stacked(tensors)
        name = next(name for name in found if name.endswith("gate_up_proj"))
        return {**found, name: found[name][:, :3]}

    with pytest.raises(ValueError, match=r"gate_up_proj must have three axes.*got \[5, 3, 24\]"):
        folder.open_model(copied("qwen3_5_moe", tmp_path / "odd", odd))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("qwen3_next", {"layer_types": ["sliding_attention"] * 4}, "layer_types must be among lin"),
        ("qwen3_next", {"layer_types": ["full_attention"]}, "name the kind of all 4 layers"),
        ("qwen3_next", {"linear_num_value_heads": 5}, "value_heads must be a multiple"),
        (
            "qwen3_next",
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor must be the same",
        ),
        ("qwen3_next", {"linear_use_gate": True}, "fields that this family knows; got linear_use"),
        ("qwen3_5", {"mlp_only_layers": [1]}, "fields that this family knows; got mlp_only"),
        ("qwen3_5", {"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        (
            "qwen3_5",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.4}},
            "must turn an even number of a head's 8 dimensions; got 3 of them",
        ),
        ("qwen3_5_moe", {"norm_topk_prob": False}, "fields that this family knows; got norm_topk"),
    ],
)
def test_fields_that_change_the_model_are_refused(case, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as one:
        folder.open_model(copied(case, tmp_path / "changed", **changes))
    assert "\n" not in str(one.value)


def test_older_and_further_fields():
    """As published: the share that turns by itself, the interval of full layers, image sections."""
    fields = json.loads((DENSE / "qwen3_next" / "config.json").read_text())
    want = folder.parse_config(fields, "golden")
    rope = fields.pop("rope_parameters")
    older = {k: v for k, v in fields.items() if k != "layer_types"} | {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "full_attention_interval": 4,
    }
    assert folder.parse_config(older, "older") == want
    assert want.kinds() == ["delta", "delta", "delta", "full"]
    assert folder.parse_config({**older, "full_attention_interval": 2}, "x").kinds()[1] == "full"
    seen = json.loads((DENSE / "qwen3_5" / "config.json").read_text())
    sections = {"mrope_section": [1, 0, 0], "mrope_interleaved": True, **seen["rope_parameters"]}
    changed = {**seen, "rope_parameters": sections}
    assert folder.parse_config(changed, "seen") == folder.parse_config(seen, "golden")
