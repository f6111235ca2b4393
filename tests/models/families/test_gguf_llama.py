"""A GGUF file of a Llama gives the parameters of the folder that it was made from."""

import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models.checkpoints import folder
from tests.models.families import golden

gguf = pytest.importorskip("gguf", reason="the gguf package of the hf extra is not installed")
PLAIN = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def neighbours(matrix, heads):
    """Rows of each head in GGUF's order: the two halves, which turn together, side by side."""
    halves = matrix.reshape(heads, 2, -1, matrix.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(matrix.shape))


def convert(stored, path, *, without=(), **changes):
    """The folder as a GGUF file; `without` leaves out metadata, `changes` replaces it."""
    config = stored.config
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    sizes = {
        "vocab_size": config.vocab_size,
        "context_length": 64,
        "embedding_length": config.width,
        "block_count": config.layers,
        "feed_forward_length": config.ff,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "rope.dimension_count": config.head_dim,
    } | changes
    for name, value in sizes.items():
        if name not in without:
            writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.norm_eps)
    writer.add_float32("llama.rope.freq_base", config.rope_theta)
    for name in stored.tensors.tensors:
        array = stored.tensors.read(name)
        if name in PLAIN:
            writer.add_tensor(PLAIN[name], array)
            continue
        number, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config.heads if part == "self_attn.q_proj" else config.kv_heads
            array = neighbours(array, heads)
        writer.add_tensor(f"blk.{number}.{LAYER[part]}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def llama():
    return golden.dense(golden.HERE / "goldens" / "llama")


def test_the_same_model(llama, tmp_path):
    opened = folder.open_model(convert(llama.stored, tmp_path / "model.gguf"))
    assert opened.context == 64
    mine = trees.named_leaves(opened.load())
    for name, array in trees.named_leaves(llama.params).items():
        np.testing.assert_array_equal(mine[name], array, name)
    changed = folder.differences(opened.config, llama.stored.config)
    assert changed in ([], ["norm_eps"])  # float32 in the file
    assert opened.config.norm_eps == pytest.approx(llama.stored.config.norm_eps)
    assert opened.config.rope_theta == llama.stored.config.rope_theta


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"architecture": "qwen2"}, r"general\.architecture must be llama; got 'qwen2'"),
        ({"without": ("embedding_length",)}, "embedding_length must be given"),
        ({"rope.dimension_count": 2}, r"rope\.dimension_count must be 4"),
        ({"expert_count": 8}, "got expert_count"),
        ({"attention.head_count_kv": 0}, r"attention\.head_count_kv must be a number"),
    ],
    ids=str,
)
def test_what_is_refused(llama, tmp_path, changes, rule):
    path = convert(llama.stored, tmp_path / "model.gguf", **changes)
    with pytest.raises(ValueError, match=rule) as caught:
        folder.open_model(path)
    assert "\n" not in str(caught.value)


def test_another_shape_is_refused(llama, tmp_path):
    path = convert(llama.stored, tmp_path / "model.gguf", feed_forward_length=39)
    with pytest.raises(ValueError, match=r"must have shape \[39, 24\]"):
        folder.open_model(path).load()
