"""The shape of the code: what may import what, how long files and functions are, what is absent."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from tests.commands import cli

ROOT = cli.ROOT
PACKAGE = ROOT / "alignjax"
# A module may import from layers above it in this list, and from its own part; parts that stand in
# one line do not import one another.
LAYERS = [
    {"core"},
    {"experiments"},  # where they are, and no more
    {"losses", "parallel", "text"},
    {"models", "data", "compat"},
    {"worlds"},
    {"training"},
    {"sampling"},
    {"rewards", "envs"},
    {"rollouts"},
    {"feedback"},
    {"evals"},
    {"redteam", "search"},
    {"algorithms"},
    {"runs"},
    {"lifecycles", "reporting", "cli", "planning", "serving"},
    {"web", "sweeps"},
    {"commands"},
    {"main"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
FILE_LIMIT = 400
FUNCTION_LIMIT = 60
LONG: dict[str, int] = {}
CONFIG_FILES = PACKAGE / "core" / "source_file.py"  # runs the files that --config names
SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERY = [
    file
    for folder in ("alignjax", "experiments", "tests")
    for file in sorted((ROOT / folder).rglob("*.py"))
]


def part_of(file: pathlib.Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: pathlib.Path) -> set[str]:
    """Modules that a file names, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own_parts(file: pathlib.Path) -> set[str]:
    """Parts of alignjax that a file imports."""
    parts = {name.split(".")[1] for name in imports(file) if name.startswith("alignjax.")}
    return parts & LEVEL.keys()


def test_every_part_has_a_layer():
    assert {part_of(file) for file in SOURCES} - {"__init__"} == LEVEL.keys()


@pytest.mark.parametrize("part", sorted(LEVEL))
def test_imports_go_downward(part):
    wrong = []
    for file in SOURCES:
        if part_of(file) != part:
            continue
        for other in own_parts(file) - {part}:
            if LEVEL[other] >= LEVEL[part]:
                wrong.append(f"{file.relative_to(ROOT)} imports {other}")
    assert not wrong


# Packages of extras: where alone each may be imported.
EXTRAS = {
    "starlette": ("web/", "serving/http/"),
    "uvicorn": ("web/", "serving/http/"),
    "prometheus_client": ("serving/http/",),
    "jinja2": ("web/", "text/jinja_worker.py"),
    "sqlalchemy": ("feedback/schema.py", "feedback/store/"),
    "psycopg": (),
    "langdetect": ("text/languages.py",),
    "lm_eval": ("evals/harness.py",),
    "bm25s": ("data/retrieval.py",),
    "huggingface_hub": ("runs/hub.py",),
    "wandb": ("training/trackers.py",),
    "mlflow": ("training/trackers.py",),
    "trackio": ("training/trackers.py",),
}


def test_extras_are_imported_in_their_rooms_alone():
    for file in SOURCES:
        own = str(file.relative_to(PACKAGE))
        roots = {name.split(".")[0] for name in imports(file)}
        wrong = {n for n in roots & EXTRAS.keys() if not own.startswith(EXTRAS[n] or ("-",))}
        assert not wrong, f"{own} imports {wrong}"


def test_models_know_no_text_and_data_no_parameters():
    for file in SOURCES:
        if part_of(file) == "models":
            assert "data" not in own_parts(file), file
        if part_of(file) == "data":
            assert not own_parts(file) & {"models", "losses", "training"}, file


# What the rest of the package must not know by name: methods and corpora are records.
KNOWING = ("algorithms", "worlds", "data", "compat", "losses")


def test_no_method_or_corpus_is_known_by_name():
    """Outside algorithms/, data layouts and worlds/ none is imported, nor its class named."""
    from alignjax.runs import kinds

    classes = [*kinds.methods(), *kinds.data_configs()]
    shipped = [kind for kind in classes if kind.__module__.startswith("alignjax.")]
    assert len(shipped) > 10
    modules = {kind.__module__ for kind in shipped}
    names = re.compile(rf"\b({'|'.join(kind.__name__ for kind in shipped)})\b")
    for file in SOURCES:
        if part_of(file) in KNOWING:
            continue
        text = file.read_text()
        allowed = ALLOWED.get(str(file.relative_to(PACKAGE)), set())
        assert not set(names.findall(text)) - allowed, file
        assert not (imports(file) & modules) - {f"alignjax.{name}" for name in allowed}, file
        compared = re.findall(r"[!=]= \"(\w+)\"|in \(((?:\"\w+\",? ?)+)\)", text)
        methods = {kind.METHOD.name for kind in shipped if hasattr(kind, "METHOD")}
        assert not {name for name, _ in compared} & methods, f"{file} asks for a method"


