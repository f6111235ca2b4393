"""Groups in a file train a policy by group_dpo from the command line."""

import json

import pytest

from tests.commands import cli
from tests.data.test_files import pairs, write


@pytest.mark.slow
def test_groups_of_a_file_are_weighed_by_their_losses(tmp_path):
    rows = [{**row, "group": ("india", "italy")[n % 2]} for n, row in enumerate(pairs(30))]
    path = write(tmp_path / "rows.jsonl", rows)
    config = "experiments/own_data.py"
    common = (f"--config.data.path={path}", "--config.data.vocab_size=330")
    cli.run("train", f"--config={config}:sft-micro", *common, f"--workdir={tmp_path}/sft")
    robust = (
        "train", f"--config={config}:group-micro", *common, f"--config.policy={tmp_path}/sft",
        f"--workdir={tmp_path}/group",
    )  # fmt: skip
    process = cli.start(*robust)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "Traceback" not in error
    assert "must have the column group" in error.splitlines()[-1]
    process = cli.start(*robust, "--config.data.groups=italy,india")
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert "groups: italy = 0, india = 1" in out + error
    lines = (tmp_path / "group" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["group 0 weight"] + last["group 1 weight"] == pytest.approx(1, abs=1e-5)
    stored = (tmp_path / "group" / "config.json").read_text()
    assert "italy,india" in stored
