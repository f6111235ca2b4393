"""Losses written a second time, from the papers, in NumPy float64: row by row, token by token.

Names and arguments are those of `alignjax.losses`. Nothing here is stable or fast on purpose.
"""

import itertools
import math

import numpy as np


def sig(z):
    return 1.0 / (1.0 + math.exp(-z))


def ell(z):
    """-log sigmoid(z)."""
    return math.log(1.0 + math.exp(-z))


def rows(fn):
    """A loss of one row's numbers as a loss of arrays."""

    def batched(*args, **kwargs):
        return np.array([fn(*[float(v) for v in row], **kwargs) for row in zip(*args, strict=True)])

    return batched


# --- pairs ---
@rows
def dpo(a, b, *, beta, label_smoothing=0.0):
    z = beta * (a - b)
    return (1 - label_smoothing) * ell(z) + label_smoothing * ell(-z)


@rows
def robust_dpo(a, b, *, beta, flip_rate):
    z = beta * (a - b)
    return ((1 - flip_rate) * ell(z) - flip_rate * ell(-z)) / (1 - 2 * flip_rate)


@rows
def davidson(s, t, tie, *, tie_strength):
    one, other = math.exp(s), math.exp(t)
    level = tie_strength * math.sqrt(one * other)
    total = one + other + level
    return -(1 - tie) * math.log(one / total) - tie * math.log(level / total)


@rows
def rao_kupper(s, t, tie, *, threshold):
    one, other, theta = math.exp(s), math.exp(t), math.exp(threshold)
    win, loss = one / (one + theta * other), other / (other + theta * one)
    return -(1 - tie) * math.log(win) - tie * math.log(1 - win - loss)


@rows
def rater_noise(s, t, right):
    return -math.log(right * sig(s - t) + (1 - right) * sig(t - s))


def span_reward(logits, spans, labels):
    found = np.zeros(labels.shape)
    for row, (z, numbers, y) in enumerate(zip(logits, spans, labels, strict=True)):
        for span, label in enumerate(y):
            own = [float(v) for v, number in zip(z, numbers, strict=True) if number == span + 1]
            if own:
                mean = sum(own) / len(own)
                found[row, span] = label * ell(mean) + (1 - label) * ell(-mean)
    return found


def group_weights(groups, weights, mask=None):
    keep = np.ones(len(groups)) if mask is None else mask
    own = [sum(k for g, k in zip(groups, keep, strict=True) if g == group) for group in groups]
    return np.array(
        [k * weights[g] * sum(keep) / max(n, 1) for g, k, n in zip(groups, keep, own, strict=True)]
    )


def group_robust(losses, groups, weights, mask=None):
    rows = group_weights(groups, weights, mask)
    return np.array([0.0 if w == 0 else w * x for w, x in zip(rows, losses, strict=True)])


@rows
def distributional(m, n, log_sd, log_other):
    z = (m - n) / math.sqrt(math.exp(log_sd) ** 2 + math.exp(log_other) ** 2)
    return -math.log(0.5 * math.erfc(-z / math.sqrt(2)))


def distributional_categorical(left, right):
    found = []
    for one, other in zip(left, right, strict=True):
        p, q = np.exp(one) / np.exp(one).sum(), np.exp(other) / np.exp(other).sum()
        win = sum(
            p[i] * q[j] * (1 if i > j else 0.5 if i == j else 0)
            for i in range(len(p))
            for j in range(len(q))
        )
        found.append(-math.log(win))
    return np.array(found)


@rows
def ipo(a, b, *, beta):
    return (a - b - 1 / (2 * beta)) ** 2


@rows
def hinge(a, b, *, beta, target_margin=1.0):
    return max(0.0, target_margin - beta * (a - b))


@rows
def exo_pair(a, b, *, beta, label_smoothing=1e-3):
    model = [sig(beta * (a - b)), sig(beta * (b - a))]
    label = [1 - label_smoothing, label_smoothing]
    return sum(p * math.log(p / q) for p, q in zip(model, label, strict=True))


@rows
def nca_pair(a, b, *, beta):
    return ell(beta * a) + 0.5 * sum(ell(-beta * x) for x in (a, b))


@rows
def bco_pair(a, b, *, beta, shift=0.0):
    return ell(beta * a - shift) + ell(-(beta * b - shift))


@rows
def sppo_hard(a, b, *, beta):
    eta = 1 / beta
    return (a - eta * (1 - 0.5)) ** 2 + (b - eta * (0 - 0.5)) ** 2


