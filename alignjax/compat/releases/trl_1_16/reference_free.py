"""CPOTrainer, ORPOTrainer, TPOTrainer and OnlineDPOTrainer of TRL 1.16 (trl.experimental)."""

from collections.abc import Callable
from typing import Any

import jax

from alignjax import losses
from alignjax.compat import pairs, reference_free
from alignjax.compat.recipe import Arrays, Recipe, Terms

LOGISTIC = "-(1-e) log sig(z) - e log sig(-z), e = label_smoothing"


def _logistic(chosen: jax.Array, rejected: jax.Array, **options: Any) -> jax.Array:
    """-log sig(beta (s_c - s_r)), smoothed."""
    return losses.cpo(chosen, rejected, nll_weight=0.0, **options)


def _cpo(
    link: Callable[..., Any],
    formula: str,
    *,
    loss_type: str,
    per_token: bool = False,
    nll_weight: float = 1.0,
    **options: float,
) -> Recipe:
    score = "m" if per_token else "l"
    return Recipe(
        compute=reference_free.shaped(link, per_token=per_token),
        formula=f"{formula}, r = (1 - exp(-alpha {score})) / alpha; mean over pairs; + nll_weight "
        "times -log pi, mean over all chosen answers' tokens",
        source=f"experimental/cpo/cpo_trainer.py, loss_type={loss_type!r}",
        defaults={"beta": 0.1, **options, "alpha": 0.0, "nll_weight": nll_weight},
    )


def _tpo(
    link: Callable[..., Any],
    formula: str,
    *,
    loss_type: str,
    per_token: bool = False,
    **options: float,
) -> Recipe:
    return Recipe(
        compute=reference_free.with_gold(link, per_token=per_token),
        formula=f"{formula}; mean over pairs; + nll_weight times -log pi, mean over all gold "
        "answers' tokens",
        source=f"experimental/tpo/tpo_trainer.py, loss_type={loss_type!r}",
        defaults={"beta": 0.01, **options, "nll_weight": 1.0},
    )


def _online(link: Callable[..., Any], formula: str, *, loss_type: str) -> Recipe:
    def compute(arrays: Arrays, *, beta: float) -> Terms:
        return pairs.reduced(link(*pairs.log_ratios(arrays), beta=beta), arrays)

    return Recipe(
        compute=compute,
        formula=f"{formula}; mean over pairs of two samples, of which the one with the higher "
        "reward is chosen",
        source=f"experimental/online_dpo/online_dpo_trainer.py, loss_type={loss_type!r}",
        defaults={"beta": 0.1},
    )


SIMPO = f"{LOGISTIC}, z = beta (r_c - r_r) - target_margin"

RECIPES = {
    "cpo": _cpo(
        _logistic, f"{LOGISTIC}, z = beta (r_c - r_r)", loss_type="sigmoid", label_smoothing=0.0
    ),
    "cpo_hinge": _cpo(losses.hinge, "max(0, 1 - beta (r_c - r_r))", loss_type="hinge"),
    "cpo_ipo": _cpo(losses.ipo, "(r_c - r_r - 1/(2 beta))^2", loss_type="ipo", per_token=True),
    "simpo": _cpo(
        losses.simpo,
        SIMPO,
        loss_type="simpo",
        per_token=True,
        target_margin=0.5,
        label_smoothing=0.0,
    ),
    "alphapo": _cpo(
        losses.simpo,
        SIMPO,
        loss_type="alphapo",
        per_token=True,
        nll_weight=0.0,
        target_margin=0.5,
        label_smoothing=0.0,
    ),
    "orpo": Recipe(
        compute=reference_free.orpo,
        formula="-ratio_weight log sig(log odds(m_c) - log odds(m_r)), odds(m) = e^m / (1 - e^m); "
        "mean over pairs; + -log pi, mean over all tokens of prompts and chosen answers",
        source="experimental/orpo/orpo_trainer.py",
        defaults={"ratio_weight": 0.1},
    ),
    "tpo": _tpo(
        _logistic, f"{LOGISTIC}, z = beta (l_c - l_r)", loss_type="sigmoid", label_smoothing=0.0
    ),
    "tpo_hinge": _tpo(losses.hinge, "max(0, 1 - beta (l_c - l_r))", loss_type="hinge"),
    "tpo_ipo": _tpo(losses.ipo, "(m_c - m_r - 1/(2 beta))^2", loss_type="ipo", per_token=True),
    "tpo_l": _tpo(
        losses.simpo,
        f"{LOGISTIC}, z = beta (m_c - m_r) - target_margin",
        loss_type="tpo-l",
        per_token=True,
        target_margin=0.5,
        label_smoothing=0.0,
    ),
    "online_dpo": _online(losses.dpo, "-log sig(beta (a - b))", loss_type="sigmoid"),
    "online_ipo": _online(
        losses.ipo, "(a - b - 1/(2 beta))^2, log-ratios summed over tokens", loss_type="ipo"
    ),
}
