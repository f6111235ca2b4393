"""What a run of GRPO refuses and what stops it: one line, its exit code, nothing written."""

import pytest

from alignjax import main
from tests.commands import cli
from tests.rollouts import chain_runs

OWN_RULES = '''
@dataclasses.dataclass(kw_only=True)
class Short(rules.RuleConfig):
    """Says too little."""

    def score(self, texts, tasks):
        return np.zeros(max(len(texts) - 1, 0), np.float32)


@dataclasses.dataclass(kw_only=True)
class First(rules.RuleConfig):
    """Scores a row by the row that came first."""

    def score(self, texts, tasks):
        return np.full(len(texts), len(texts[0]), np.float32)


@dataclasses.dataclass(kw_only=True)
class Words(rules.RuleConfig):
    """Says words."""

    def score(self, texts, tasks):
        return ["good"] * len(texts)


@dataclasses.dataclass(kw_only=True)
class Picky(rules.RuleConfig):
    """Raises on texts of numbers."""

    def score(self, texts, tasks):
        def one(text, task):
            if any(word.isdigit() for word in text.split()) and "<" not in text:
                raise RuntimeError("no numbers, please")
            return float(len(text))

        return rules.per_text(one, texts, tasks)


@dataclasses.dataclass(kw_only=True)
class Same(rules.RuleConfig):
    """Says one number of everything."""

    def score(self, texts, tasks):
        return np.full(len(texts), 0.25, np.float32)
'''


def train(tmp_path, start, capsys, changes, *words):
    """(exit code, stdout, stderr lines) of the command in this process."""
    workdir = tmp_path / "run"
    file = chain_runs.write(tmp_path, start, changes, OWN_RULES)
    capsys.readouterr()
    code = main.main(["train", f"--config={file}", f"--workdir={workdir}", *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err.splitlines()


def refused(tmp_path, start, capsys, changes, *words):
    """The line of a command that leaves with 2 before it writes anything."""
    code, _, err = train(tmp_path, start, capsys, changes, *words)
    assert code == 2, err
    assert len(err) == 1, err
    assert err[0].startswith("alignjax: error: ")
    assert not (tmp_path / "run").exists()
    return err[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["group=1"], "algorithm.group must be at least 2 for advantages=group_relative"),
        (["sampling.top_k=5"], "algorithm.sampling must not cut tokens off"),
        (["sampling.temperature=0.0"], "algorithm.sampling must not cut tokens off"),
        (["lag=1"], "algorithm.correction must be truncate or mask where lag=1"),
        (["lag=2"], "algorithm.lag must be one of 0, 1"),
        (["overlong=soft"], "algorithm.overlong_buffer for overlong=soft must be"),
        (["dead=forget"], "algorithm.dead must be one of count, drop"),
        (["candidates=0.5"], "algorithm.candidates must be finite and >= 1"),
        (["curriculum=0.0"], "algorithm.curriculum must be finite and >= 1"),
        (["curriculum_decay=1.0"], "algorithm.curriculum_decay must be"),
        (["max_failures=2.0"], "algorithm.max_failures must be"),
        (["patience=0"], "algorithm.patience must be"),
        (["correction=trim"], "algorithm.correction must be one of off, truncate, mask"),
        (["advantages=rloo"], "algorithm.advantages must be one of"),
        (["advantages=leave_one_out", "scale=group"], "algorithm.scale must be empty for"),
        (["advantages=gdpo", "kl_in_reward=0.1"], "takes each part of the reward by itself"),
        (["method=grpoo"], "Did you mean 'grpo'?"),
        (["method=gspo", "clip_lo=0.1"], "Did you mean --config.algorithm.clip_low=0.1"),
        (["method=gspo", "maximum_ratio=2.0"], "option of paper gspo must be one of"),
        (["method=gspo", "advantages=otb"], "must be of whole samples for paper gspo"),
        (["method=gspo", "correction=mask"], "Use correction_level=sequence"),
        (["method=dapo_per_prompt", "pack=true"], "pack off for paper dapo_per_prompt"),
        (["method=dapo_per_prompt", "epochs=2"], "minibatches must be 1 and pack off"),
        (["method=grpo", "compat=tunix-0.1.7"], "estimator must be k2 or k3 in a loss"),
        (["reward=best"], "algorithm.reward must be one of"),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, list) else "",
)
def test_a_wrong_option(tmp_path, capsys, words, says):
    """Before the data and the run that it starts from are read: neither is there."""
    words = [f"--config.algorithm.{word}" for word in words]
    assert says in refused(tmp_path, tmp_path / "none", capsys, "", *words)