@rows
def apo_zero(a, b, *, beta):
    return (1 - sig(beta * a)) + sig(beta * b)


@rows
def apo_down(a, b, *, beta):
    return sig(beta * a) + (1 - sig(beta * a - beta * b))


@rows
def discopop(a, b, *, beta, temperature=0.05):
    rho = beta * (a - b)
    gate = sig(rho / temperature)
    return (1 - gate) * ell(rho) + gate * math.exp(-rho)


@rows
def dpop(a, b, *, beta, penalty=50.0):
    return ell(beta * (a - b - penalty * max(0.0, -a)))


@rows
def r_dpo(a, b, n, m, *, beta, alpha):
    return ell(beta * (a - b) + alpha * (n - m))


def aot(cw, cl, rw, rl, *, beta, label_smoothing=0.0):
    gap = np.sort(cw - cl) - np.sort(rw - rl)
    return dpo(gap, 0 * gap, beta=beta, label_smoothing=label_smoothing)


def aot_unpaired(a, b, *, beta, label_smoothing=0.0):
    return dpo(np.sort(a), np.sort(b), beta=beta, label_smoothing=label_smoothing)


# --- single answers ---
def kto_reference_point(u):
    return max(0.0, float(np.mean(u)))


def kto(u, desirable, z0, *, beta, desirable_weight=1.0, undesirable_weight=1.0):
    out = []
    for x, good in zip(u, desirable, strict=True):
        if good:
            out.append(desirable_weight - desirable_weight * sig(beta * (x - z0)))
        else:
            out.append(undesirable_weight - undesirable_weight * sig(beta * (z0 - x)))
    return np.array(out)


def apo_zero_unpaired(u, desirable, *, beta):
    return np.array(
        [1 - sig(beta * x) if g else sig(beta * x) for x, g in zip(u, desirable, strict=True)]
    )


def bco(u, desirable, shift, *, beta):
    return np.array(
        [
            ell(beta * x - shift) if g else ell(-(beta * x - shift))
            for x, g in zip(u, desirable, strict=True)
        ]
    )


# --- without reference ---
@rows
def odds_ratio(mw, ml):
    odds = [math.exp(m) / (1 - math.exp(m)) for m in (mw, ml)]
    return ell(math.log(odds[0] / odds[1]))


def orpo(mw, ml, *, ratio_weight=0.1):
    return -mw + ratio_weight * odds_ratio(mw, ml)


@rows
def simpo(mw, ml, *, beta, target_margin, label_smoothing=0.0):
    z = beta * mw - beta * ml - target_margin
    return (1 - label_smoothing) * ell(z) + label_smoothing * ell(-z)


@rows
def alphapo(mw, ml, *, beta, target_margin, alpha):
    def reward(m):
        return beta * (1 - math.exp(m) ** -alpha) / alpha

    return ell(reward(mw) - reward(ml) - target_margin)


@rows
def cpo(lw, ll, *, beta, label_smoothing=0.0, nll_weight=1.0):
    z = beta * (lw - ll)
    return (1 - label_smoothing) * ell(z) + label_smoothing * ell(-z) - nll_weight * lw


@rows
def tpo(lw, ll, gold, *, beta, nll_weight=1.0, target_margin=0.0):
    return ell(beta * lw - beta * ll - target_margin) - nll_weight * gold


# --- rewards ---
@rows
def bradley_terry(w, x, *, margin=0.0, label_smoothing=0.0):
    win = math.exp(w - margin) / (math.exp(w - margin) + math.exp(x))
    return -(1 - label_smoothing) * math.log(win) - label_smoothing * math.log(1 - win)


@rows
def center_penalty(w, x):
    return (w + x) ** 2


def plackett_luce(scores, ranks, mask):
    out = []
    for s, r, m in zip(scores, ranks, mask, strict=True):
        items = [i for i in range(len(s)) if m[i]]
        total = 0.0
        for i in items:
            if math.isfinite(r[i]):
                left = sum(math.exp(s[j]) for j in items if r[j] >= r[i])
                total -= math.log(math.exp(s[i]) / left)
        out.append(total)
    return np.array(out)


