"""Writes social_choice.json: what pref-voting 1.18 and choix 0.4 say of tables that NumPy draws.

pip install pref-voting==1.18.2 choix==0.4.1
python tests/feedback/record_social_choice.py
"""

import json
import pathlib

import choix
import numpy as np
from pref_voting import margin_based_methods, profiles, scoring_methods

FILE = pathlib.Path(__file__).with_name("social_choice.json")


def case(rng: np.random.Generator, n: int, voters: int) -> dict:
    """Strict rankings of `voters` voters, an odd number: margins are never 0, lotteries unique."""
    orders = [rng.permutation(n).tolist() for _ in range(voters)]
    profile = profiles.Profile(orders)
    wins = np.array([[profile.support(i, j) for j in range(n)] for i in range(n)], float)
    pairs = [(i, j) for i in range(n) for j in range(n) for _ in range(int(wins[i, j]))]
    lottery = margin_based_methods.maximal_lottery(profile)
    return {
        "wins": wins.tolist(),
        "borda": [scoring_methods.borda_ranking(profile).rmap[i] for i in range(n)],
        "copeland": [profile.copeland_scores()[i] for i in range(n)],
        "lottery": [float(lottery.get(i, 0.0)) for i in range(n)],
        "bradley_terry": choix.opt_pairwise(n, pairs, tol=1e-12).tolist(),
    }


def main() -> None:
    rng = np.random.default_rng(9)
    cases = [case(rng, n, voters) for n, voters in ((3, 7), (3, 5), (4, 9), (5, 15), (6, 11))]
    while len(cases) < 8:  # three without a Condorcet winner: lotteries that are mixed
        found = case(rng, 4, 7)
        if max(found["lottery"]) < 1:
            cases.append(found)
    FILE.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
