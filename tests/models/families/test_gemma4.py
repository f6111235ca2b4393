"""Folders of Gemma 4: sizes of full layers, layers without keys, what is left out on request."""

import json

import numpy as np
import pytest

from alignjax.models.checkpoints import folder, safetensors_io
from alignjax.models.config import RopeScaling
from alignjax.models.config_parts import LentConfig, WideConfig
from tests.models.families import golden
from tests.models.families.test_qwen_opened import DENSE, copied

S, F = "sliding_attention", "full_attention"


def fields_of(case):
    return json.loads((DENSE / case / "config.json").read_text())


def parsed(case, **changes):
    """A golden's fields with others; `...` takes one out."""
    fields = {**fields_of(case), **changes}
    return folder.parse_config({k: v for k, v in fields.items() if v is not ...}, "here")


def test_what_the_fields_mean():
    lent = parsed("gemma4")
    assert lent.kinds() == ["sliding", "sliding", "full", "sliding", "full", "sliding", "full"]
    assert lent.lent == LentConfig(layers=3, ff=40)
    assert lent.wide == WideConfig(head_dim=12, kv_heads=3)
    assert lent.rope == RopeScaling(kind="proportional", share=0.5)
    assert (lent.rope_theta, lent.local_rope_theta, lent.layer_inputs) == (1000.0, 50.0, 8)
    single = parsed("gemma4-single")
    assert single.wide == WideConfig(head_dim=12, kv_heads=2, single=True)
    assert single.rope == RopeScaling(kind="proportional", share=0.25)
    assert (single.lent.layers, single.layer_inputs, single.tied) == (0, 0, False)


def test_experts_are_read_where_they_are_enabled():
    routed = parsed("gemma4-experts")
    assert (routed.moe.experts, routed.moe.active, routed.moe.ff) == (5, 2, 10)
    assert routed.moe.beside
    assert not parsed("gemma4-experts", enable_moe_block=False).moe.experts
    with pytest.raises(ValueError, match=r"model\.moe\.active must be .*<= 5"):
        parsed("gemma4-experts", top_k_experts=6)


def test_sizes_of_full_layers_are_told_in_two_ways():
    """As published, by a field of each; as newer files have it, layer by layer."""
    want = parsed("gemma4-single")
    by_field = {"global_head_dim": 12, "num_global_key_value_heads": 2}
    assert parsed("gemma4-single", per_layer_config=..., **by_field) == want
    assert parsed("gemma4-single", **by_field) == want
    plain = parsed("gemma4", per_layer_config=..., num_global_key_value_heads=1)
    assert plain.wide == WideConfig(head_dim=512, kv_heads=3)  # read where keys are values alone
    same = parsed("gemma4", per_layer_config={})
    assert same.wide == WideConfig(head_dim=8, kv_heads=3)


def test_absent_fields():
    kinds = parsed("gemma4-single", layer_types=...).kinds()
    assert kinds == ["sliding"] * 5 + ["full"]
    rope = parsed("gemma4", rope_parameters=...)
    assert (rope.rope_theta, rope.local_rope_theta) == (1e6, 1e4)
    assert rope.rope == RopeScaling(kind="proportional", share=0.25)
    assert parsed("gemma4", use_bidirectional_attention="vision") == parsed("gemma4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_choice": True}, "fields that this family knows; got expert_choice"),
        ({"attn_logit_softcapping": 50.0}, "knows; got attn_logit_softcapping"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention must be 'vision'"),
        ({"enable_moe_block": True}, "num_experts must be given"),
        ({"enable_moe_block": "no"}, "enable_moe_block must be true or false"),
        ({"hidden_activation": "silu"}, "hidden_activation must be 'gelu_pytorch_tanh'"),
        ({"layer_types": [F, S, F, S, F, F, S]}, "layer_types must be sliding_attention and full"),
        ({"layer_types": ["chunked_attention"] * 6 + [F]}, "layer_types must be sliding_att"),
        (
            {"layer_types": [S, S, S, S, F, S, F], "per_layer_config": ...},
            "of a layer of their kind before them; got 3",
        ),
        ({"num_kv_shared_layers": 7}, "model.lent.layers must be finite and >= 1 and <= 6"),
        ({"num_kv_shared_layers": 1.5}, "num_kv_shared_layers must be a whole number"),
        ({"vocab_size_per_layer_input": 61}, "vocab_size_per_layer_input must be vocab_size, 60"),
        ({"hidden_size_per_layer_input": -1}, "hidden_size_per_layer_input must be a whole"),
        ({"global_head_dim": 16}, "per_layer_config must say the head_dim of the fields"),
        ({"per_layer_config": {"2": {"head_dim": 12}}}, "give every full layer the same head_dim"),
        ({"per_layer_config": {"0": {"head_dim": 12}}}, "give every full layer the same head_dim"),
        ({"per_layer_config": {n: {"ff": 3} for n in "246"}}, "every full layer the same head_dim"),
        ({"per_layer_config": {n: {"head_dim": 7} for n in "246"}}, "wide.head_dim must be even"),
        (
            {"per_layer_config": {n: {"num_key_value_heads": 4} for n in "246"}},
            "heads must be a multiple of model.wide.kv_heads; got 6 and 4",
        ),
        (
            {"rope_parameters": {F: {"rope_type": "proportional", "partial_rotary_factor": 1.5}}},
            "partial_rotary_factor must be a number in",
        ),
        (
            {"rope_parameters": {S: {"rope_type": "proportional", "rope_theta": 3.0}}},
            "rope_type must be default, linear, llama3 or yarn",
        ),
    ],
)
def test_fields_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as one:
        parsed("gemma4", **changes)
    assert "\n" not in str(one.value)


def test_keys_that_nobody_reads_are_left_out(tmp_path):
    """Layers that see the keys of others may be stored with some; transformers skips them too."""

    def more(name):
        return lambda tensors: {**tensors, name: np.zeros((24, 24), np.float32)}

    spare = copied("gemma4", tmp_path / "spare", more("model.layers.5.self_attn.k_proj.weight"))
    stored = folder.open_model(spare)
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", DENSE / "gemma4")
    for name in ("model.layers.5.self_attn.q_proj.bias", "model.layers.1.layer_gate"):
        wrong = copied("gemma4", tmp_path / name, more(name))
        with pytest.raises(ValueError, match=f"not of the model: {name}"):
            folder.open_model(wrong).load()


def test_images_and_sound_are_left_out_on_request():
    path = DENSE / "gemma4-images"
    listed = r"sees and hears too: audio_tower \(\d+ .*embed_audio \(.*vision_tower.*=vision"
    with pytest.raises(ValueError, match=listed) as one:
        folder.open_model(path)
    assert "\n" not in str(one.value)
    stored = folder.open_model(path, skip="vision")
    assert all(name.startswith("model.") for name in stored.tensors.tensors)
    assert stored.fields["model_type"] == "gemma4_text"
    names = safetensors_io.open_folder(path).tensors
    assert any(name.startswith("model.audio_tower.") for name in names)


def test_a_part_of_its_layers_is_no_model():
    stored = folder.open_model(DENSE / "gemma4")
    with pytest.raises(ValueError, match="weights_layers must be 0") as one:
        stored.config.first(3)
    assert "\n" not in str(one.value)
    assert stored.config.first(7) == stored.config
