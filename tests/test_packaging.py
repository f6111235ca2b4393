"""What is installed: the lock file fits setup.py, and the files around the code agree with it."""

import re
from importlib import metadata

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import alignjax
from tests.commands import cli

LOCK = (cli.ROOT / "requirements.lock").read_text()


def asked(extra: str) -> list[Requirement]:
    """What an extra of alignjax installs, "" for none, with the extras that it names."""
    found = []
    for line in metadata.requires("alignjax") or []:
        one = Requirement(line)
        if bool(extra) != ("extra" in str(one.marker)):
            continue
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        inner = [asked(name) for name in one.extras] if one.name == "alignjax" else [[one]]
        found += [each for part in inner for each in part]
    return found


def locked() -> dict[str, list[str]]:
    """The versions of each package in the lock file: more than one where Pythons differ."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", LOCK, re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


def test_the_lock_file_holds_all_that_is_asked_for():
    kept, wanted = locked(), [*asked(""), *asked("dev")]
    assert len(wanted) > 30
    for one in wanted:
        versions = kept.get(canonicalize_name(one.name), [])
        assert versions, f"{one} is not in requirements.lock (CONTRIBUTING.md says how it is made)"
        assert any(one.specifier.contains(v) for v in versions), f"{one}: {versions}"


def test_every_pinned_package_has_its_hashes_and_no_place():
    entries = re.split(r"^(?=[\w.-]+(?:\[[^]]*\])?==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert not [e.split()[0] for e in entries if "--hash=sha256:" not in e]
    assert "://" not in LOCK


def test_the_files_around_the_code_agree_with_it():
    cited = yaml.safe_load((cli.ROOT / "CITATION.cff").read_text())
    assert cited["version"] == alignjax.__version__
    jobs = yaml.safe_load((cli.ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    versions = [one["python"] for one in jobs["quick"]["strategy"]["matrix"]["include"]]
    assert versions == ["3.11", "3.12"]
    hooks = yaml.safe_load((cli.ROOT / ".pre-commit-config.yaml").read_text())
    assert [hook["id"] for hook in hooks["repos"][0]["hooks"]] == ["ruff-check", "ruff-format"]
