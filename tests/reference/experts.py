"""Experts a second time, in NumPy float64: one token, one expert at a time, from the papers."""

import numpy as np


def scores(logits, kind):
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    e = np.exp(logits - logits.max())
    return e / e.sum()


def route(logits, moe, correction=None):
    """[(expert, weight)] of one token, best first."""
    score = scores(logits, moe.scores)
    by = score + (0 if correction is None else correction)
    allowed = list(range(moe.experts))
    if moe.groups > 1:
        size = moe.experts // moe.groups
        members = [range(g * size, (g + 1) * size) for g in range(moe.groups)]
        worth = [sum(sorted((by[e] for e in group), reverse=True)[:2]) for group in members]
        best = sorted(range(moe.groups), key=lambda g: -worth[g])[: moe.active_groups]
        allowed = [e for g in best for e in members[g]]
    chosen = sorted(allowed, key=lambda e: -by[e])[: moe.active]
    total = sum(score[e] for e in chosen) if moe.normalise else 1.0
    return [(e, moe.scale * score[e] / total) for e in chosen]


def mlp(x, gate, up, down):
    inner = x @ gate
    return (inner / (1 + np.exp(-inner)) * (x @ up)) @ down


def biased(x, weights, e, moe):
    """One expert with biases, whose gate and way in are clamped."""
    gate = x @ weights.gate[e] + weights.gate_bias[e]
    up = x @ weights.up[e] + weights.up_bias[e]
    gate, up = np.minimum(gate, moe.clamp), np.maximum(np.minimum(up, moe.clamp), -moe.clamp)
    inner = gate / (1 + np.exp(-moe.clamp_gain * gate)) * (up + 1)
    return inner @ weights.down[e] + weights.down_bias[e]


def logits(weights, x):
    """Of the router, for one token."""
    return x @ weights.router + (0 if weights.router_bias is None else weights.router_bias)


def mixture(weights, x, moe):
    """[T, D] added by the experts to one row of tokens [T, D]; silu experts."""
    out = np.zeros_like(x)
    for t, token in enumerate(x):
        for e, share in route(logits(weights, token), moe, weights.correction):
            expert = weights.gate[e], weights.up[e], weights.down[e]
            if moe.bias:
                out[t] += share * biased(token, weights, e, moe)
            elif moe.weigh_inputs:
                out[t] += mlp(share * token, *expert)
            else:
                out[t] += share * mlp(token, *expert)
        if weights.shared is not None:
            out[t] += mlp(token, weights.shared.gate, weights.shared.up, weights.shared.down)
    return out


def balance(logits, moe, correction=None):
    """E sum_e f_e P_e of one sequence's logits [T, E]."""
    used, probability = np.zeros(moe.experts), np.zeros(moe.experts)
    for row in logits:
        for e, _ in route(row, moe, correction):
            used[e] += 1 / len(logits)
        score = scores(row, moe.scores)
        probability += score / score.sum() / len(logits)
    return moe.experts * float(used @ probability)


def z(logits):
    """Mean of log(sum exp)^2 over one sequence's logits [T, E]."""
    return float(np.mean(np.log(np.exp(logits).sum(-1)) ** 2))