def all_pairs(scores, ranks, mask):
    out = []
    for s, r, m in zip(scores, ranks, mask, strict=True):
        pairs = [
            (i, j)
            for i, j in itertools.permutations(range(len(s)), 2)
            if m[i] and m[j] and r[i] < r[j]
        ]
        out.append(sum(ell(s[i] - s[j]) for i, j in pairs) / max(len(pairs), 1))
    return np.array(out)


@rows
def score_regression(s, t):
    return (s - t) ** 2


@rows
def outcome_reward(z, y):
    p = sig(z)
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def tokens(fn):
    """A loss of one token's numbers as a loss of [B, T] arrays; 0 where masked."""

    def batched(*args, **kwargs):
        *arrays, mask = args
        out = np.zeros(mask.shape)
        for place in np.ndindex(*mask.shape):
            if mask[place]:
                out[place] = fn(
                    *[float(x[place] if x.ndim == 2 else x[place[0]]) for x in arrays], **kwargs
                )
        return out

    return batched


@tokens
def process_reward(z, y):
    return -(y * math.log(sig(z)) + (1 - y) * math.log(1 - sig(z)))


def multilabel(z, y, mask):
    """Straight over rows and categories, by the probability that each label has."""
    out = np.zeros(mask.shape)
    for row, category in zip(*np.nonzero(mask), strict=True):
        p, label = 1 / (1 + math.exp(-z[row, category])), y[row, category]
        out[row, category] = -label * math.log(p) - (1 - label) * math.log1p(-p)
    return out


# --- language model ---
@tokens
def token_nll(logp):
    return -logp


@tokens
def smoothed_nll(logp, lse, mean, *, label_smoothing):
    return (1 - label_smoothing) * -logp + label_smoothing * (lse - mean)


@tokens
def z_loss(lse, *, coefficient=1e-4):
    return coefficient * lse**2


@tokens
def dft(logp):
    return -math.exp(logp) * logp


# --- policy gradient ---
def clipped(rho, adv, low, high, dual=None):
    bounded = min(max(rho, 1 - low), 1 + high)
    value = min(rho * adv, bounded * adv)
    if dual is not None and adv < 0:
        value = max(value, dual * adv)
    return -value


@tokens
def ppo_clip(new, old, adv, *, clip_low=0.2, clip_high=0.2, dual_clip=None):
    return clipped(math.exp(new) / math.exp(old), adv, clip_low, clip_high, dual_clip)


bnpo = ppo_clip


def dapo(new, old, adv, mask):
    return ppo_clip(new, old, adv, mask, clip_low=0.2, clip_high=0.28)


@tokens
def clip_fraction(new, old, adv, *, clip_low=0.2, clip_high=0.2):
    rho = math.exp(new - old)
    return float((adv > 0 and rho > 1 + clip_high) or (adv < 0 and rho < 1 - clip_low))


@tokens
def approx_kl(new, old):
    return math.exp(new - old) - 1 - (new - old)


@tokens
def reinforce(new, adv):
    return -adv * new


@tokens
def value_clip(v, old, ret, *, clip=0.2):
    if clip is None:
        return 0.5 * (v - ret) ** 2
    near = min(max(v, old - clip), old + clip)
    return max(0.5 * (v - ret) ** 2, 0.5 * (near - ret) ** 2)


@tokens
def importance_ratio_counted(new, old):
    return math.exp(new) / math.exp(old)


def importance_ratio(new, old, mask):
    return importance_ratio_counted(new, old, mask) + (mask == 0)


def _by_row(fn, *arrays, mask):
    """fn of each row's counted tokens (1-D arrays), 0 for empty rows."""
    out = []
    for i in range(len(mask)):
        keep = mask[i].astype(bool)
        out.append(fn(*[x[i][keep] if x.ndim == 2 else x[i] for x in arrays]) if any(keep) else 0.0)
    return np.array(out)


def gspo(new, old, adv, mask, *, clip_low=3e-4, clip_high=4e-4, dual_clip=None):
    def row(n, o, a):
        s = (math.exp(n.sum()) / math.exp(o.sum())) ** (1 / len(n))
        return clipped(s, a, clip_low, clip_high, dual_clip)

    return _by_row(row, new, old, adv, mask=mask)


def gspo_token(new, old, adv, mask, *, clip_low=3e-4, clip_high=4e-4):
    return gspo(new, old, adv, mask, clip_low=clip_low, clip_high=clip_high)[:, None] * mask


def luspo(new, old, adv, mask, *, clip_low=3e-4, clip_high=4e-4):
    return gspo(new, old, adv, mask, clip_low=clip_low, clip_high=clip_high) * mask.sum(-1)


