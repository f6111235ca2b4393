"""How prompts become rows to train on: the options that all methods on groups of samples share."""

import dataclasses
from typing import Any, ClassVar

from alignjax import compat as presets
from alignjax.core import shapes
from alignjax.envs import env as envs
from alignjax.rewards import process
from alignjax.rewards import rules as rule_configs
from alignjax.sampling import transforms

NO_BASELINE = "no_baseline"  # the reward itself is the advantage
# Estimators that do not compare the samples of a group: it may be one sample.
ALONE = (NO_BASELINE, "remax", "reinforce_plus_plus", "flash_reinforce")
SCALES = ("", "none", "group", "batch")


@dataclasses.dataclass(kw_only=True)
class ScoringConfig:
    """What completions are scored by: rules, a reward model, the data's own reward, or a sum."""

    REWARDS: ClassVar[tuple[str, ...]] = ("rules", "model", "gold")

    reward: str = "rules"  # rules | model (the trained reward model) | gold (the data's own)
    reward_weight: float = 1.0  # of the model or the data's reward, beside rules
    steps: str = process.LOWEST  # joins a process reward model's steps: product | min | last
    rules: dict[str, rule_configs.RuleConfig] = dataclasses.field(default_factory=dict)
    eval_samples: int = 1  # completions of each eval prompt, for pass@1, 2, 4, ... up to so many
    solved_from: float = 1.0  # reward from which a completion counts as solved in pass@k
    max_failures: float = (
        0.05  # share of a step's rows whose verifier may fail before the run stops
    )

    def validate_reward(self) -> None:
        shapes.check_choice("algorithm.reward", self.reward, self.REWARDS)
        shapes.check_number("algorithm.reward_weight", self.reward_weight)
        shapes.check_choice("algorithm.steps", self.steps, process.JOINED)
        shapes.check_number("algorithm.max_failures", self.max_failures, minimum=0, maximum=1)
        shapes.check_number("algorithm.eval_samples", self.eval_samples, minimum=1)
        shapes.check_number("algorithm.solved_from", self.solved_from)
        if self.reward == "rules" and not self.rules:
            raise ValueError(
                "algorithm.rules must name at least one rule where reward=rules; got none "
                "(algorithm). Add rewards.rules.ExactNumber() or alike, or use reward=model."
            )
        for rule in self.rules.values():
            rule.validate()

    @property
    def part_names(self) -> tuple[str, ...]:
        """The parts that the reward is a sum of."""
        own = () if self.reward == "rules" else (self.reward,)
        return (*own, *self.rules)

    @property
    def part_weights(self) -> tuple[float, ...]:
        """Their weights."""
        own = () if self.reward == "rules" else (self.reward_weight,)
        return (*own, *(rule.weight for rule in self.rules.values()))


