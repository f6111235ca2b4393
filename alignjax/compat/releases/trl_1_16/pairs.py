"""DPOTrainer of TRL 1.16: `loss_type` by our names."""

from collections.abc import Callable
from typing import Any

from alignjax import losses
from alignjax.compat import pairs
from alignjax.compat.recipe import Arrays, Recipe, Terms
from alignjax.core import shapes
from alignjax.losses import divergences

# TRL's alpha is ours from the other end: f'(u) = (u^(alpha - 1) - 1) / (alpha - 1).
DIVERGENCES = {
    **pairs.DIVERGENCES,
    "alpha": lambda x, alpha: divergences.power(x, 1.0 - shapes.check_number("alpha", alpha)),
}
SCORE = {"beta": 0.1, "ld_alpha": 1.0, "wpo": False}
DIVERGENCE = {**SCORE, "divergence": "reverse_kl", "alpha": 0.5}


def _on_scores(
    link: Callable[..., Any],
    formula: str,
    *,
    loss_type: str,
    per_token: bool = False,
    **options: float,
) -> Recipe:
    """A loss of f(a) and f(b)."""
    return Recipe(
        compute=pairs.referenced(link, DIVERGENCES, per_token=per_token),
        formula=f"{formula}; mean over pairs",
        source=f"trainer/dpo_trainer.py, loss_type={loss_type!r}",
        defaults={**DIVERGENCE, **options},
    )


def _on_ratios(
    link: Callable[..., Any], formula: str, *, loss_type: str, **options: float
) -> Recipe:
    """A loss of a and b themselves: TRL refuses divergences here."""

    def compute(arrays: Arrays, *, ld_alpha: float, wpo: bool, **numbers: float) -> Terms:
        ratios = pairs.log_ratios(arrays, ld_alpha)
        return pairs.reduced(link(*ratios, **numbers), arrays, wpo=wpo)

    return Recipe(
        compute=compute,
        formula=f"{formula}; mean over pairs",
        source=f"trainer/dpo_trainer.py, loss_type={loss_type!r}",
        defaults={**SCORE, **options},
    )


RECIPES = {
    "dpo": _on_scores(losses.dpo, "-log sig(beta (f(a) - f(b)))", loss_type="sigmoid"),
    "dpo_norm": _on_scores(
        losses.dpo,
        "-log sig(beta (f(a)/n_c - f(b)/n_r))",
        loss_type="sigmoid_norm",
        per_token=True,
    ),
    "hinge": _on_scores(losses.hinge, "max(0, 1 - beta (f(a) - f(b)))", loss_type="hinge"),
    "ipo": _on_scores(
        losses.ipo, "(f(a)/n_c - f(b)/n_r - 1/(2 beta))^2", loss_type="ipo", per_token=True
    ),
    "exo_pair": _on_scores(
        losses.exo_pair,
        "KL((sig(z), sig(-z)) || (1-e, e)), z = beta (f(a) - f(b)), e = label_smoothing",
        loss_type="exo_pair",
        label_smoothing=1e-3,
    ),
    "robust_dpo": _on_scores(
        losses.robust_dpo,
        "(-(1-e) log sig(z) + e log sig(-z)) / (1-2e), z = beta (f(a) - f(b)), e = flip_rate",
        loss_type="robust",
        flip_rate=0.0,
    ),
    "discopop": _on_scores(
        losses.discopop,
        "-(1-m) log sig(z) + m exp(-z), z = beta (f(a) - f(b)), m = sig(z / temperature)",
        loss_type="discopop",
        temperature=0.05,
    ),
    "nca_pair": _on_ratios(
        losses.nca_pair,
        "-log sig(beta a) - log sig(-beta a) / 2 - log sig(-beta b) / 2",
        loss_type="nca_pair",
    ),
    "bco_pair": _on_ratios(
        losses.bco_pair, "-log sig(beta a) - log sig(-beta b)", loss_type="bco_pair"
    ),
    "sppo_hard": _on_ratios(
        losses.sppo_hard, "(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2", loss_type="sppo_hard"
    ),
    "apo_zero": _on_ratios(losses.apo_zero, "1 - sig(beta a) + sig(beta b)", loss_type="apo_zero"),
    "apo_down": _on_ratios(
        losses.apo_down, "sig(beta a) + 1 - sig(beta (a - b))", loss_type="apo_down"
    ),
    "aot": Recipe(
        compute=pairs.aot,
        formula="cDPO of sort(l_c - l_r) - sort(reference's l_c - l_r); mean over pairs",
        source="trainer/dpo_trainer.py, loss_type='aot'",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
    ),
    "aot_unpaired": Recipe(
        compute=pairs.aot_unpaired,
        formula="cDPO of sort(a) - sort(b); mean over pairs",
        source="trainer/dpo_trainer.py, loss_type='aot_unpaired'",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
    ),
    "chosen_nll": Recipe(
        compute=pairs.chosen_nll,
        formula="-log pi; mean over all chosen answers' tokens",
        source="trainer/dpo_trainer.py, loss_type='sft'",
    ),
}