def gmpo(new, old, adv, mask, *, clip_low=0.4, clip_high=0.4):
    def row(n, o, a):
        product = 1.0
        for x, y in zip(n, o, strict=True):
            rho = math.exp(x - y)
            bounded = min(max(rho, math.exp(-clip_low)), math.exp(clip_high))
            product *= abs(min(rho * a, bounded * a) / a)
        return -a * product ** (1 / len(n))

    return _by_row(row, new, old, adv, mask=mask)


def rloo(new, adv, mask):
    return _by_row(lambda n, a: -a * n.sum(), new, adv, mask=mask)


def rloo_clip(new, old, adv, mask, *, clip_low=0.2, clip_high=0.2):
    return _by_row(
        lambda n, o, a: clipped(math.exp(n.sum() - o.sum()), a, clip_low, clip_high),
        new,
        old,
        adv,
        mask=mask,
    )


def sequence_ratio(new, old, mask, *, normalise=True):
    def row(n, o):
        return math.exp((n - o).mean() if normalise else (n - o).sum()) - 1

    return 1 + _by_row(row, new, old, mask=mask)


def vespo(new, old, adv, mask, weights=None, *, positive=(2.0, 3.0), negative=(3.0, 2.0)):
    def row(n, o, a, sampler):
        w = math.exp(n.sum() - o.sum()) * np.prod(sampler)
        k, lam = positive if a >= 0 else negative
        return w**k * math.exp(lam * (1 - w)) * a

    weights = np.ones(mask.shape) if weights is None else weights
    return -_by_row(row, new, old, adv, weights, mask=mask)[:, None] * new * mask


def _ratios(new, old, mask, level):
    if level == "token":
        return np.exp(new - old)
    return np.broadcast_to(sequence_ratio(new, old, mask)[:, None], new.shape)


def cispo(new, old, adv, mask, *, maximum_ratio=5.0, minimum_ratio=0.0, level="token"):
    ratio = _ratios(new, old, mask, level)
    return _cispo(ratio, new, adv, mask, maximum_ratio=maximum_ratio, minimum_ratio=minimum_ratio)


@tokens
def _cispo(ratio, new, adv, *, maximum_ratio, minimum_ratio):
    return -min(max(ratio, minimum_ratio), maximum_ratio) * adv * new


def sapo(new, old, adv, mask, *, level="token"):
    return _sapo(_ratios(new, old, mask, level), adv, mask)


@tokens
def _sapo(ratio, adv, *, positive_temperature=1.0, negative_temperature=1.05):
    tau = positive_temperature if adv > 0 else negative_temperature
    return -4 / tau * sig(tau * (ratio - 1)) * adv


def covariance(new, adv, mask):
    keep = mask.astype(bool)
    adv = np.broadcast_to(adv[:, None], new.shape) if adv.ndim == 1 else adv
    return np.where(keep, (new - new[keep].mean()) * (adv - adv[keep].mean()), 0.0)


def kl_cov(new, old, adv, mask, *, fraction, penalty=1.0):
    cov = covariance(new, adv, mask)
    flat = sorted((cov[p], p) for p in np.ndindex(*mask.shape) if mask[p])[::-1]
    chosen = {p for _, p in flat[: max(1, round(fraction * len(flat)))]}
    out = np.zeros(mask.shape)
    for _, p in flat:
        rho = math.exp(new[p] - old[p])
        a = adv[p[0]] if adv.ndim == 1 else adv[p]
        out[p] = -rho * a + (penalty * abs(new[p] - old[p]) if p in chosen else 0.0)
    return out


@tokens
def entropy_bonus(entropy):
    return -entropy


def sampler_weight(
    new, sampler, mask, *, level="sequence", beyond="drop", maximum=3.0, minimum=None
):
    maximum, minimum = math.inf if maximum is None else maximum, minimum or 0.0
    gap = np.where(np.isnan(sampler), 0.0, new - sampler) * mask
    out = np.zeros(mask.shape)
    for i, t in np.ndindex(*mask.shape):
        whole = gap[i].sum() / (mask[i].sum() if level == "geometric" and mask[i].any() else 1.0)
        w = math.exp(gap[i, t] if level == "token" else whole)
        if not minimum <= w <= maximum:
            w = min(max(w, minimum), maximum) if beyond == "truncate" else 0.0
        out[i, t] = w * mask[i, t]
    return out