def rule(text):
    return f"config.algorithm.rules = {{'mine': {text}}}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("config.algorithm.rules = {}", "algorithm.rules must name at least one rule"),
        (rule("rules.Length()"), "Length must have a target > 0 or a column with it"),
    ],
)
def test_wrong_rules(tmp_path, capsys, changes, says):
    assert says in refused(tmp_path, tmp_path / "none", capsys, changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (rule("rules.ExactNumber(answer='solution')"), "rows must have the column 'solution'"),
        (rule("rules.Boxed(answer='steps')") + "\nconfig.algorithm.rules['mine'].answer = 'x'",
         "rows must have the column 'x' that the rule mine reads"),
        (rule("rules.ExactNumber()"), "must be able to read the answers of 99 % of rows"),
        (rule("Short()"), "must return one score for each text"),
        (rule("Words()"), "the rule mine must return numbers"),
        (rule("First()"), "must score every row by itself"),
        (rule("code.Code()"), "without --allow_code"),
        ("config.algorithm.candidates = 3.0", "must be a multiple of curriculum x candidates"),
        ("config.algorithm.curriculum = 1.5", "got 8 for 1.5 x 1 (loop)"),
        ("config.loop.micro_batches = 3", "must be a multiple of minibatches x loop.micro_batches"),
        (
            "config.algorithm.method = 'dapo_per_prompt'\nconfig.loop.micro_batches = 2",
            "loop.micro_batches must be 1 for a loss that is coupled",
        ),
        ("config.policy = '/nowhere'", "must be the folder of a finished run; got /nowhere"),
    ],
    ids=lambda x: "",
)  # fmt: skip
def test_what_the_data_do_not_fit(tmp_path, capsys, chain_start, changes, says):
    assert says in refused(tmp_path, chain_start, capsys, changes)


# --- runs that stop -----------------------------------------------------------------------------


def command(tmp_path, start, changes, code, *words):
    """(stdout, stderr lines) of the command on one device."""
    file = chain_runs.write(tmp_path, start, changes, OWN_RULES)
    process = cli.start("train", f"--config={file}", f"--workdir={tmp_path / 'run'}", *words)
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in out + err
    assert process.returncode == code, (out, err)
    return out, err.splitlines()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (rule("Same()") + "\nconfig.algorithm.patience = 2\nconfig.loop.steps = 9",
         "2 steps in a row had none: mean reward 0.25, 100% of groups all at 0.25"),
        pytest.param(
            rule("Picky()"), "failed: mine: RuntimeError: no numbers, please (row",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "config.algorithm.max_drift = 1e-12", "the limit is 1e-12 (max_drift)",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["patience", "failures", "drift"],
)  # fmt: skip
def test_a_run_that_stops_says_why_and_leaves_with_1(tmp_path, chain_start, changes, says):
    _, err = command(tmp_path, chain_start, changes, 1)
    said = [line for line in err if line.startswith("alignjax: error: ")]
    assert said == err[-1:], err  # behind the lines of the log
    assert says in said[0]


@pytest.mark.slow
def test_a_part_that_never_moves_is_a_line_of_the_log(tmp_path, chain_start):
    changes = "config.algorithm.rules['same'] = Same(weight=0.5)\nconfig.loop.steps = 21"
    out, err = command(tmp_path, chain_start, changes, 0)
    said = [line for line in (*out.splitlines(), *err) if "teaches nothing" in line]
    assert len(said) == 1, (out, err)
    assert "the reward's part same was 0.25 on every row of 20 steps" in said[0]


@pytest.mark.slow
def test_code_runs_once_it_is_allowed(tmp_path, chain_start):
    """The rule is there; rows of this world hold no programs to try."""
    file = chain_runs.write(tmp_path, chain_start, rule("code.Code()"), OWN_RULES)
    workdir = f"--workdir={tmp_path / 'run'}"
    process = cli.start("train", f"--config={file}", workdir, "--allow_code")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "without --allow_code" not in err
    assert "rows must have the column" in err
