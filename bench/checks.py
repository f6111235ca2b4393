"""Whether all arms do the same work: trained numbers, tokens, and losses of the same rows."""

import math

from bench import processes, workloads

SAME = 1e-4  # nats between losses of the same weights and rows, by other orders of summation
LEVEL = 0.1  # nats between means over other rows of one law


def parameters(case: workloads.Case) -> int:
    """Numbers that are trained in a case."""
    one = case.model.parameters
    return {"rm": one + case.model.width, "ppo": 2 * one + case.model.width}.get(
        case.workload.kind, one
    )


def sizes(arm: processes.Arm) -> None:
    """Refuses an arm that trains another number of parameters.

    Raises:
      SystemExit: naming both.
    """
    if arm.parameters != (wanted := parameters(arm.case)):
        raise SystemExit(
            f"{arm.name} must train {wanted} numbers in {arm.case.name} on {arm.case.model_name}; "
            f"it trains {arm.parameters}."
        )


def step(arms: list[processes.Arm], number: int, *, every: bool = False) -> None:
    """Refuses arms that differ in step `number`, which all have just done.

    Tokens are compared with the workload's, and losses of the first step with one another: W1, W2
    and W3 are the same function of the same rows in every code base. every: also losses of later
    steps, on weights that each has updated itself.

    Raises:
      SystemExit: naming what differs.
    """
    case, losses = arms[0].case, {}
    uneven = case.workload.kind == "sft" and case.workload.lengths is not None
    for arm in arms:
        turn = arm.turns[number]
        if not (uneven and arm.name == "alignjax") and turn["tokens"] != case.tokens(number):
            raise SystemExit(
                f"{arm.name} must count {case.tokens(number)} tokens in step {number} of "
                f"{case.name}; it counts {turn['tokens']}."
            )
        if case.workload.part == "training":
            losses[arm.name] = turn["loss"]
    if not losses or (number and not every):
        return
    limit, ours = LEVEL if uneven else SAME, next(iter(losses.values()))
    if not all(abs(loss - ours) <= limit for loss in losses.values()):
        raise SystemExit(
            f"losses of {case.name} on {case.model_name} must agree within {limit:g} nats in step "
            f"{number}; got {losses}."
        )
    if case.workload.kind == "dpo" and number == 0:
        for name, loss in losses.items():
            if not abs(loss - math.log(2)) <= SAME:
                raise SystemExit(f"the first loss of {name} must be log 2 in DPO; got {loss}.")
