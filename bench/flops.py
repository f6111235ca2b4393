"""Model FLOPs of a step: what its mathematics needs, whatever a code base computes besides.

A matrix product of [m, k] and [k, n] is 2 m k n; a backward pass is twice its forward pass; what is
recomputed, padded or scored for nothing does not count. Causal attention of T tokens sees
T (T + 1) / 2 pairs. The unembedding is applied where a token is predicted and nowhere else.
"""

import numpy as np

from bench import workloads

TRAINED = 3  # forward and backward


def attended(lengths: np.ndarray, before: int = 0) -> int:
    """Pairs of a token and what it sees, over rows of these lengths after `before` tokens."""
    sizes = np.asarray(lengths, np.int64)
    return int((sizes * (sizes + 1) // 2 + sizes * before).sum())


def forward(model: workloads.Model, tokens: int, pairs: int, predicted: int) -> int:
    """A forward pass over so many tokens, pairs of `attended`, and tokens that are predicted."""
    attention = 4 * model.layers * model.heads * model.head_dim * pairs  # scores, then values
    return 2 * model.layer_weights * tokens + attention + 2 * model.head_weights * predicted


def of_step(case: workloads.Case, step: int) -> int:
    """Model FLOPs of a step of a workload."""
    model, kind = case.model, case.workload.kind
    rows, prompt, new = case.shape
    lengths = case.lengths(step)
    if kind == "sft":
        total = int(lengths.sum())
        return TRAINED * forward(model, total, attended(lengths), total - rows)
    if kind in ("dpo", "rm"):
        sizes = np.full(2 * rows, prompt + new)
        total, pairs = int(sizes.sum()), attended(sizes)
        if kind == "rm":
            return TRAINED * forward(model, total, pairs, 0)
        return (1 + TRAINED) * forward(model, total, pairs, 2 * rows * new)
    # Prompts are read once for all samples of each; every sampled token but the last is read.
    fed = lengths - 1
    sampled = int(lengths.sum())
    read = forward(model, case.prompts * prompt, case.prompts * attended(np.array([prompt])), 0)
    decoded = forward(model, int(fed.sum()), attended(fed, prompt), sampled)
    if kind == "sample":
        return read + decoded
    whole = prompt + lengths
    passes = forward(model, int(whole.sum()), attended(whole), sampled)
    total = read + decoded + (1 + TRAINED) * passes  # the reference, the update
    if kind == "ppo":  # the critic before the update, and its own
        total += (1 + TRAINED) * forward(model, int(whole.sum()), attended(whole), 0)
    return total
