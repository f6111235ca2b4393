"""MiniLLM: the gradient of a sequence's reverse KL, in an exact part and a clipped one."""

import dataclasses

from alignjax.algorithms import opd


@dataclasses.dataclass(kw_only=True)
class MiniLlmConfig(opd.OpdConfig):
    """KL(student || teacher) of whole answers: exact at each token, by samples for what follows it.

    The paper's third device, sampling from a mixture with the teacher, is not here: every sample is
    the student's own.
    """

    method: str = "ppo_clip"
    credit: str = opd.LATER
    single_step: float = 1.0


MiniLlmConfig.METHOD = opd.record("minillm")
