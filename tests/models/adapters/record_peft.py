"""Records what peft computes: a tiny Llama, adapters of every kind with random weights, logits.

Run where torch, transformers and peft are installed and jax need not be:
  PYTHONPATH=. python -m tests.models.adapters.record_peft
with "families" for those with experts alone, with "vocabulary" for embeddings and modules to save,
and with "experts", where transformers 4.57 and peft 0.17 are, for experts that are Linears. To have
peft read adapters that we wrote, and print how far its logits are from ours:
  PYTHONPATH=. python -m tests.models.adapters.record_peft FOLDER
"""

import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent / "goldens"
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def kinds():
    """peft configurations by name."""
    import peft

    task = {"task_type": "CAUSAL_LM"}
    return {
        "lora": peft.LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=EVERY,
            rank_pattern={"k_proj": 2},
            alpha_pattern={"down_proj": 9, "layers.[01].mlp.up_proj": 5},
            **task,
        ),
        "rslora": peft.LoraConfig(
            r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "down_proj"], **task
        ),
        "dora": peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=EVERY, **task),
        "ia3": peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            **task,
        ),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, **task),
    }


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LATENTS = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
SMALL = {
    "vocab_size": 16,
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
# family -> (fields, target_modules); target_parameters are its experts. peft takes names of plain
# MLPs for those of experts where both have the same ones, hence only Llama 4 has them here.
FAMILIES = {
    "mixtral": ({"num_local_experts": 3, "head_dim": 4}, ATTENTION),
    "qwen3_moe": (
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 5, "head_dim": 6},
        ATTENTION,
    ),
    "deepseek_v3": (
        {
            "num_key_value_heads": 3,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 5,
            "first_k_dense_replace": 1,
            "q_lora_rank": 7,
            "kv_lora_rank": 6,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 3,
            "v_head_dim": 5,
        },
        LATENTS,
    ),
    "llama4_text": (
        {
            "num_local_experts": 3,
            "intermediate_size_mlp": 8,
            "head_dim": 4,
            "moe_layers": [1],
            "attention_chunk_size": 4,
        },
        EVERY,
    ),
}


def family_model(kind):
    """A tiny model with experts, with random weights."""
    from tests.models.families import reference

    return reference.make(kind, {**SMALL, **FAMILIES[kind][0]}, 3)


def family_config(kind):
    import peft

    inside = "feed_forward" if kind == "llama4_text" else "mlp"
    return peft.LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=FAMILIES[kind][1],
        target_parameters=[f"{inside}.experts.{n}_proj" for n in ("gate_up", "down")],
        rank_pattern={"o_proj": 3, rf"{inside}.experts.down_proj": 4},
        task_type="CAUSAL_LM",
    )


def base_model():
    """A tiny Llama with random biases and norms."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attention_bias=True,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, x in model.named_parameters():
            x.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model.eval()


def logits(model, tokens, mask):
    import torch

    with torch.no_grad():
        given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
        return model(**given).logits.numpy()


def rows():
    """(tokens [B, T], mask [B, T]): ragged, padded on the right."""
    rng = np.random.default_rng(0)
    mask = np.arange(8)[None] < np.array([8, 5, 1])[:, None]
    return np.where(mask, rng.integers(0, 16, (3, 8)), 0), mask.astype(np.int64)


def roughened(model):
    """The adapters of a model with noise on every number."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for x in model.parameters():
            if x.requires_grad:
                x.add_(0.3 * torch.randn_like(x))
    return model


def record_families():
    import peft

    tokens, mask = rows()
    for kind in FAMILIES:
        folder = HERE / "families" / kind
        model = family_model(kind)
        model.save_pretrained(folder / "base")
        found = {"tokens": tokens, "mask": mask, "base": logits(model, tokens, mask)}
        adapted = roughened(peft.get_peft_model(model, family_config(kind)).eval())
        found["lora"] = logits(adapted, tokens, mask)
        adapted.save_pretrained(folder / "lora")
        np.savez_compressed(folder / "logits.npz", **found)
        for name in ("lora/README.md", "base/generation_config.json"):
            (folder / name).unlink(missing_ok=True)


