"""From a file of answers to a trained model, by the commands of docs/feedback.md."""

import json

import pytest

from tests.commands import cli
from tests.data.test_files import pairs, write
from tests.web import conftest


@pytest.mark.slow
def test_judgements_train_a_reward_model(tmp_path):
    given = [
        {"prompt": row["prompt"], "answers": [row["chosen"], row["rejected"]]} for row in pairs(40)
    ]
    better = {row["prompt"]: row["chosen"] for row in pairs(40)}
    path = write(tmp_path / "answers.jsonl", given)
    place = str(tmp_path / "f.db")
    asked = tmp_path / "project.json"
    asked.write_text(json.dumps({"overlap": 0, "gold": 0, "repeats": 0}))
    assert "collected: 40 new" in cli.run(
        "collect", f"--answers={path}", f"--database={place}", f"--project={asked}"
    )
    own = conftest.start(place)
    while (held := own.call("next", {})[1])["assignment"] is not None:
        is_first = held["answers"][0] == better[held["turns"][0]["text"]]
        choice = "first" if is_first else "second"
        judged = [{"kind": "choice", "payload": {"choice": choice}}]
        sent = {"assignment": held["assignment"], "key": held["item"], "judgements": judged}
        assert own.call("submit", sent)[0] == 200
    assert own.stop() == 0
    assert "rater-1 (person): 40 items" in cli.run("agreement", f"--database={place}")
    out = cli.run("harvest", f"--database={place}", f"--to={tmp_path}/rows", "--holdout=0.2")
    assert "choice: 40 of 40 judgements become rows" in out
    common = (
        f"--config.data.path={tmp_path}/rows", "--config.data.names=pairs.*",
        "--config.data.vocab_size=330",
    )  # fmt: skip
    config = "experiments/own_data.py"
    cli.run("train", f"--config={config}:sft-micro", *common, f"--workdir={tmp_path}/sft")
    cli.run(
        "train", f"--config={config}:reward-micro", *common, f"--config.policy={tmp_path}/sft",
        f"--workdir={tmp_path}/reward",
    )  # fmt: skip
    lines = (tmp_path / "reward" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["bradley_terry"] for line in lines]
    assert losses[-1] < losses[0]
