"""DPOTrainer of TRL 1.16: `loss_type` by our names."""

from typing import Any

from alignjax.compat.recipe import Recipe

SCORE = {"beta": 0.1, "ld_alpha": 1.0, "wpo": False}
# TRL's alpha is ours from the other end: f'(u) = (u^(alpha - 1) - 1) / (alpha - 1).
CHOICES = ("reverse_kl", "forward_kl", "js", "alpha:power_from_one")


def _on_ratios(
    link: str,
    formula: str,
    *,
    loss_type: str,
    score: str = "sum",
    divergences: tuple[str, ...] = (),
    **numbers: Any,
) -> Recipe:
    """A loss of a and b themselves: TRL refuses divergences here."""
    return Recipe(
        table="pairs",
        score=score,
        divergence="reverse_kl",
        divergences=divergences,
        link=link,
        weight="wpo",
        reduction="mean over pairs",
        defaults={**SCORE, **numbers},
        reads=frozenset({"reference", "sum_p2"}),
        formula=f"{formula}; mean over pairs",
        source=f"trainer/dpo_trainer.py, loss_type={loss_type!r}",
    )


def _on_scores(
    link: str, formula: str, *, loss_type: str, score: str = "sum", **numbers: float
) -> Recipe:
    """A loss of f(a) and f(b)."""
    return _on_ratios(
        link,
        formula,
        loss_type=loss_type,
        score=score,
        divergences=CHOICES,
        divergence="reverse_kl",
        alpha=0.5,
        **numbers,
    )


def _sorted(link: str, formula: str) -> Recipe:
    """A loss of scores that are sorted over the batch."""
    return Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link=link,
        reduction="mean over sorted pairs",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
        reads=frozenset({"reference"}),
        coupled=True,
        formula=f"{formula}; mean over pairs",
        source=f"trainer/dpo_trainer.py, loss_type={link!r}",
    )


RECIPES = {
    "dpo": _on_scores("logistic", "-log sig(beta (f(a) - f(b)))", loss_type="sigmoid"),
    "dpo_norm": _on_scores(
        "logistic",
        "-log sig(beta (f(a)/n_c - f(b)/n_r))",
        loss_type="sigmoid_norm",
        score="sum/length",
    ),
    "hinge": _on_scores("hinge", "max(0, 1 - beta (f(a) - f(b)))", loss_type="hinge"),
    "ipo": _on_scores(
        "squared", "(f(a)/n_c - f(b)/n_r - 1/(2 beta))^2", loss_type="ipo", score="sum/length"
    ),
    "exo_pair": _on_scores(
        "exo_pair",
        "KL((sig(z), sig(-z)) || (1-e, e)), z = beta (f(a) - f(b)), e = label_smoothing",
        loss_type="exo_pair",
        label_smoothing=1e-3,
    ),
    "robust_dpo": _on_scores(
        "unbiased_logistic",
        "(-(1-e) log sig(z) + e log sig(-z)) / (1-2e), z = beta (f(a) - f(b)), e = flip_rate",
        loss_type="robust",
        flip_rate=0.0,
    ),
    "discopop": _on_scores(
        "discopop",
        "-(1-m) log sig(z) + m exp(-z), z = beta (f(a) - f(b)), m = sig(z / temperature)",
        loss_type="discopop",
        temperature=0.05,
    ),
    "nca_pair": _on_ratios(
        "nca_pair",
        "-log sig(beta a) - log sig(-beta a) / 2 - log sig(-beta b) / 2",
        loss_type="nca_pair",
    ),
    "bco_pair": _on_ratios(
        "bco_pair_unshifted", "-log sig(beta a) - log sig(-beta b)", loss_type="bco_pair"
    ),
    "sppo_hard": _on_ratios(
        "sppo_hard", "(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2", loss_type="sppo_hard"
    ),
    "apo_zero": _on_ratios("apo_zero", "1 - sig(beta a) + sig(beta b)", loss_type="apo_zero"),
    "apo_down": _on_ratios("apo_down", "sig(beta a) + 1 - sig(beta (a - b))", loss_type="apo_down"),
    "aot": _sorted("aot", "cDPO of sort(l_c - l_r) - sort(reference's l_c - l_r)"),
    "aot_unpaired": _sorted("aot_unpaired", "cDPO of sort(a) - sort(b)"),
    "chosen_nll": Recipe(
        table="pairs",
        score="tokens",
        link="token_nll",
        reduction="mean over chosen tokens",
        formula="-log pi; mean over all chosen answers' tokens",
        source="trainer/dpo_trainer.py, loss_type='sft'",
    ),
}