def off_policy_keep(new, sampler, adv, mask, *, threshold):
    def row(n, s, a):
        return float(a >= 0 or np.nan_to_num(s - n).mean() <= threshold)

    return _by_row(row, new, sampler, adv, mask=mask)


def grpo(new, old, adv, mask, *, reference_logprobs=None, kl_weight=0.0):
    token = ppo_clip(new, old, adv, mask)
    if reference_logprobs is not None:
        token = token + kl_weight * k3(new, reference_logprobs, mask)
    return token.sum(-1) / np.maximum(mask.sum(-1), 1)


def dr_grpo(new, old, adv, mask, *, length):
    return ppo_clip(new, old, adv, mask).sum(-1) / length


# --- KL ---
@tokens
def k1(new, ref):
    return math.log(math.exp(new) / math.exp(ref))


@tokens
def k2(new, ref):
    return (new - ref) ** 2 / 2


@tokens
def k3(new, ref):
    r = math.exp(ref) / math.exp(new)
    return r - 1 - math.log(r)


kl_penalty, kl_loss = k1, k3


def kl_loss_weighted(new, old, ref, mask, *, estimator="k3", level="token"):
    return _ratios(new, old, mask, level) * {"k1": k1, "k3": k3}[estimator](new, ref, mask)


# --- advantages ---
def gae(rewards, values, mask, *, discount, decay):
    """The definition: sum over l of (discount decay)^l delta_{t+l}, on the counted tokens alone."""
    adv, ret = np.zeros(mask.shape), np.zeros(mask.shape)
    for i in range(len(mask)):
        places = [t for t in range(mask.shape[1]) if mask[i, t]]
        r = [rewards[i, t] for t in places]
        v = [values[i, t] for t in places] + [0.0]
        delta = [r[k] + discount * v[k + 1] - v[k] for k in range(len(r))]
        for k, t in enumerate(places):
            adv[i, t] = sum((discount * decay) ** m * d for m, d in enumerate(delta[k:]))
            ret[i, t] = adv[i, t] + v[k]
    return adv, ret


def discounted_returns(rewards, mask, *, discount):
    return gae(rewards, 0 * rewards, mask, discount=discount, decay=1.0)[0]


def whiten(x, mask, *, shift_mean=True, eps=1e-8, unbiased=False):
    kept = x[mask.astype(bool)]
    out = (x - kept.mean()) / math.sqrt(kept.var(ddof=int(unbiased)) + eps)
    return np.where(mask, out if shift_mean else out + kept.mean(), 0.0)


def group_relative(rewards, mask, *, scale=True, eps=1e-4, unbiased=True, spread="group"):
    out = np.zeros(rewards.shape)
    common = rewards[mask.astype(bool)].std(ddof=int(unbiased))
    for i, keep in enumerate(mask.astype(bool)):
        r = rewards[i][keep]
        if len(r):
            std = common if spread == "batch" else r.std(ddof=int(unbiased and len(r) > 1))
            out[i][keep] = (r - r.mean()) / ((std + eps) if scale else 1.0)
    return out


def leave_one_out(rewards, mask):
    out = np.zeros(rewards.shape)
    for i, keep in enumerate(mask.astype(bool)):
        for j in np.flatnonzero(keep):
            others = [rewards[i, k] for k in np.flatnonzero(keep) if k != j]
            out[i, j] = rewards[i, j] - sum(others) / len(others) if others else 0.0
    return out


def gpg(rewards, mask):
    live = [
        len({float(x) for x in r[m.astype(bool)]}) > 1 for r, m in zip(rewards, mask, strict=True)
    ]
    return group_relative(rewards, mask, scale=False) * len(rewards) / max(sum(live), 1)


def opo(rewards, lengths, mask):
    out = np.zeros(rewards.shape)
    for i, keep in enumerate(mask.astype(bool)):
        share = lengths[i][keep] / lengths[i][keep].sum()
        out[i][keep] = rewards[i][keep] - (share * rewards[i][keep]).sum()
    return out


def max_rl(rewards, mask):
    out = np.zeros(rewards.shape)
    for i, keep in enumerate(mask.astype(bool)):
        r = rewards[i][keep]
        if len(r) and r.mean() > 0:
            out[i][keep] = r / r.mean() - 1
    return out


