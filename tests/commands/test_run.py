"""`alignjax run`, and every command on what it leaves behind."""

import json
import shutil
import time

import numpy as np
import pytest

from alignjax import main
from tests.commands import cli
from tests.commands.test_collect import query

STAGES = {"pretrain": 30, "sft": 10, "reward": 20, "dpo-1": 10, "ppo-0.3": 4, "ppo-gold-1": 4}


def call(capsys, *argv):
    """(exit code, stdout, stderr lines) of a command in this process."""
    capsys.readouterr()
    code = main.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err.splitlines()


def test_the_lifecycle_leaves_a_report_and_numbers(micro):
    for name in ("report.html", "curves.png", "frontier.png", "results.json", "config.json"):
        assert (micro.folder / name).stat().st_size > 500, name
    assert (micro.folder / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    results = json.loads((micro.folder / "results.json").read_text())
    labels = [row["label"] for row in results["rows"]]
    assert labels[:5] == ["pretrained", "SFT", "DPO β=1", "PPO on RM β=0.3", "PPO on gold β=1"]
    for row in results["rows"]:
        for name, cell in row["metrics"].items():
            assert np.isfinite(cell["value"]), (row["label"], name)
            assert cell["se"] >= 0, (row["label"], name)
    sft = results["rows"][1]["metrics"]
    assert abs(sft["kl"]["value"]) < 1e-5
    assert "PPO on gold" in micro.printed
    assert "report.html" in micro.printed
    page = (micro.folder / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "exact optimum" in page
    assert "command: alignjax run --config=experiments/lifecycle.py:micro" in page
    # SFT has not learned the generator here: the page says so, and what bounds its policies.
    assert "nats a token from the generator" in page
    assert results["frontier"]["is_bound"] is False
    own = results["frontier"]["own"]
    assert own["gold"][0] == pytest.approx(sft["gold"]["value"])
    assert own["gold"] == sorted(own["gold"])
    assert all(sample["prompt"] for sample in results["samples"])


def test_every_stage_has_one_row_a_step(micro):
    for stage, steps in STAGES.items():
        lines = (micro.folder / stage / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["step"] for row in rows] == list(range(steps)), stage
        assert all(isinstance(row["loss"], float) and row["skipped"] == 0 for row in rows), stage
        assert any((micro.folder / stage / "tensorboard").iterdir())
    first = {s: json.loads((micro.folder / s / "metrics.jsonl").open().readline()) for s in STAGES}
    assert abs(first["dpo-1"]["dpo"] - np.log(2)) < 1e-3
    assert abs(first["reward"]["bradley_terry"] - np.log(2)) < 1e-6
    assert abs(first["ppo-0.3"]["kl"]) < 1e-3
    assert first["ppo-0.3"]["kl_coefficient"] == np.float32(0.3)
    assert first["ppo-0.3"]["drift"] < 1e-3


def test_learning_happens_even_here(micro):
    rows = [json.loads(x) for x in (micro.folder / "pretrain/metrics.jsonl").open()]
    assert rows[-1]["nll"] < rows[0]["nll"] - 0.3
    rows = [json.loads(x) for x in (micro.folder / "dpo-1/metrics.jsonl").open()]
    assert rows[-1]["margin"] > 0


def test_a_rerun_is_quick_and_changes_nothing(micro):
    before, begin = cli.contents(micro.folder), time.monotonic()
    cli.run("run", *micro.options, f"--workdir={micro.folder}")
    seconds = time.monotonic() - begin
    after = cli.contents(micro.folder)
    assert before.keys() == after.keys()
    old, new = (json.loads(found["results.json"]) for found in (before, after))
    assert old["rows"] == new["rows"]
    assert old["samples"] == new["samples"]
    may_change = ("results.json", "report.html")  # they tell how long this run took
    for name, content in before.items():
        assert name in may_change or content == after[name], name
    assert seconds < 60


def test_a_changed_lifecycle_is_refused(micro, capsys):
    before = cli.contents(micro.folder)
    code, _, err = call(
        capsys, "run", *micro.options, "--config.pretrain.optim.learning_rate=0.5",
        f"--workdir={micro.folder}",
    )  # fmt: skip
    assert code == 2
    assert len(err) == 1
    assert "pretrain.optim.learning_rate: 0.003 there, 0.5 now" in err[0]
    assert cli.contents(micro.folder) == before


@pytest.mark.parametrize(
    ("stage", "numbers"),
    [
        ("sft", ["nats a token"]),
        ("reward", ["pair accuracy"]),
        pytest.param(
            "dpo-1",
            ["pair accuracy", "gold reward", "KL to the reference, nats", "ended"],
            marks=pytest.mark.slow,
        ),
        ("ppo-0.3", ["gold reward", "reward model score", "KL to the reference, nats"]),
    ],
)
def test_evaluate(micro, capsys, stage, numbers):
    cli_args = (f"--workdir={micro.folder / stage}", "--rows=128", "--json")
    found = json.loads(cli.run("evaluate", *cli_args))
    assert set(numbers) <= found.keys()
    for value in found.values():
        assert np.isfinite(value["value"])
        assert value["n"] >= 100
    if stage == "sft":
        rows = [json.loads(x) for x in (micro.folder / "sft/metrics.jsonl").open()]
        assert abs(found["nats a token"]["value"] - rows[-1]["nll"]) < 0.3
    if stage == "ppo-0.3":
        assert 0 <= found["KL to the reference, nats"]["value"] < 3


def test_sample_follows_its_seed(micro):
    argv = ("sample", f"--workdir={micro.folder / 'sft'}", "--count=3", "--max_new_tokens=5")
    one, other = (cli.run(*argv, f"--seed={seed}") for seed in (0, 1))
    assert one != other
    assert sum(line.startswith("> ") for line in one.splitlines()) == 3


def test_report_is_made_again(micro, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("results.json", "config.json"):
        shutil.copy(micro.folder / name, copy / name)
    for stage in STAGES:
        (copy / stage).mkdir()
        shutil.copy(micro.folder / stage / "metrics.jsonl", copy / stage)
    code, out, _ = call(capsys, "report", f"--workdir={copy}")
    assert code == 0
    assert "PPO on gold" in out
    assert (copy / "report.html").exists()


def test_verify_says_which_checkpoint_is_bad(micro, tmp_path, capsys):
    run = tmp_path / "sft"
    shutil.copytree(micro.folder / "sft", run)
    code, out, _ = call(capsys, "verify", f"--workdir={run}")
    assert (code, out.splitlines()) == (0, ["checkpoint 8: good", "checkpoint 10: good"])
    data = max((run / "checkpoints/10").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 16
    data.write_bytes(content)
    before = cli.contents(run)
    code, out, _ = call(capsys, "verify", f"--workdir={run}")
    lines = out.splitlines()
    assert code == 1
    assert lines[0] == "checkpoint 8: good"
    assert lines[1].startswith("checkpoint 10: ")
    assert len(lines) == 2
    assert cli.contents(run) == before


# --- what is refused: one line, exit 2, nothing written --------------------------------------


def refused(capsys, workdir, *argv):
    code, out, err = call(capsys, *argv)
    assert code == 2, err
    assert not out
    assert len(err) == 1, err
    assert err[0].startswith("alignjax: error: ")
    assert not workdir.exists()
    return err[0]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--config.pretrain.loop.step=3", "Did you mean"),
        ("--config.pretrain.loop.steps=three", "three"),
        ("--config.pretrain.loop.steps=0", "loop.steps"),
        ("--config.pretrain.loop.steps=-1", "loop.steps"),
        ("--config.sft.optim.learning_rate=nan", "learning_rate"),
        ("--config.sft.optim.learning_rate=inf", "learning_rate"),
        ("--config.reward.optim.schedule=cosin", "Did you mean 'cosine'"),
        ("--config.ppo.algorithm.clip=1.5", "algorithm.clip"),
        ("--config.ppo.algorithm.sampling.top_k=5", "must not cut tokens off"),
        ("--config.dpo_betas=(0.0,)", "dpo_betas"),
        ("--config.model.head_dim=3", "model.head_dim"),
        ("--config.mesh.data=3", "must multiply to"),
        ("--config.data.eval_rows=0", "eval_rows"),
        ("pretrain", "must begin with --"),
        ("--wrkdir=x", "Did you mean --workdir"),
        ("--config.seed=-1", "seed"),
    ],
)
def test_a_wrong_option_of_a_lifecycle(tmp_path, capsys, word, says):
    workdir = tmp_path / "run"
    config = "--config=experiments/lifecycle.py:micro"
    assert says in refused(capsys, workdir, "run", config, f"--workdir={workdir}", word)


def test_wrong_commands_configs_and_folders(tmp_path, capsys):
    none = tmp_path / "none"
    work = f"--workdir={none}"
    assert "Did you mean 'train'" in refused(capsys, none, "trian", work)
    assert "variants" in refused(
        capsys, none, "run", "--config=experiments/lifecycle.py:macro", work
    )
    assert "lifecycles.py" in refused(capsys, none, "run", "--config=experiments/lifecycles.py")
    lifecycle = "--config=experiments/lifecycle.py:micro"
    assert "Use `alignjax run`" in refused(capsys, none, "train", lifecycle, work)
    for command in ("evaluate", "sample", "report", "verify"):
        assert "--workdir must be the folder of a run" in refused(capsys, none, command, work)
    file = tmp_path / "file"
    file.write_text("x")
    assert "got the file" in refused(capsys, none, "run", lifecycle, f"--workdir={file}")


def experiment_file(tmp_path, body):
    file = tmp_path / "one.py"
    file.write_text(
        "from alignjax.algorithms import dpo, ppo, reward, sft\n"
        "from alignjax.runs.experiment import Experiment\n"
        "from alignjax.training.loop import LoopConfig\n"
        "from alignjax.worlds.corpus import ReviewConfig\n"
        "DATA = ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=8)\n"
        f"def get_config(variant=''):\n    return Experiment({body})\n"
    )
    return f"--config={file}"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("algorithm=dpo.DpoConfig()", "policy must name the folder"),
        ("algorithm=dpo.DpoConfig(), policy='missing'", "got missing, which holds none"),
        ("algorithm=ppo.PpoConfig(), policy='missing'", "reward must name the folder"),
        ("algorithm=reward.RewardConfig(), data=DATA", "data.pairs must be the file of pairs"),
        ("data=DATA, loop=LoopConfig(batch_size=63, micro_batches=2)", "got 63 for 1 x 2"),
        ("data=DATA, loop=LoopConfig(batch_size=12)", "must be a multiple of the mesh's batch"),
    ],
)
def test_a_wrong_experiment(tmp_path, capsys, body, says):
    """In this process there are 8 devices, and the default mesh takes them all."""
    workdir = tmp_path / "run"
    config = experiment_file(tmp_path, body)
    assert says in refused(capsys, workdir, "train", config, f"--workdir={workdir}")


