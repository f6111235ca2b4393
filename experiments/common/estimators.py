"""Estimators of critic-free reinforcement learning at equal samples: 16 prompts of 8 a step."""

from alignjax.algorithms.grpo import GrpoConfig
from alignjax.algorithms.policy_gradient import PolicyGradientConfig
from alignjax.algorithms.reinforce import ReinforceConfig
from alignjax.sampling.transforms import SamplingConfig


def estimators(longest: int) -> dict[str, PolicyGradientConfig]:
    """Every estimator by its name, for chains of up to `longest` steps."""
    own = {"group": 8, "reward": "gold", "eval_samples": 4}
    sampling = {"sampling": SamplingConfig(max_new_tokens=longest + 1)}

    def reinforce(name: str) -> PolicyGradientConfig:
        return ReinforceConfig(advantages=name, **own, **sampling)

    return {
        "grpo": GrpoConfig(method="grpo", scale="group", kl_weight=0.0, **own, **sampling),
        "dr_grpo": GrpoConfig(method="dr_grpo", **own, **sampling),
        "dapo": GrpoConfig(method="dapo", scale="group", **own, **sampling),
        "gspo": GrpoConfig(method="gspo", scale="group", **own, **sampling),
        "max_rl": GrpoConfig(method="dapo", advantages="max_rl", **own, **sampling),
        "opo": GrpoConfig(method="dapo", advantages="opo", **own, **sampling),
        "rloo": reinforce("leave_one_out"),
        "remax": reinforce("remax"),
        "reinforce_plus_plus": reinforce("reinforce_plus_plus"),
        "reinforce": reinforce("no_baseline"),
    }
