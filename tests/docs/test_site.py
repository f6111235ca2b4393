"""The documentation: its pages in the navigation, its links, its tutorials as they stand."""

import importlib.util
import re
import subprocess
import sys

import pytest
import yaml

from tests.commands import cli

DOCS = cli.ROOT / "docs"
SITE = yaml.safe_load((cli.ROOT / "mkdocs.yml").read_text())
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


def _hook():
    spec = importlib.util.spec_from_file_location("site_links", DOCS / "hooks" / "links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


links = _hook()


def named(nav):
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in named(entry)]


def test_every_page_is_in_the_navigation_once():
    assert sorted(named(SITE["nav"])) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_repository(page):
    text = (DOCS / page).read_text()
    for link in links.links(text):
        assert links.target(page, link)


def test_links_to_files_outside_are_right_in_both_places():
    text = "[a](../CHANGELOG.md) [b](data.md#x) [c](feedback/choice.png) [d](#e) [f](mailto:x)"
    assert links.rewritten("index.md", text) == text.replace(
        "../CHANGELOG.md", "source/CHANGELOG.md"
    )
    assert links.rewritten("api/data.md", "[a](../../README.md)") == "[a](../source/README.md)"
    assert links.rewritten("api/data.md", "[a](../papers.md#b)") == "[a](../papers.md#b)"
    assert links.rewritten("source/README.md", "[a](docs/data.md)") == "[a](../data.md)"
    assert links.rewritten("source/bench/README.md", "[a](run.py)") == "[a](run.py)"
    assert links.outside("index.md", text) == {"source/CHANGELOG.md"}
    code = "```\n[a](gone.md)\n```\n"
    assert links.rewritten("index.md", code) == code
    for link in ("gone.md", "../../outside.md"):
        with pytest.raises(ValueError, match="links must lead to files"):
            links.rewritten("index.md", f"[a]({link})")


def test_the_reference_names_modules_that_are_there():
    for page in PAGES:
        for name in re.findall(r"^::: (\S+)$", (DOCS / page).read_text(), re.MULTILINE):
            place = cli.ROOT / name.replace(".", "/")
            assert place.with_suffix(".py").is_file() or place.is_dir(), name


def test_the_reference_has_every_public_loss():
    """A module of losses that `alignjax.losses` takes names from has its place on the page."""
    source = (cli.ROOT / "alignjax/losses/__init__.py").read_text()
    wanted = set(re.findall(r"^from (alignjax\.losses\.\w+) import", source, re.MULTILINE))
    shown = set(re.findall(r"^::: (\S+)$", (DOCS / "api/losses.md").read_text(), re.MULTILINE))
    assert wanted <= shown


def test_the_glossary_is_in_order_and_says_each_word_once():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    words = [row.strip().lower() for row in rows[1:]]
    assert len(words) > 40
    assert words == sorted(set(words))


@pytest.mark.parametrize(("name", "blocks"), [("own_layout", 3), ("own_reward", 3), ("index", 1)])
def test_tutorials_run_as_they_stand(tmp_path, name, blocks):
    assert cli.run_blocks(DOCS / f"{name}.md", tmp_path) == blocks


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), [("own_family", 3), ("own_experiment", 1)])
def test_dear_tutorials_run_as_they_stand(tmp_path, name, blocks):
    assert cli.run_blocks(DOCS / f"{name}.md", tmp_path) == blocks


@pytest.mark.slow
def test_the_experiment_of_the_tutorial_trains_and_has_arms(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", (DOCS / "own_experiment.md").read_text(), re.S)
    file = tmp_path / "my_sft.py"
    file.write_text(source)
    cli.run("train", f"--config={file}:tiny", f"--workdir={tmp_path / 'run'}")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    printed = cli.run(
        "sweep", f"--config={file}:tiny", f"--workdir={tmp_path / 'arms'}", "--print=slurm"
    )
    assert "--config.optim.learning_rate=0.0001" in printed


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is of the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path / 'site'}"],
        cwd=cli.ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    site = tmp_path / "site"
    assert "losses.preference.dpo" in (site / "api" / "losses.html").read_text()
    assert (site / "source" / "CHANGELOG.html").is_file()
    for page in site.rglob("*.html"):
        assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', page.read_text()), page