def test_a_start_of_the_wrong_kind(micro, tmp_path):
    workdir = tmp_path / "run"
    for body, says in (
        ("policy={f!r} + '/reward'", "policy must be the run of a language model"),
        ("policy={f!r} + '/sft', reward={f!r} + '/sft'", "reward must be the run of a reward"),
        ("policy={f!r} + '/sft'", " must be that of the run to start from"),
    ):
        size = "" if "that of the run" in says else "small"
        text = body.format(f=str(micro.folder))
        algorithm = "ppo.PpoConfig()" if "reward=" in body else "dpo.DpoConfig()"
        config = experiment_file(tmp_path, f"algorithm={algorithm}, data=DATA, {text}")
        if size:
            file = tmp_path / "one.py"
            model = (
                "model=TransformerConfig(width=32, heads=2, kv_heads=1, head_dim=16, ff=64, "
                "layers=1, unroll=1), "
            )
            code = file.read_text().replace("Experiment(algorithm", f"Experiment({model}algorithm")
            file.write_text("from alignjax.models.config import TransformerConfig\n" + code)
        process = cli.start("train", config, f"--workdir={workdir}")
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert says in err
        assert len(err.splitlines()) == 1
        assert not workdir.exists()


def test_train_refuses_another_configuration_and_takes_harmless_changes(micro, tmp_path):
    run = tmp_path / "sft"
    shutil.copytree(micro.folder / "sft", run)
    before = cli.contents(run)
    changes = "config.optim.learning_rate, config.seed = 0.25, 9"
    config = cli.stage_config(tmp_path, micro.folder / "sft", changes)
    process = cli.start("train", f"--config={config}", f"--workdir={run}")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert "config.optim.learning_rate: 0.001 there, 0.25 now" in err
    assert "config.seed: 0 there, 9 now" in err
    assert cli.contents(run) == before
    config = cli.stage_config(tmp_path, micro.folder / "sft", "config.loop.log_every = 3")
    assert "finished" in cli.run("train", f"--config={config}", f"--workdir={run}")
    assert cli.stored_checksums(run) == cli.stored_checksums(micro.folder / "sft")


