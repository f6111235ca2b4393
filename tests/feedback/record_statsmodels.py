"""Writes statsmodels.json: what statsmodels 0.15 says of tables that NumPy draws.

    pip install statsmodels==0.15.0, then: python tests/feedback/record_statsmodels.py

statsmodels is too large for the quick tests; its numbers are recorded once.
"""

import json
import pathlib

import numpy as np
from statsmodels.stats import inter_rater, proportion

FILE = pathlib.Path(__file__).with_name("statsmodels.json")


def tables() -> list[np.ndarray]:
    """Ratings [R, N] without gaps, 2 to 5 raters, 2 to 6 categories."""
    rng = np.random.default_rng(5)
    found = []
    for raters, categories in ((2, 2), (2, 4), (3, 3), (5, 6)):
        truth = rng.integers(0, categories, 60)
        noise = rng.integers(0, categories, (raters, 60))
        found.append(np.where(rng.random((raters, 60)) < 0.4, noise, truth))
    return found


def main() -> None:
    cases = []
    for ratings in tables():
        counted, _ = inter_rater.aggregate_raters(ratings.T)
        square = inter_rater.to_table(ratings[:2].T)[0]
        cases.append(
            {
                "ratings": ratings.tolist(),
                "fleiss": inter_rater.fleiss_kappa(counted),
                "cohen": inter_rater.cohens_kappa(square, return_results=False),
            }
        )
    shares = [
        {"hits": hits, "n": n, "ends": list(proportion.proportion_confint(hits, n, method="beta"))}
        for hits, n in ((0, 10), (7, 10), (10, 10), (676, 760))
    ]
    FILE.write_text(json.dumps({"tables": cases, "shares": shares}) + "\n")


if __name__ == "__main__":
    main()
