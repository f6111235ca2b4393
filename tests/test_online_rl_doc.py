"""docs/online_rl.md: its experiment file trains as it stands."""

import json
import re

from tests.commands import cli

DOC = (cli.ROOT / "docs" / "online_rl.md").read_text()
SMALL = (
    "--config.model.layers=1",
    "--config.model.width=32",
    "--config.model.ff=32",
    "--config.data.modulus=3",
    "--config.data.prompts=64",
)


def test_the_experiment_of_the_guide_trains(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", DOC, re.S)
    file = tmp_path / "my_grpo.py"
    file.write_text(source)
    base = tmp_path / "base.py"
    base.write_text(
        source.replace("def get_config(", "def of_grpo(")
        + "\n\ndef get_config(variant=''):\n"
        + "    from alignjax.algorithms.pretrain import PretrainConfig\n"
        + "    return dataclasses.replace(of_grpo(), algorithm=PretrainConfig())\n"
    )
    steps = ("--config.loop.steps=2", "--config.loop.batch_size=8")
    cli.run("train", f"--config={base}", *SMALL, *steps, f"--workdir={tmp_path / 'base'}")
    named = (f"--config.policy={tmp_path / 'base'}", f"--workdir={tmp_path / 'grpo'}")
    cli.run("train", f"--config={file}", *SMALL, *steps, *named)
    lines = (tmp_path / "grpo" / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [0] * 8 + [1] * 8
    assert set(rows[0]["parts"]) == {"steps"}
    metrics = json.loads((tmp_path / "grpo" / "metrics.jsonl").read_text().splitlines()[-1])
    named = DOC[DOC.index("`metrics.jsonl` has") : DOC.index("## Which advantage")]
    names = {name.replace("NAME", "steps") for name in re.findall(r"`(\w+)`", named)}
    assert names <= metrics.keys()


def test_its_options_exist():
    from alignjax.algorithms import grpo

    fields = set(grpo.GrpoConfig.__dataclass_fields__)
    table = DOC[DOC.index("## Options worth knowing") :]
    named = re.findall(r"^\| (`[^|]*) \|", table, re.M)
    options = {name for cell in named for name in re.findall(r"`(\w+)`", cell)}
    assert options
    assert options <= fields
