"""Records small random models with experts, built and saved by transformers, and what they say.

In an environment with torch and transformers and without jax:
  python -m tests.models.families.record_moe [CASE ...]

Each case is a folder as `save_pretrained` writes it (config.json, model.safetensors), the gradient
of a loss written the same way (gradients.safetensors), and expected.npz:
  tokens [T], logits [T, V]: one prompt. rows [B, S], lengths [B], padded [B, S, V]: rows padded on
  the left. loss: mean cross-entropy of the prompt's next tokens, whose gradient is the other file.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent / "goldens_moe"
COMMON = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    # Wide enough for logits of order one and for routers that prefer experts.
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
DEEPSEEK = {
    "moe_intermediate_size": 9,
    "num_key_value_heads": 3,
    "kv_lora_rank": 11,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 5,
    "v_head_dim": 7,
}
CASES = {
    "mixtral": (
        transformers.MixtralConfig,
        {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 4, "head_dim": 10},
    ),
    "mixtral_tied": (
        transformers.MixtralConfig,
        {"num_local_experts": 3, "num_experts_per_tok": 3, "tie_word_embeddings": True}
        | {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": None},
    ),
    "qwen3_moe": (
        transformers.Qwen3MoeConfig,
        {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 9, "head_dim": 6}
        | {"mlp_only_layers": [1], "attention_bias": True, "norm_topk_prob": False},
    ),
    "qwen3_moe_every": (
        transformers.Qwen3MoeConfig,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 9, "head_dim": 8}
        | {"decoder_sparse_step": 2, "norm_topk_prob": True, "tie_word_embeddings": True}
        | {"use_sliding_window": True, "sliding_window": 3, "num_hidden_layers": 4},
    ),
    "deepseek_v3": (
        transformers.DeepseekV3Config,
        DEEPSEEK
        | {"n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}
        | {"n_shared_experts": 2, "q_lora_rank": 10, "first_k_dense_replace": 1}
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "mscale": 1.0,
                "mscale_all_dim": 0.7,
                "beta_fast": 2,
                "beta_slow": 0.1,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "deepseek_v3_plain": (
        transformers.DeepseekV3Config,
        DEEPSEEK
        | {"n_routed_experts": 5, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"n_shared_experts": 1, "q_lora_rank": None, "first_k_dense_replace": 2}
        | {"attention_bias": True, "rope_interleave": False, "norm_topk_prob": False}
        | {"tie_word_embeddings": True, "routed_scaling_factor": 1.7},
    ),
    "llama4": (
        transformers.Llama4TextConfig,
        {"num_local_experts": 3, "intermediate_size_mlp": 18, "head_dim": 8, "floor_scale": 3}
        | {"num_hidden_layers": 4, "interleave_moe_layer_step": 2, "attention_chunk_size": 4}
        | {"attn_scale": 0.3, "rope_parameters": {**LLAMA3, "rope_theta": 500.0}},
    ),
    "llama4_other": (
        transformers.Llama4TextConfig,
        {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size_mlp": 18}
        | {"head_dim": 6, "moe_layers": [0, 2], "no_rope_layers": [1, 0, 1]}
        | {"use_qk_norm": False, "attn_temperature_tuning": False, "attention_bias": True}
        | {"attention_chunk_size": 5, "tie_word_embeddings": True},
    ),
}
GPT_OSS = {
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "head_dim": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "sliding_window": 4,
    # Low enough that most gates and ways in meet it.
    "swiglu_limit": 0.4,
}
CASES |= {
    "gpt_oss": (
        transformers.GptOssConfig,
        GPT_OSS
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 4.0,
                "beta_fast": 2.0,
                "beta_slow": 0.1,
                "truncate": False,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "gpt_oss_plain": (
        transformers.GptOssConfig,
        GPT_OSS
        | {"attention_bias": False, "tie_word_embeddings": True, "num_local_experts": 3}
        | {"num_experts_per_tok": 3, "num_attention_heads": 3, "num_key_value_heads": 3}
        | {"layer_types": ["full_attention", "full_attention", "sliding_attention"]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
        | {"swiglu_limit": 0.7, "swiglu_alpha": 1.1},
    ),
}
GLM = {
    "moe_intermediate_size": 9,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "head_dim": 8,
    "num_nextn_predict_layers": 0,
}
CASES |= {
    "glm4_moe": (
        transformers.Glm4MoeConfig,
        GLM
        | {"use_qk_norm": True, "attention_bias": True, "n_group": 2, "topk_group": 1}
        | {"n_shared_experts": 2, "routed_scaling_factor": 1.3, "first_k_dense_replace": 1},
    ),
    "glm4_moe_plain": (
        transformers.Glm4MoeConfig,
        GLM
        | {"n_routed_experts": 5, "num_experts_per_tok": 3, "norm_topk_prob": False}
        | {"tie_word_embeddings": True, "first_k_dense_replace": 2, "head_dim": 6}
        | {"num_attention_heads": 6, "num_key_value_heads": 2}
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100.0,
                "partial_rotary_factor": 1.0,
            }
        },
    ),
}
LENGTHS = (11, 6, 9)


def build(kind, changes):
    """A model by its own class and initialisation; what starts as a constant is moved off it."""
    config = kind(**{**COMMON, **changes})
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name or name.endswith(("bias", "e_score_correction_bias")):
                x.add_(0.2 * torch.randn(x.shape))
    return model.float().eval()


def logits_of(model, tokens, mask):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits


def padded(model, sequences):
    """(rows padded on the left, their logits)."""
    size = max(map(len, sequences))
    rows = torch.zeros(len(sequences), size, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for i, sequence in enumerate(sequences):
        rows[i, size - len(sequence) :], mask[i, size - len(sequence) :] = sequence, 1
    found = logits_of(model, rows, mask)
    if getattr(model.config, "attn_temperature_tuning", False):
        # This version scales queries by the slot, which padding moves, and not by the position: it
        # gives a padded row other logits than the row alone, whose logits are right.
        assert (found[1, -len(sequences[1]) :] - alone(model, sequences[1])).abs().max() > 1e-3
        for i, sequence in enumerate(sequences):
            found[i, size - len(sequence) :] = alone(model, sequence)
    return rows, found


def alone(model, sequence):
    return logits_of(model, sequence[None], torch.ones(1, len(sequence), dtype=torch.long))[0]


def save(model, folder, name):
    """The model's tensors under the names of `save_pretrained`."""
    with tempfile.TemporaryDirectory() as made:
        model.save_pretrained(made)
        shutil.copyfile(f"{made}/model.safetensors", folder / f"{name}.safetensors")
        return json.loads(pathlib.Path(made, "config.json").read_text())


def record(case, seed):
    kind, changes = CASES[case]
    torch.manual_seed(seed)
    model, folder = build(kind, changes), HERE / case
    folder.mkdir(parents=True, exist_ok=True)
    sequences = [torch.randint(0, 37, (n,)) for n in LENGTHS]
    with torch.no_grad():
        rows, expected = padded(model, sequences)
    tokens = sequences[0]
    logits = alone(model, tokens)
    loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:])
    loss.backward()
    config = save(model, folder, "model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.zero_()
    save(model, folder, "gradients")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    np.savez_compressed(
        folder / "expected.npz",
        tokens=tokens.numpy(),
        logits=logits.detach().numpy(),
        rows=rows.numpy(),
        lengths=np.array(LENGTHS),
        padded=expected.numpy(),
        loss=loss.item(),
    )


def main():
    for seed, case in enumerate(CASES):
        if not sys.argv[1:] or case in sys.argv[1:]:
            record(case, seed)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
