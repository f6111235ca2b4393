"""One estimator of critic-free reinforcement learning from a base that knows some of ChainWorld."""

import dataclasses

from alignjax.algorithms.policy_gradient import PolicyGradientConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.core import shapes
from alignjax.experiments.common.arms import ArmsLifecycle
from alignjax.experiments.common.estimators import estimators
from alignjax.experiments.common.human import trained_by
from alignjax.lifecycles import lifecycle
from alignjax.runs.experiment import Training
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.chain import ChainConfig

POLICY = "policy"  # the stage that the estimator trains


@dataclasses.dataclass(kw_only=True)
class CriticFree(lifecycle.Lifecycle):
    """taught -> base -> policy: arms differ in the last stage alone."""

    data: ChainConfig = dataclasses.field(default_factory=ChainConfig)
    taught: Training = trained_by(SftConfig)
    base: Training = trained_by(PretrainConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)  # of the policy
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)  # of the policy
    estimator: str = "grpo"  # a name of common.estimators
    group: int = 8  # samples a prompt
    reach: float = 0.8  # mean reward to which the policy's steps are counted

    def validate(self) -> None:
        super().validate()
        shapes.check_choice("estimator", self.estimator, tuple(estimators(self.data.longest)))
        shapes.check_number("group", self.group, minimum=2)

    def method(self) -> PolicyGradientConfig:
        """What trains the policy."""
        return dataclasses.replace(estimators(self.data.longest)[self.estimator], group=self.group)

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        policy = Training(algorithm=self.method(), optim=self.optim, loop=self.loop)
        stages = (
            lifecycle.Stage("taught", self.taught),
            lifecycle.Stage("base", self.base, policy="taught"),
            lifecycle.Stage(POLICY, policy, policy="base"),
        )
        shown = ArmsLifecycle(
            title="ChainWorld: critic-free reinforcement learning",
            seed=self.seed,
            model=self.model,
            data=self.data,
            mesh=self.mesh,
            eval_batch=self.eval_batch,
            stages=stages,
            arms=(POLICY,),
            reach=self.reach,
        )
        shown.validate()
        return shown.course(space)