# An import makes a run of open weights, an experiment without data has a world's, and a game is
# played in the tokens of its world.
ALLOWED = {
    "envs/games.py": {"worlds.guess"},
    "runs/exchange.py": {"ImportedConfig", "algorithms.imported"},
    "runs/experiment.py": {"worlds.corpus"},
    "lifecycles/lifecycle.py": {"worlds.corpus"},
}


def test_experiments_import_alignjax_and_not_one_another():
    for file in sorted((ROOT / "experiments").glob("*.py")):
        others = {n for n in imports(file) if "experiments." in n}
        assert all(n.startswith("alignjax.experiments.common") for n in others), file


def test_nothing_of_the_package_imports_tests_or_experiments():
    for file in SOURCES:
        roots = {name.split(".")[0] for name in imports(file)}
        assert not roots & {"tests", "experiments"}, file
        assert not [n for n in imports(file) if re.match(r"alignjax\.experiments\.[a-z]", n)], file


def test_files_are_short():
    long = {str(f.relative_to(ROOT)): n for f in SOURCES if (n := lines(f)) > FILE_LIMIT}
    assert not long


def lines(file: pathlib.Path) -> int:
    return len(file.read_text().splitlines())


def own_lines(node: ast.AST) -> int:
    """Lines of a function without those of the functions inside it."""
    inner = [n for n in ast.walk(node) if n is not node and isinstance(n, ast.FunctionDef)]
    inside = {line for n in inner for line in range(n.lineno, n.end_lineno + 1)}
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return 0
    return sum(line not in inside for line in range(body[0].lineno, node.end_lineno + 1))


def functions() -> dict[str, int]:
    found = {}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                name = f"{file.relative_to(ROOT)} {node.name}"
                found[name] = max(own_lines(node), found.get(name, 0))
    return found


def test_functions_are_short():
    found = functions()
    long = {name: n for name, n in found.items() if n > LONG.get(name, FUNCTION_LIMIT)}
    assert not long
    assert sorted(found.values())[len(found) // 2] <= 15


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("alignjax.losses", "flax tensorflow optax orbax grain tensorboardX matplotlib"),
        ("alignjax.models.transformer", "flax tensorflow optax orbax sentencepiece"),
        (
            "alignjax.main",
            "flax tensorflow optax orbax sentencepiece tensorflow_datasets sqlalchemy",
        ),
        ("alignjax.feedback.database", "sqlalchemy starlette uvicorn jinja2"),
        ("alignjax.commands.train", "tensorflow tensorflow_datasets matplotlib"),
    ],
)
def test_imports_stay_light(module, absent):
    code = f"import sys, {module}; print(*[m for m in {absent.split()!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=cli.environment(), text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert found.stdout.split() == []


def test_no_pickle_anywhere():
    """R49: weights and data are read by formats that run no code."""
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}
    for file in SOURCES:
        assert not {name.split(".")[0] for name in imports(file)} & banned, file
        text = file.read_text()
        assert not re.search(r"allow_pickle\s*=\s*True|yaml\.load\(", text), file
        assert file == CONFIG_FILES or not re.search(r"\b(eval|exec)\(", text), file
        for call in re.findall(r"np\.load\([^\n]*", text):
            assert "allow_pickle=False" in call, f"{file}: {call}"