def pass_at_k(rewards, mask):
    out = np.zeros(rewards.shape)
    for i, keep in enumerate(mask.astype(bool)):
        ordered = sorted((rewards[i, j], -j) for j in np.flatnonzero(keep))
        if len(ordered) > 1:
            out[i, -ordered[-1][1]] = ordered[-1][0] - ordered[-2][0]
    return out


def otb(rewards, logprobs, sum_p2, mask):
    groups, samples, length = rewards.shape
    out = np.zeros(rewards.shape)
    for b, t in np.ndindex(groups, length):
        going = [n for n in range(samples) if mask[b, n, t]]
        to_go = {n: sum(rewards[b, n, k] for k in range(t, length) if mask[b, n, k]) for n in going}
        energy = {
            n: sum(
                1 - 2 * math.exp(logprobs[b, n, k]) + sum_p2[b, n, k]
                for k in range(t + 1)
                if mask[b, n, k]
            )
            for n in going
        }
        total = max(sum(energy.values()), 1e-8)
        for n in going:
            out[b, n, t] = to_go[n] - sum(to_go[m] * energy[m] for m in going) / total
    return out


@tokens
def dppo(new, old, adv, *, threshold, measure="tv", maximum_ratio=20.0):
    p, q = math.exp(old), math.exp(new)
    if measure == "kl":
        moved = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    else:
        moved = abs(p - q)
    if moved > threshold and (q > p) == (adv > 0) and q != p:
        return 0.0
    return -min(q / p, maximum_ratio) * adv * new


def reinforce_plus_plus(rewards, mask, *, discount=1.0):
    return whiten(discounted_returns(rewards, mask, discount=discount), mask)


def reinforce_plus_plus_baseline(rewards, mask):
    return whiten(group_relative(rewards, mask, scale=False), mask)


def gdpo(rewards, weights, mask):
    parts = [w * group_relative(rewards[..., k], mask) for k, w in enumerate(weights)]
    return whiten(sum(parts), mask)


@rows
def remax(r, greedy):
    return r - greedy


# --- scores, distillation, online ---
def score_sum(logp, mask):
    return _by_row(lambda n: n.sum(), logp, mask=mask)


def score_mean(logp, mask):
    return _by_row(lambda n: n.mean(), logp, mask=mask)


def score_ld(logp, mask, other_mask, *, alpha):
    out = []
    for x, m, o in zip(logp, mask, other_mask, strict=True):
        x, common = x[m.astype(bool)], min(int(m.sum()), int(o.sum()))
        out.append(x[:common].sum() + alpha * x[common:].sum())
    return np.array(out)


def wpo_weight(logp, p2, mask):
    keep = mask.sum(-1) > 0
    return _by_row(lambda n, s: math.exp((n - np.log(s)).mean()), logp, p2, mask=mask) + ~keep


def _kl(p, q):
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def _per_token(fn, student, teacher, mask):
    out = np.zeros(mask.shape)
    for place in np.ndindex(*mask.shape):
        if mask[place]:
            out[place] = fn(np.exp(student[place]), np.exp(teacher[place]))
    return out


def forward_kl(student, teacher, mask):
    return _per_token(lambda q, p: _kl(p, q), student, teacher, mask)


def reverse_kl(student, teacher, mask):
    return _per_token(lambda q, p: _kl(q, p), student, teacher, mask)


def generalised_jsd(student, teacher, mask, *, beta=0.5):
    def both(q, p):
        m = beta * p + (1 - beta) * q
        return beta * _kl(p, m) + (1 - beta) * _kl(q, m)

    return _per_token(both, student, teacher, mask)


def minillm_advantages(student, teacher, mask, *, length_normalise=True):
    out = np.zeros(mask.shape)
    for i in range(len(mask)):
        places = list(np.flatnonzero(mask[i]))
        for k, t in enumerate(places):
            later = [teacher[i, u] - student[i, u] for u in places[k + 1 :]]
            out[i, t] = sum(later) / (max(len(later), 1) if length_normalise else 1)
    return out


@rows
def xpo(a, b, sample, *, beta, optimism, link="dpo"):
    pair = ell(beta * (a - b)) if link == "dpo" else (a - b - 1 / (2 * beta)) ** 2
    return pair + optimism * sample


def nash_md(new, ref, preferences, mask, *, beta):
    return _by_row(
        lambda n, r, p: -((p - 0.5) * n.sum() - beta * ((n - r) * n).sum()),
        new,
        ref,
        preferences,
        mask=mask,
    )
