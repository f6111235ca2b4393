"""Families with experts, against what transformers recorded: record_moe.py."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models import scoring, transformer
from alignjax.models.checkpoints import folder, safetensors_io, sharded
from alignjax.parallel import mesh
from alignjax.planning import analytic
from tests.models import tiny
from tests.models.families import golden as golden_files

GOLDENS = pathlib.Path(__file__).parent / "goldens_moe"
CASES = sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())
# One model a family in the quick tests; the others differ in a switch or two.
QUICK = ("deepseek_v3", "glm4_moe", "gpt_oss", "llama4", "mixtral", "qwen3_moe")
MARKED = [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES]


class Golden:
    """One recorded model, opened by us, with all that transformers said of it."""

    def __init__(self, case):
        self.path = GOLDENS / case
        self.stored = folder.open_model(self.path)
        self.fields = dict(self.stored.fields)
        self.config = self.stored.config
        self.model = transformer.transformer(self.config)
        self.weights = self.stored.load()
        with np.load(self.path / "expected.npz", allow_pickle=False) as found:
            self.expected = {name: found[name] for name in found.files}
        lengths, rows = self.expected["lengths"], self.expected["rows"]
        self.sequences = [
            row[len(row) - n :].astype(np.int32) for row, n in zip(rows, lengths, strict=True)
        ]

        def logits(weights, tokens, positions, segments):
            states, _ = self.model.hidden(weights, tokens, positions=positions, segments=segments)
            return states @ self.model.unembedding(weights)

        self.logits = jax.jit(logits)

    def gradients(self):
        """The recorded gradient, as a tree like the weights."""
        named = safetensors_io.open_folder(self.path, stem="gradients")
        wanted = sharded.targets(transformer.declare(self.config), jnp.float32)
        return sharded.load(named, wanted, self.stored.sources)


@pytest.fixture(scope="module", params=MARKED)
def golden(request):
    return Golden(request.param)


def test_logits_of_a_prompt(golden):
    want = golden.expected["logits"]
    assert want.std() > 0.3  # so that 1e-4 is a fine measure
    found = golden.logits(golden.weights, *tiny.rows(golden.sequences[:1], 11))[0]
    np.testing.assert_allclose(found, want, atol=1e-4)


@pytest.mark.parametrize("left", [True, False])
def test_logits_of_padded_rows(golden, left):
    rows = tiny.rows(golden.sequences, 13, left=left, pad=5)
    for row, want, sequence in zip(
        golden.logits(golden.weights, *rows),
        golden.expected["padded"],
        golden.sequences,
        strict=True,
    ):
        n = len(sequence)
        found = row[-n:] if left else row[:n]
        np.testing.assert_allclose(found, want[-n:], atol=1e-4)


def test_logits_of_packed_rows(golden):
    found = golden.logits(golden.weights, *tiny.packed(golden.sequences, 28))[0]
    start = 0
    for want, sequence in zip(golden.expected["padded"], golden.sequences, strict=True):
        n = len(sequence)
        np.testing.assert_allclose(found[start : start + n], want[-n:], atol=1e-4)
        start += n


def test_cached_decoding(golden):
    model, rows = golden.model, tiny.rows(golden.sequences, 11)

    @jax.jit
    def step(weights, cache, tokens, positions, segments):
        states, cache = model.hidden(
            weights, tokens, positions=positions, segments=segments, cache=cache
        )
        return states @ model.unembedding(weights), cache

    cache, parts = model.cache(3, 12), []
    for at in (slice(0, 6), *(slice(n, n + 1) for n in range(6, 11))):
        part, cache = step(golden.weights, cache, *(x[:, at] for x in rows))
        parts.append(part)
    decoded = np.concatenate(parts, axis=1)
    for row, want, sequence in zip(
        decoded, golden.expected["padded"], golden.sequences, strict=True
    ):
        n = len(sequence)
        np.testing.assert_allclose(row[:n], want[-n:], atol=1e-4)


def test_the_loss_and_the_gradient_of_every_tensor(golden):
    batch = tiny.batch(*tiny.rows(golden.sequences[:1], 11))

    def loss(weights):
        mask = scoring.counted(batch)
        nll = -scoring.token_stats(golden.model, weights, batch).logprob
        return jnp.sum(jnp.where(mask, nll, 0.0)) / jnp.sum(mask)

    value, slopes = jax.jit(jax.value_and_grad(loss))(golden.weights)
    np.testing.assert_allclose(value, golden.expected["loss"], rtol=1e-5)
    wanted, moved = trees.named_leaves(golden.gradients()), 0
    for name, found in trees.named_leaves(slopes).items():
        want = np.asarray(wanted[name])
        largest = float(np.abs(want).max())
        # A key's bias in a layer without positions moves all scores alike: rounding is all it has.
        np.testing.assert_allclose(found, want, atol=1e-3 * largest + 1e-7, err_msg=name)
        moved += largest > 1e-4
    assert moved >= len(wanted) - 4


def test_writing_gives_the_same_bytes(golden, tmp_path):
    written = tmp_path / "written"
    folder.save_model(written, golden.config, golden.weights, golden.fields)
    one, two = (safetensors_io.open_folder(path) for path in (written, golden.path))
    assert one.tensors.keys() == two.tensors.keys()
    for name in two.tensors:
        a, b = one.read(name), two.read(name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=name)
    again = folder.open_model(written)
    assert again.config == golden.config


def test_a_config_and_its_description_are_inverse(golden):
    family = folder.FAMILIES[golden.fields["model_type"]]
    fields = family.describe(golden.config)
    assert folder.parse_config(fields, "described") == golden.config
    json.dumps(fields)
    # What we describe and what transformers wrote agree on every field that both name.
    skipped = {"rope_parameters", "max_position_embeddings", "sliding_window", "attn_scale"}
    skipped |= {"floor_scale", "num_nextn_predict_layers", "head_dim", "num_experts"}
    for name in fields.keys() & golden.fields.keys() - skipped:
        assert fields[name] == golden.fields[name], name


@pytest.mark.parametrize(("case", "sizes"), [("deepseek_v3", {"expert": 8}), ("llama4", {})])
def test_loading_onto_a_mesh(case, sizes):
    golden = Golden(case)
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(**sizes))):
        weights = golden.stored.load()
        found = golden.logits(weights, *tiny.rows([golden.sequences[0]] * 8, 11))
    down = weights.blocks[1].mlp.down
    assert down.addressable_shards[0].data.shape[1] == down.shape[1] // sizes.get("expert", 1)
    np.testing.assert_allclose(np.asarray(found)[3], golden.expected["logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise must be 0"),
        ("mixtral", {"hidden_act": "gelu"}, "hidden_act must be 'silu'; got 'gelu'"),
        ("mixtral", {"expert_capacity": 3}, "fields that this family knows; got expert_capacity"),
        ("qwen3_moe", {"attention_dropout": 0.5}, "attention_dropout must be 0"),
        ("qwen3_moe", {"num_experts_per_tok": 9}, "model.moe.active must"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func must be 'sigmoid'"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method must be 'noaux_tc'"),
        ("deepseek_v3", {"quantization_config": {}}, "quant_method must be fp8 or mxfp4; got None"),
        ("deepseek_v3", {"n_group": 3}, "model.moe.groups must divide"),
        ("llama4", {"no_rope_layers": [0, 0, 0, 0]}, "layer_types must be full_attention where"),
        ("llama4", {"attention_chunk_size": None}, "attention_chunk_size must be given"),
        ("mixtral", {"num_experts_per_tok": 1.5}, "num_experts_per_tok must be a whole number"),
        ("mixtral", {"num_experts": 4}, "num_experts must be num_local_experts, 5; got 4"),
        ("qwen3_moe", {"norm_topk_prob": "false"}, "norm_topk_prob must be true or false"),
        ("qwen3_moe", {"mlp_only_layers": [9]}, "mlp_only_layers must be a list of layers below"),
        ("deepseek_v3", {"q_lora_rank": 2.5}, "must be a whole number; got 2.5"),
        ("deepseek_v3", {"rope_interleave": 1}, "rope_interleave must be true or false"),
        ("deepseek_v3", {"first_k_dense_replace": -1}, "first_k_dense_replace must be a whole"),
        ("gpt_oss", {"swiglu_limit": 0}, "swiglu_limit must be a number"),
        ("gpt_oss", {"experts_per_token": 3}, "experts_per_token must be 2; got 3"),
        ("gpt_oss", {"initial_context_length": 7}, "initial_context_length must be 16; got 7"),
        ("gpt_oss", {"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ("glm4_moe", {"first_k_dense_replace": -1}, "first_k_dense_replace must be a whole"),
        ("glm4_moe", {"n_group": 4}, "model.moe.groups must divide"),
        ("llama4", {"moe_layers": "all"}, "moe_layers must be a list of layers below"),
        ("llama4", {"no_rope_layers": [2, 1, 1, 1]}, "no_rope_layers must say 0 or 1"),
        ("llama4", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_type must be default"),
    ],
)
def test_fields_that_change_the_model_are_refused(case, changes, message, tmp_path):
    fields = json.loads((GOLDENS / case / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, **changes}))
    shutil.copy(GOLDENS / case / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=message):
        folder.open_model(tmp_path)


PUBLISHED = {
    "model_type": "gpt_oss",
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "vocab_size": 201088,
}


def test_gpt_oss_as_published_and_by_its_defaults():
    found = folder.parse_config(PUBLISHED, "here")
    assert analytic.parameters(found) == pytest.approx(20.9e9, rel=1e-2)
    assert found.kinds()[:2] == ["sliding", "full"]
    assert (found.moe.clamp, found.moe.clamp_gain, found.qkv_bias) == (7.0, 1.702, True)
    given = ("model_type", "hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers")
    least = {name: PUBLISHED[name] for name in given}
    least |= {"intermediate_size": 2880, "num_local_experts": 32}
    assert folder.parse_config(least, "here") == found


@pytest.mark.parametrize(
    "left", ["layers.1.self_attn.sinks", "layers.0.mlp.router.bias", "experts.down_proj_bias"]
)
def test_a_tensor_that_is_missing_is_named(left, tmp_path):
    held = safetensors_io.open_folder(GOLDENS / "gpt_oss")
    tensors = {name: held.read(name) for name in held.tensors if not name.endswith(left)}
    golden_files.write(tmp_path / "out", tensors, (GOLDENS / "gpt_oss/config.json").read_bytes())
    with pytest.raises(ValueError, match=rf"missing: .*{re.escape(left)}") as caught:
        folder.open_model(tmp_path / "out").load()
    assert "\n" not in str(caught.value)


def test_a_norm_behind_the_turn_takes_yarns_length_away():
    """Llama 4 norms queries and keys after rotating them."""
    fields = json.loads((GOLDENS / "llama4" / "config.json").read_text())
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    factors = {
        plain: folder.parse_config(
            {**fields, "use_qk_norm": plain, "rope_parameters": yarn}, "here"
        ).rope.attention_factor
        for plain in (True, False)
    }
    assert factors == {True: 1.0, False: 0.0}  # 0 is 0.1 log(factor) + 1


def test_older_spellings_of_fields():
    fields = json.loads((GOLDENS / "deepseek_v3" / "config.json").read_text())
    rope = fields.pop("rope_parameters")
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    old = {**fields, "rope_theta": theta, "rope_scaling": {**rope, "type": kind}}
    for name in ("head_dim", "qk_head_dim", "rope_interleave"):
        old.pop(name)
    old |= {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
    old |= {"ep_size": 1, "aux_loss_alpha": 0.001, "seq_aux": True, "torch_dtype": "bfloat16"}
    assert folder.parse_config(old, "old") == Golden("deepseek_v3").config
    qwen = json.loads((GOLDENS / "qwen3_moe" / "config.json").read_text())
    older = {**qwen, "num_experts": qwen.pop("num_local_experts"), "max_window_layers": 2}
    older.pop("num_local_experts")
    assert folder.parse_config(older, "older") == Golden("qwen3_moe").config


def test_layers_for_further_tokens_are_not_read(tmp_path):
    golden = Golden("deepseek_v3")
    source = golden.stored.tensors
    named = [(name, source.tensors[name]) for name in source.tensors]
    tensors = [
        (name, info.shape, np.dtype(info.dtype), lambda name=name: source.read(name))
        for name, info in named
    ]
    more = np.zeros(2, np.float32)
    tensors.append(("model.layers.3.eh_proj.weight", more.shape, more.dtype, lambda: more))
    safetensors_io.write_folder(tmp_path / "more", tensors, metadata={"format": "pt"})
    shutil.copy(golden.path / "config.json", tmp_path / "more")
    loaded = folder.open_model(tmp_path / "more").load()
    jax.tree.map(np.testing.assert_array_equal, loaded, golden.weights)


def test_router_losses_are_a_choice_of_training_and_never_stop_an_export(tmp_path):
    golden = Golden("mixtral")
    trained = dataclasses.replace(
        golden.config, moe=dataclasses.replace(golden.config.moe, balance_loss=0.01)
    )
    folder.save_model(tmp_path / "out", trained, golden.weights, golden.fields)
    other = dataclasses.replace(golden.config, moe=dataclasses.replace(trained.moe, scale=2.0))
    with pytest.raises(ValueError, match=r"they differ in moe"):
        folder.save_model(tmp_path / "no", other, golden.weights, golden.fields)
