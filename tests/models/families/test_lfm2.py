"""Folders of LFM2: the fields of its published files, and those that are refused."""

import json

import numpy as np
import pytest

from alignjax.models.checkpoints import folder
from alignjax.models.config_parts import ConvConfig
from tests.models.families.test_qwen_opened import DENSE, copied

# Beside those of transformers, as LFM2-1.2B is published.
PUBLISHED = {
    "block_dim": 24,
    "block_ff_dim": 40,
    "block_mlp_init_scale": 1.0,
    "block_norm_eps": 1e-5,
    "block_out_init_scale": 1.0,
    "block_use_swiglu": True,
    "block_use_xavier_init": True,
    "conv_dim": 24,
    "conv_dim_out": 24,
    "conv_use_xavier_init": True,
    "num_heads": 6,
    "theta": 1000000.0,
    "tie_embedding": True,
    "use_pos_enc": True,
}


def parsed(case, **changes):
    """A golden's fields with others; `...` takes one out."""
    fields = {**json.loads((DENSE / case / "config.json").read_text()), **changes}
    return folder.parse_config({k: v for k, v in fields.items() if v is not ...}, "here")


def test_what_the_fields_mean():
    plain = parsed("lfm2")
    assert plain.kinds() == ["conv", "full", "conv", "conv", "full"]
    assert (plain.ff, plain.tied, plain.conv) == (32, True, ConvConfig(taps=3))
    other = parsed("lfm2-biases")
    assert (other.ff, other.tied, other.conv) == (40, False, ConvConfig(taps=4, bias=True))
    assert parsed("lfm2", layer_types=...) == plain
    assert parsed("lfm2", layer_types=..., full_attn_idxs=...).kinds() == ["full"] * 5


def test_published_fields():
    plain = parsed("lfm2")
    assert parsed("lfm2", **PUBLISHED) == plain
    assert parsed("lfm2", tie_word_embeddings=..., tie_embedding=False).tied is False
    assert parsed("lfm2", block_ffn_dim_multiplier=1.3).ff == 40  # int(1.3 26), up to eights
    assert parsed("lfm2", block_ffn_dim_multiplier=None).ff == 26
    assert parsed("lfm2", block_ff_dim=60).ff == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_choice": True}, "fields that this family knows; got expert_choice"),
        ({"sliding_window": 5}, "fields that this family knows; got sliding_window"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps must be absent"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"tie_embedding": False}, "tie_word_embeddings must be False"),
        ({"conv_dim": 48}, "conv_dim must be 24"),
        ({"num_heads": 4}, "num_heads must be 6"),
        ({"block_norm_eps": 1e-3}, "block_norm_eps must be 1e-05"),
        ({"use_pos_enc": False}, "use_pos_enc must be True"),
        ({"theta": 3.0}, "theta must be 1000000.0"),
        ({"conv_L_cache": 0}, "conv_L_cache must be a number"),
        ({"conv_bias": 1}, "conv_bias must be true or false"),
        ({"full_attn_idxs": [0]}, r"full_attn_idxs must be as in layer_types, \[1, 4\]"),
        ({"full_attn_idxs": [9], "layer_types": ...}, "full_attn_idxs must be a list of layers"),
        ({"layer_types": ["sliding_attention"] * 5}, "layer_types must be among conv, full"),
    ],
)
def test_fields_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as one:
        parsed("lfm2", **changes)
    assert "\n" not in str(one.value)


def test_tensors_that_are_none_of_the_model(tmp_path):
    def more(tensors):
        return {**tensors, "model.layers.0.conv.in_proj.bias": np.zeros(72, np.float32)}

    with pytest.raises(ValueError, match=r"not of the model: model\.layers\.0\.conv\.in_proj\.bia"):
        folder.open_model(copied("lfm2", tmp_path / "more", more)).load()

    def short(tensors):
        name = "model.layers.0.conv.in_proj.weight"
        return {**tensors, name: tensors[name][:48]}

    with pytest.raises(ValueError, match=r"in_proj.weight must have shape \[72, 24\]; got \[48"):
        folder.open_model(copied("lfm2", tmp_path / "short", short)).load()
