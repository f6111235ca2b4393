"""CPOTrainer, ORPOTrainer, TPOTrainer and OnlineDPOTrainer of TRL 1.16 (trl.experimental)."""

from typing import Any

from alignjax.compat.recipe import Recipe

LOGISTIC = "-(1-e) log sig(z) - e log sig(-z), e = label_smoothing"


def _cpo(
    link: str,
    formula: str,
    *,
    loss_type: str,
    score: str = "sum",
    nll_weight: float = 1.0,
    **numbers: Any,
) -> Recipe:
    """A loss of CPOTrainer; it shapes rewards as AlphaPO does wherever alpha is set."""
    symbol = "m" if score == "mean" else "l"
    return Recipe(
        table="pairs",
        score=score,
        divergence="power",
        link=link,
        reduction="mean over pairs",
        terms=("chosen_token_nll",),
        defaults={"beta": 0.1, **numbers, "alpha": 0.0, "nll_weight": nll_weight},
        formula=f"{formula}, r = (1 - exp(-alpha {symbol})) / alpha; mean over pairs; + nll_weight "
        "times -log pi, mean over all chosen answers' tokens",
        source=f"experimental/cpo/cpo_trainer.py, loss_type={loss_type!r}",
    )


def _tpo(link: str, formula: str, *, loss_type: str, score: str = "sum", **numbers: Any) -> Recipe:
    """A loss of TPOTrainer."""
    return Recipe(
        table="pairs",
        score=score,
        link=link,
        reduction="mean over pairs",
        terms=("gold_token_nll",),
        defaults={"beta": 0.01, **numbers, "nll_weight": 1.0},
        reads=frozenset({"gold"}),
        formula=f"{formula}; mean over pairs; + nll_weight times -log pi, mean over all gold "
        "answers' tokens",
        source=f"experimental/tpo/tpo_trainer.py, loss_type={loss_type!r}",
    )


def _online(link: str, formula: str, *, loss_type: str) -> Recipe:
    """A loss of OnlineDPOTrainer."""
    return Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link=link,
        reduction="mean over pairs",
        defaults={"beta": 0.1},
        reads=frozenset({"reference"}),
        formula=f"{formula}; mean over pairs of two samples, of which the one with the higher "
        "reward is chosen",
        source=f"experimental/online_dpo/online_dpo_trainer.py, loss_type={loss_type!r}",
    )


SIMPO = f"{LOGISTIC}, z = beta (r_c - r_r) - target_margin"

RECIPES = {
    "cpo": _cpo(
        "logistic", f"{LOGISTIC}, z = beta (r_c - r_r)", loss_type="sigmoid", label_smoothing=0.0
    ),
    "cpo_hinge": _cpo("hinge", "max(0, 1 - beta (r_c - r_r))", loss_type="hinge"),
    "cpo_ipo": _cpo("squared", "(r_c - r_r - 1/(2 beta))^2", loss_type="ipo", score="mean"),
    "simpo": _cpo(
        "logistic_margin",
        SIMPO,
        loss_type="simpo",
        score="mean",
        target_margin=0.5,
        label_smoothing=0.0,
    ),
    "alphapo": _cpo(
        "logistic_margin",
        SIMPO,
        loss_type="alphapo",
        score="mean",
        nll_weight=0.0,
        target_margin=0.5,
        label_smoothing=0.0,
    ),
    "orpo": Recipe(
        table="pairs",
        score="mean",
        link="odds_ratio",
        reduction="mean over pairs",
        terms=("sequence_token_nll",),
        term="odds_ratio",
        reads=frozenset({"prompt"}),
        formula="-ratio_weight log sig(log odds(m_c) - log odds(m_r)), odds(m) = e^m / (1 - e^m); "
        "mean over pairs; + -log pi, mean over all tokens of prompts and chosen answers",
        source="experimental/orpo/orpo_trainer.py",
        defaults={"ratio_weight": 0.1},
    ),
    "tpo": _tpo(
        "logistic", f"{LOGISTIC}, z = beta (l_c - l_r)", loss_type="sigmoid", label_smoothing=0.0
    ),
    "tpo_hinge": _tpo("hinge", "max(0, 1 - beta (l_c - l_r))", loss_type="hinge"),
    "tpo_ipo": _tpo("squared", "(m_c - m_r - 1/(2 beta))^2", loss_type="ipo", score="mean"),
    "tpo_l": _tpo(
        "logistic_margin",
        f"{LOGISTIC}, z = beta (m_c - m_r) - target_margin",
        loss_type="tpo-l",
        score="mean",
        target_margin=0.5,
        label_smoothing=0.0,
    ),
    "online_dpo": _online("logistic", "-log sig(beta (a - b))", loss_type="sigmoid"),
    "online_ipo": _online(
        "squared", "(a - b - 1/(2 beta))^2, log-ratios summed over tokens", loss_type="ipo"
    ),
}
