"""Writes ppi.json: what ppi-python 0.2.3 says of labels that NumPy draws.

pip install ppi-python==0.2.3
python tests/evals/record_ppi.py
"""

import json
import pathlib

import numpy as np
import ppi_py

FILE = pathlib.Path(__file__).with_name("ppi.json")


def main() -> None:
    rng = np.random.default_rng(2)
    cases = []
    for accuracy, n, others in ((0.7, 200, 2000), (0.9, 60, 500), (0.55, 100, 100)):
        truth = rng.integers(0, 2, n + others)
        judged = np.where(rng.random(n + others) < accuracy, truth, 1 - truth).astype(float)
        y, f, rest = truth[:n].astype(float), judged[:n], judged[n:]
        case = {"labels": y.tolist(), "judged": f.tolist(), "unlabelled": rest.tolist()}
        for name, lam in (("tuned", None), ("plain", 1.0)):
            value = ppi_py.ppi_mean_pointestimate(y, f, rest, lam=lam)
            low, high = ppi_py.ppi_mean_ci(y, f, rest, alpha=0.05, lam=lam)
            case[name] = [float(np.ravel(x)[0]) for x in (value, low, high)]
        cases.append(case)
    FILE.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
