"""Pairs of samples for three updates: the first two answers of each prompt of `updates.samples`.

The first is the policy's; the second is another of the policy (online DPO), of the reference (XPO)
or of their mixture (Nash-MD). They are the same in all three updates, as are their rewards, of
which no two are equal; log-probabilities are those of the policy as it moves.
"""

from typing import Any

import numpy as np

from tests.conformance import updates

SIZE = 2


def pairs() -> dict[str, Any]:
    """prompts: lists of ids; answers: two lists of ids for each; rewards [P, 2]."""
    given = updates.samples()
    answers = [given["answers"][p * updates.SAMPLES :][:SIZE] for p in range(updates.PROMPTS)]
    return {
        "prompts": given["prompts"],
        "answers": answers,
        "rewards": np.asarray(given["rewards"][:, :SIZE], np.float32),
    }
