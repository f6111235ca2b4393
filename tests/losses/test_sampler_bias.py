"""What a correction for another sampler costs where it cuts, exactly."""

import numpy as np
import pytest

from alignjax import losses

SAMPLER, POLICY = np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.3, 0.4])
REWARD = np.array([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("beyond", "maximum", "minimum", "mean"),
    [
        ("truncate", None, None, 0.55),
        ("truncate", 2.0, None, 0.35),
        ("truncate", 3.0, None, 0.45),
        ("truncate", 10.0, None, 0.55),
        ("drop", 2.0, 0.5, 0.15),
        ("drop", 3.0, 0.5, 0.15),
    ],
)
@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_mean_reward_of_three_tokens(level, beyond, maximum, minimum, mean):
    """Rows of one token each, so that all levels are the same."""
    weight = losses.sampler_weight(
        np.log(POLICY)[:, None],
        np.log(SAMPLER)[:, None],
        level=level,
        beyond=beyond,
        maximum=maximum,
        minimum=minimum,
    )[:, 0]
    assert float(SAMPLER @ (np.asarray(weight) * REWARD)) == pytest.approx(mean, abs=1e-6)


def test_the_geometric_mean_of_a_row_of_two():
    new, old = np.log([[0.5, 0.2]]), np.log([[0.25, 0.4]])  # ratios 2 and 1/2
    found = losses.sampler_weight(new, old, level="geometric", maximum=None)
    np.testing.assert_allclose(found, [[1.0, 1.0]], atol=1e-6)
