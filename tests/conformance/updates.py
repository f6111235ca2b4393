"""What three updates of a tiny Llama are computed from: the same for every code base.

Two prompts of three answers each; the old log-probabilities are those of the weights at the start,
so that the second and third update have ratios other than 1. The reference is another set of
weights, and rewards differ within each group. AdamW, as torch has it.
"""

from typing import Any

import numpy as np

PAD, EOS = 0, 1
PROMPTS, SAMPLES, UPDATES = 2, 3, 3
PROMPT, ANSWER = 4, 6  # tokens, at most
SHAPE = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
ADAMW = {"learning_rate": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def tensors() -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the model, as transformers names them."""
    width, wide, vocab = (SHAPE[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    queries = SHAPE["num_attention_heads"] * SHAPE["head_dim"]
    keys = SHAPE["num_key_value_heads"] * SHAPE["head_dim"]
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": (vocab, width),
        f"{layer}self_attn.q_proj.weight": (queries, width),
        f"{layer}self_attn.k_proj.weight": (keys, width),
        f"{layer}self_attn.v_proj.weight": (keys, width),
        f"{layer}self_attn.o_proj.weight": (width, queries),
        f"{layer}mlp.gate_proj.weight": (wide, width),
        f"{layer}mlp.up_proj.weight": (wide, width),
        f"{layer}mlp.down_proj.weight": (width, wide),
        f"{layer}input_layernorm.weight": (width,),
        f"{layer}post_attention_layernorm.weight": (width,),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocab, width),
    }  # type: ignore[return-value]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """The policy at the start; with another seed the reference, not far away."""
    drawn = {}
    rng = np.random.default_rng(0)
    for name, shape in tensors().items():
        spread = 0.1 if len(shape) == 1 else 0.4
        drawn[name] = (len(shape) == 1) + spread * rng.normal(size=shape)
    if seed:
        rng = np.random.default_rng(seed)
        drawn = {name: x + 0.05 * rng.normal(size=x.shape) for name, x in drawn.items()}
    return {name: x.astype(np.float32) for name, x in drawn.items()}


def samples() -> dict[str, Any]:
    """prompts: lists of ids; answers: a list of ids for each row, EOS included; rewards [P, N]."""
    rng = np.random.default_rng(7)
    prompts = [rng.integers(2, 24, n).tolist() for n in (PROMPT, 2)]
    lengths = (6, 3, 5, 4, 6, 1)
    answers = [rng.integers(2, 24, n).tolist() for n in lengths]
    for row in (1, 2, 3, 5):
        answers[row][-1] = EOS
    rewards = np.array([[1.0, 0.0, 0.3], [0.0, 1.0, 1.0]], np.float32)
    return {"prompts": prompts, "answers": answers, "rewards": rewards}