def test_collect_asks_two_runs_the_same_prompts(micro, tmp_path, capsys):
    place = tmp_path / "f.db"
    runs = [str(micro.folder / name) for name in ("sft", "dpo-1")]
    options = (
        f"--workdir={','.join(runs)}", f"--database={place}", "--count=12", "--candidates=4",
        "--max_new_tokens=8",
    )  # fmt: skip
    code, out, _ = call(capsys, "collect", *options)
    assert (code, "new items of" in out) == (0, True)
    items = query(place, "select id, source from item")
    assert 6 <= len(items) <= 12
    for _, source in items:
        first, second = json.loads(source)["runs"]
        assert (first["run"], second["run"]) == tuple(runs)
        assert len(first["checkpoint"]) == 64
        assert first["checkpoint"] != second["checkpoint"]
        assert first["sampling"]["max_new_tokens"] == 8
    models = {m.split("@")[0] for (m,) in query(place, "select distinct model from candidate")}
    assert models == set(runs)
    (lowest, highest) = query(place, "select min(logprob), max(logprob) from candidate")[0]
    assert -100 < lowest < highest <= 0
    assert "0 new items" in call(capsys, "collect", *options)[1]  # one seed, the same samples
    for wrong, says in (
        (f"--workdir={micro.folder / 'reward'}", "must be the run of a language model"),
        ("--candidates=1", "--candidates must be finite and >= 2"),
        (f"--prompts={place}", "must be"),
    ):
        words = [w for w in options if w.partition("=")[0] != wrong.partition("=")[0]]
        code, _, error = call(capsys, "collect", *words, wrong)
        assert (code, len(error)) == (2, 1)
        assert says in error[0]