def record():
    import peft
    import torch
    import transformers

    record_families()
    tokens, mask = rows()
    base_model().save_pretrained(HERE / "base")
    (HERE / "base" / "generation_config.json").unlink(missing_ok=True)
    found = {"tokens": tokens, "mask": mask, "base": logits(base_model(), tokens, mask)}
    for name, config in kinds().items():
        model = roughened(peft.get_peft_model(base_model(), config).eval())
        found[name] = logits(model, tokens, mask)
        model.save_pretrained(HERE / name)
        (HERE / name / "README.md").unlink(missing_ok=True)
    versions = {m.__name__: m.__version__ for m in (peft, torch, transformers)}
    np.savez_compressed(HERE / "logits.npz", versions=json.dumps(versions), **found)


# Tied or not, and a configuration of peft each.
VOCABULARY = {
    "low_rank": (
        False,
        {
            "target_modules": ["q_proj", "embed_tokens", "lm_head"],
            "modules_to_save": ["model.norm", "input_layernorm"],
            "rank_pattern": {"embed_tokens": 3},
            "alpha_pattern": {"lm_head": 5},
        },
    ),
    "whole": (
        False,
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "tied_apart": (True, {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied_both": (True, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "tied_together": (
        True,
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    ),
    "tied_whole": (True, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "tied_head": (True, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied_whole_together": (
        True,
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["embed_tokens"],
            "ensure_weight_tying": True,
        },
    ),
}


def vocabulary_model(tied):
    """A tiny Llama of 24 tokens with its embedding tied or not."""
    from tests.models.families import reference

    return reference.make("llama", {**SMALL, "vocab_size": 24, "tie_word_embeddings": tied}, 5)


def record_vocabulary():
    import peft

    tokens, mask = rows()
    found = {"tokens": tokens, "mask": mask}
    for name, (tied, fields) in VOCABULARY.items():
        folder = HERE / "vocabulary"
        model = vocabulary_model(tied)
        base = folder / ("base_tied" if tied else "base")
        model.save_pretrained(base)
        (base / "generation_config.json").unlink(missing_ok=True)
        config = peft.LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **fields)
        adapted = roughened(peft.get_peft_model(model, config).eval())
        found[name] = logits(adapted, tokens, mask)
        adapted.save_pretrained(folder / name)
        (folder / name / "README.md").unlink(missing_ok=True)
    np.savez_compressed(HERE / "vocabulary" / "logits.npz", **found)


# Experts as Linears: family -> target_modules.
EXPERTS = {
    "mixtral": ["q_proj", "w1", "w2", "w3"],
    "qwen3_moe": ["o_proj", "gate_proj", "up_proj", "down_proj"],
    "deepseek_v3": ["gate_proj", "down_proj"],
}


def experts_model(kind):
    """A family's model in transformers 4, with random weights."""
    import torch
    import transformers

    torch.manual_seed(6)
    fields = {name: x for name, x in SMALL.items() if name != "rope_parameters"}
    fields |= {**FAMILIES[kind][0], "rope_theta": 100.0, "initializer_range": 0.25}
    config = transformers.AutoConfig.for_model(kind, **fields)
    return transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", torch_dtype=torch.float32
    ).eval()


def record_experts():
    import peft

    tokens, mask = rows()
    for kind, targets in EXPERTS.items():
        folder = HERE / "experts" / kind
        model = experts_model(kind)
        model.save_pretrained(folder / "base")
        config = peft.LoraConfig(
            r=2,
            lora_alpha=3,
            target_modules=targets,
            rank_pattern={"w2": 3, r"experts\.\d+\.down_proj": 3},
            task_type="CAUSAL_LM",
        )
        found = {"tokens": tokens, "mask": mask, "base": logits(model, tokens, mask)}
        adapted = roughened(peft.get_peft_model(model, config).eval())
        found["lora"] = logits(adapted, tokens, mask)
        adapted.save_pretrained(folder / "lora")
        np.savez_compressed(folder / "logits.npz", **found)
        for name in ("lora/README.md", "base/generation_config.json"):
            (folder / name).unlink(missing_ok=True)


def check(folder):
    """Prints, for each adapter in a folder, how far peft is from the logits beside it."""
    import peft

    tokens, mask = rows()
    for path in sorted(folder.iterdir()):
        model = peft.PeftModel.from_pretrained(base_model(), path).eval()
        error = np.abs(logits(model, tokens, mask) - np.load(path / "logits.npy"))[mask == 1].max()
        print(f"{path.name}: {error:.3g}")


if __name__ == "__main__":
    parts = {
        "families": record_families,
        "vocabulary": record_vocabulary,
        "experts": record_experts,
    }
    if len(sys.argv) > 1 and sys.argv[1] in parts:
        parts[sys.argv[1]]()
    else:
        check(pathlib.Path(sys.argv[1])) if len(sys.argv) > 1 else record()
