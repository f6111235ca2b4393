"""Records what peft computes: a tiny Llama, adapters of every kind with random weights, logits.

Run where torch, transformers and peft are installed and jax need not be:
  PYTHONPATH=. python -m tests.models.adapters.record_peft
and to have peft read adapters that we wrote, and print how far its logits are from ours:
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


def record():
    import peft
    import torch
    import transformers

    tokens, mask = rows()
    base_model().save_pretrained(HERE / "base")
    (HERE / "base" / "generation_config.json").unlink(missing_ok=True)
    found = {"tokens": tokens, "mask": mask, "base": logits(base_model(), tokens, mask)}
    for name, config in kinds().items():
        model = peft.get_peft_model(base_model(), config).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for x in model.parameters():
                if x.requires_grad:
                    x.add_(0.3 * torch.randn_like(x))
        found[name] = logits(model, tokens, mask)
        model.save_pretrained(HERE / name)
        (HERE / name / "README.md").unlink(missing_ok=True)
    versions = {m.__name__: m.__version__ for m in (peft, torch, transformers)}
    np.savez_compressed(HERE / "logits.npz", versions=json.dumps(versions), **found)


def check(folder):
    """Prints, for each adapter in a folder, how far peft is from the logits beside it."""
    import peft

    tokens, mask = rows()
    for path in sorted(folder.iterdir()):
        model = peft.PeftModel.from_pretrained(base_model(), path).eval()
        error = np.abs(logits(model, tokens, mask) - np.load(path / "logits.npy"))[mask == 1].max()
        print(f"{path.name}: {error:.3g}")


if __name__ == "__main__":
    check(pathlib.Path(sys.argv[1])) if len(sys.argv) > 1 else record()