@dataclasses.dataclass(kw_only=True)
class GroupConfig(ScoringConfig):
    """Groups of samples: how many, which are trained on, and what their advantages are.

    loop.batch_size counts the prompts drawn for a step. `curriculum` times fewer of them are
    sampled, and of those the first informative ones are trained on, `candidates` times fewer again.
    """

    REWARDS: ClassVar[tuple[str, ...]] = (*ScoringConfig.REWARDS, "env")  # its episodes' returns
    compat: str = "paper"  # whose estimator of advantages
    group: int = 8  # G, samples of each prompt
    advantages: str = "group_relative"  # estimator of the preset, or no_baseline
    scale: str = ""  # std to divide by: group | batch | none; "": the release's; paper: none
    kl_in_reward: float = 0.0  # beta: reward units per nat of log pi/ref, taken from rewards
    dead: str = "count"  # groups of equal rewards: count (in the mean, as 0) | drop (from it)
    candidates: float = 1.0  # prompts sampled per prompt trained on: dynamic sampling above 1
    curriculum: float = 1.0  # prompts drawn per prompt sampled: by difficulty above 1
    curriculum_decay: float = 0.7  # of the running pass rate of a prompt, at each visit
    curriculum_floor: float = 0.02  # added to p (1 - p): solved and hopeless prompts stay alive
    overlong: str = "keep"  # rows cut at the limit: keep | mask (leave the group) | soft (penalty)
    overlong_buffer: int = 0  # tokens before the limit in which the soft penalty grows to 1
    correction: str = "off"  # for sampler and trainer that differ: off | truncate | mask
    correction_level: str = "token"  # whose ratio: token | sequence | geometric
    correction_maximum: float = 2.0  # of the ratio of trainer to sampler
    replay: int = 0  # newest informative groups kept, to stand in for those without signal
    lag: int = 0  # steps that the sampling policy is behind: 0 or 1, always
    patience: int = 5  # steps in a row without one informative group before the run stops
    pack: bool = False  # short rows side by side in networks' passes, of a prompt read once
    epochs: int = 1  # passes over each collected batch
    minibatches: int = 1  # updates a pass
    max_drift: float = 0.0  # nats a token between sampler and trainer; 0 is 1e-3 in fp32, 0.5 else
    env: envs.EnvConfig | None = None  # answers the samples, turn by turn; None: one turn
    sampling: transforms.SamplingConfig = dataclasses.field(
        default_factory=lambda: transforms.SamplingConfig(max_new_tokens=128)
    )

    def validate_groups(self) -> None:
        """Raises ValueError where an option is wrong."""
        self.validate_reward()
        self.sampling.validate()
        self._check_env()
        for name in ("group", "patience", "epochs", "minibatches"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=1)
        for name in ("candidates", "curriculum", "correction_maximum"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=1)
        for name in ("kl_in_reward", "max_drift", "overlong_buffer", "replay"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=0)
        shapes.check_number("algorithm.curriculum_decay", self.curriculum_decay, minimum=0, below=1)
        shapes.check_number("algorithm.curriculum_floor", self.curriculum_floor, above=0)
        shapes.check_choice("algorithm.dead", self.dead, ("count", "drop"))
        shapes.check_choice("algorithm.overlong", self.overlong, ("keep", "mask", "soft"))
        shapes.check_choice("algorithm.correction", self.correction, ("off", "truncate", "mask"))
        shapes.check_choice(
            "algorithm.correction_level", self.correction_level, ("token", "sequence", "geometric")
        )
        shapes.check_choice("algorithm.lag", str(self.lag), ("0", "1"))
        shapes.check_choice("algorithm.advantages", self.advantages, estimators())
        shapes.check_choice("algorithm.scale", self.scale, SCALES)
        self._check_together()

    def _check_env(self) -> None:
        if self.env is not None:
            self.env.validate()
        elif self.reward == "env":
            raise ValueError(
                "algorithm.env must be an environment where reward=env; got None (algorithm). Set "
                "it, envs.games.GuessNumber() or one of your own."
            )

    @property
    def new_tokens(self) -> int:
        """Tokens of a row behind its prompt at most: sampled, and observed between."""
        answer = self.sampling.max_new_tokens
        return answer if self.env is None else self.env.new_tokens(answer)

    @property
    def most_sampled(self) -> int:
        """Tokens sampled for a row at most, over all turns."""
        return self.sampling.max_new_tokens * (1 if self.env is None else self.env.limit)

    def _check_together(self) -> None:
        """Refuses options that do not go together."""
        if self.group < 2 and self.advantages not in ALONE:
            raise ValueError(
                f"algorithm.group must be at least 2 for advantages={self.advantages}, which "
                f"compares the samples of a prompt; got {self.group} (algorithm). Raise it, or use "
                f"advantages={' or '.join(ALONE)}."
            )
        if self.sampling.is_truncated:
            raise ValueError(
                "algorithm.sampling must not cut tokens off (top_k, top_p, temperature 0): the "
                "policy gradient is of the whole distribution; got "
                f"top_k={self.sampling.top_k}, top_p={self.sampling.top_p}, "
                f"temperature={self.sampling.temperature}. Set top_k=0, top_p=1, temperature>0."
            )
        if self.overlong == "soft":
            shapes.check_number(
                "algorithm.overlong_buffer for overlong=soft",
                self.overlong_buffer,
                minimum=1,
                maximum=self.most_sampled,
            )
        recipe = self.credit
        by_part = recipe is not None and "reward_weights" in recipe.reads
        if by_part and (self.kl_in_reward or self.overlong == "soft"):
            raise ValueError(
                f"algorithm.kl_in_reward and overlong=soft must be off for advantages="
                f"{self.advantages}, which takes each part of the reward by itself; got "
                f"{self.kl_in_reward:g} and {self.overlong} (algorithm). Use the loss's kl_weight, "
                "and the rule SoftOverlong."
            )
        if (self.lag or self.replay) and self.correction == "off":
            raise ValueError(
                f"algorithm.correction must be truncate or mask where lag={self.lag} and "
                f"replay={self.replay}: samples are of an earlier policy; got off (algorithm). Set "
                "--config.algorithm.correction=truncate."
            )
        if by_part and self.replay:
            raise ValueError(
                f"algorithm.replay must be 0 for advantages={self.advantages}, which takes each "
                f"part of the reward by itself; got {self.replay} (algorithm). Leave it out."
            )
        self.estimator_options()

    @property
    def credit(self) -> presets.Recipe | None:
        """How advantages are estimated; None where rewards are advantages."""
        if self.advantages == NO_BASELINE:
            return None
        return estimator(self.compat, self.advantages)

    @property
    def reads_greedy(self) -> bool:
        """Whether a greedy answer to each prompt is the baseline."""
        return self.credit is not None and "greedy_rewards" in self.credit.reads

    def estimator_options(self) -> dict[str, Any]:
        """The numbers that the preset's estimator takes from this configuration.

        Raises:
          ValueError: the preset has no such estimator, or it cannot divide by that spread.
        """
        recipe = self.credit
        if recipe is None:
            return {}
        options: dict[str, Any] = {}
        if "kl_weight" in recipe.defaults:
            options["kl_weight"] = self.kl_in_reward
        scale = recipe.defaults.get("scale")
        if not self.scale:
            # A division by the group's own spread weighs prompts by difficulty: chosen, not given.
            return (
                {**options, "scale": False}
                if scale is True and recipe.name.startswith("paper ")
                else options
            )
        if scale is None and self.scale != "none":
            raise ValueError(
                f"algorithm.scale must be empty for {recipe.name}, which divides by no standard "
                f"deviation; got {self.scale!r} (algorithm). Leave it out."
            )
        if isinstance(scale, str):
            options["scale"] = self.scale
        elif scale is not None:
            options["scale"] = self.scale != "none"
            if "spread" in recipe.defaults and self.scale != "none":
                options["spread"] = self.scale
        return options

    def prompts_trained(self, prompts: int) -> tuple[int, int]:
        """(prompts sampled, prompts trained on) of so many prompts.

        Raises:
          ValueError: they are no whole numbers.
        """
        sampled = prompts / self.curriculum
        trained = sampled / self.candidates
        if sampled != int(sampled) or trained != int(trained):
            raise ValueError(
                "loop.batch_size must be a multiple of curriculum x candidates; got "
                f"{prompts} for {self.curriculum:g} x {self.candidates:g} (loop). Change one."
            )
        return int(sampled), int(trained)

    def echo_groups(self) -> str:
        """What of this is not seen in the loss's formula, for the log."""
        parts = "+".join(
            f"{weight:g} {name}"
            for name, weight in zip(self.part_names, self.part_weights, strict=True)
        )
        credit, recipe = "advantage = reward", self.credit
        if recipe is not None:
            credit = f"advantages {recipe.echo(**self.estimator_options())}"
        own = [
            "group",
            "dead",
            "candidates",
            "curriculum",
            "overlong",
            "kl_in_reward",
            "correction",
            "replay",
            "lag",
            "pack",
            "epochs",
            "minibatches",
            "env",
            "sampling",
        ]
        numbers = ", ".join(f"{name}={getattr(self, name)}" for name in own)
        return f"{credit}; reward {parts}; {numbers}"


def estimator(compat: str, name: str) -> presets.Recipe:
    """How a preset estimates advantages; those that a release lacks are the papers'.

    Raises:
      ValueError: no preset has it.
    """
    there = name in presets.PRESETS.get(compat, {})
    return presets.recipe(compat if there else "paper", name, table="estimates")


def estimators() -> tuple[str, ...]:
    """Names of the estimators of advantages from rewards alone, of any preset."""
    recipes = [pair for methods in presets.PRESETS.values() for pair in methods.items()]
    found = {
        name
        for name, recipe in recipes
        if recipe.table == "estimates"
        and "rewards" in recipe.reads
        and "values" not in recipe.reads
    }
    return (*sorted(found), NO_BASELINE)