# Files that nobody else wrote, and texts that are no files; others go through core/untrusted.py.
READS = {
    "cli/outcome.py": {"os.open"},  # the null device
    "commands/check_data.py": {"os.open"},  # the null device
    "commands/common.py": {"read_bytes"},  # the package's own sources
    "data/cache_files.py": {"read_bytes"},  # copies a file of a bucket, as large as it is
    "data/row_recipe.py": {"json.loads"},  # of a record whose checksum was found right
    "data/shard.py": {"open", "os.open"},  # by place, after check_regular
    "data/scan.py": {"np.load"},  # of bytes whose hash was found right
    "data/storage.py": {"open"},  # of a bucket
    "data/speakers.py": {"json.loads"},  # what this process wrote
    "core/untrusted.py": {"np.load", "open", "os.open"},
    "parallel/processes.py": {"json.loads", "read_bytes"},  # what the other processes of a run say
    "planning/planner.py": {"read_text"},  # what the compiler wrote into a fresh folder
    "rewards/processes.py": {"open"},  # of /proc
    "rewards/program.py": {"json.load", "os.open"},  # inside of a sandbox
    "rewards/worker.py": {"os.open"},  # the null device
    "runs/ownership.py": {"os.open"},  # a lock, of which some bytes are read
    "runs/records.py": {"json.loads"},  # what this process wrote
    "text/jinja_worker.py": {"json.loads"},  # what the process that started it says
}
READERS = ("json.load", "json.loads", "np.load", "np.fromfile", "os.open", "open")
METHODS = ("read_text", "read_bytes", "open")


def reads(file: pathlib.Path) -> set[str]:
    """Calls that read a file or parse JSON; writing ones are none."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name, last = ast.unparse(node.func), ast.unparse(node.func).rpartition(".")[2]
        modes = [ast.unparse(a) for a in (*node.args, *(k.value for k in node.keywords))]
        if last == "open" and any(re.fullmatch(r"'[wax]b?\+?b?'", mode) for mode in modes):
            continue
        if name in READERS:
            found.add(name)
        is_read = last != "open" or any(re.fullmatch(r"'r?b?'", mode) for mode in modes)
        if last in METHODS and "." in name and not name.startswith(("untrusted.", "os.")):
            found |= {last} if is_read else set()
    return found


def test_what_others_wrote_is_read_in_one_place():
    """R52: kind of file, size, and depth of JSON are bounded by `core.untrusted` alone."""
    found = {str(file.relative_to(PACKAGE)): own for file in SOURCES if (own := reads(file))}
    wrong = {name: own - READS.get(name, set()) for name, own in found.items()}
    assert not {name: own for name, own in wrong.items() if own}
    assert not {name for name, own in READS.items() if own - found.get(name, set())}


# A judge that a user names by its address; nothing else of the package asks a network.
ASKS_A_NETWORK = {
    "rewards/remote_judge.py": {"urllib"},
    "runs/hub.py": {"huggingface_hub"},  # of a user's --push, and models named by their id
    "feedback/client.py": {"http", "urllib"},  # a program that judges by the page's requests
    "serving/http/listening.py": {
        "socket"
    },  # opens what it listens on, to say in one line if it can't
}


def test_no_network_and_no_paths_of_one_machine():
    clients = {"requests", "urllib", "http", "socket", "httpx", "aiohttp", "huggingface_hub"}
    # Written in two parts, so that this file is not its own finding.
    hosts = re.compile(r"(https?|gs|s3)" + r"://(?!example\.)")
    paths = re.compile(r"[\"'\s(=](/" + r"(home|work|Users|root|mnt|content)/\w)")
    for file in SOURCES:
        used = {name.split(".")[0] for name in imports(file)} & clients
        assert used <= ASKS_A_NETWORK.get(str(file.relative_to(PACKAGE)), set()), file
    for file in EVERY:
        text = file.read_text()
        if file.is_relative_to(PACKAGE):
            assert not hosts.search(text), f"{file}: {hosts.search(text)}"
        assert not paths.search(text), f"{file}: {paths.search(text)}"


def test_samplers_are_given_every_end_of_an_answer():
    # `eos` is what trained answers end with; a model's folder may name more ids that end one.
    alone = re.compile(r"eos=\(?(task|corpus|run\.corpus|self\.corpus|form)\.eos(_id)?\b")
    for folder in ("alignjax", "experiments"):
        for file in sorted(pathlib.Path(folder).rglob("*.py")):
            if file.parts[:2] == ("alignjax", "data") or file.name == "assembly.py":
                continue  # which pass it on
            assert not alone.search(file.read_text()), file
