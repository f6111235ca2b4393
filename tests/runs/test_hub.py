"""The hub without a network: what a push would send and does send, and weights by id."""

import sys
import types

import pytest

from alignjax import main
from alignjax.core import errors
from alignjax.runs import hub


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 1500)
    (folder / "README.md").write_text("# m")
    (folder / ".cache").write_text("hidden")
    (folder / "link").symlink_to(tmp_path)
    return folder


@pytest.fixture
def fake(monkeypatch):
    """A package huggingface_hub that notes what it is asked; `fail` raises in its place."""
    calls, package = [], types.ModuleType("huggingface_hub")

    class Api:
        def create_repo(self, name, **how):
            calls.append(("create", name, how))

        def upload_folder(self, **how):
            if package.fail:
                raise package.fail
            calls.append(("upload", how))
            return "address of it"

    def snapshot(name, **how):
        if package.fail:
            raise package.fail
        calls.append(("snapshot", name, how))
        return "cache/models--me--m/snapshots/abc"

    package.HfApi, package.snapshot_download, package.fail = Api, snapshot, None
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    return types.SimpleNamespace(calls=calls, package=package)


def test_a_dry_run_lists_and_asks_nobody(model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # its import fails
    assert main.main(["export", f"--to={model}", "--push=me/my-model", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == [
        "README.md", "config.json", "model.safetensors"
    ]  # fmt: skip
    assert "1,500  model.safetensors" in lines[2]
    assert lines[3].strip() == "1,505  bytes in 3 files would be sent to me/my-model; none was."
    assert len(lines) == 4


def test_a_push_sends_those_files(model, fake, capsys):
    assert main.main(["export", f"--to={model}", "--push=me/m", "--private"]) == 0
    assert capsys.readouterr().out == "pushed: address of it\n"
    (_, name, how), (_, sent) = fake.calls
    assert (name, how) == ("me/m", {"private": True, "exist_ok": True})
    assert sent["folder_path"] == str(model)
    assert sent["allow_patterns"] == ["README.md", "config.json", "model.safetensors"]


def test_a_push_without_a_network_is_a_line_and_the_folder_stands(model, fake):
    fake.package.fail = ConnectionError("no route to the host\nmore")
    with pytest.raises(errors.Failure, match="is written, and not pushed to me/m: Conn") as told:
        hub.push(model, "me/m", private=False)
    assert "\n" not in str(told.value)
    assert f"--to={model} --push=me/m" in str(told.value)


def refused(capsys, *argv):
    assert main.main([*argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_what_is_wrong_is_said_before_anything_is_written(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    there = f"--to={model}"
    assert "pip install 'alignjax[hub]'" in refused(capsys, "export", there, "--push=me/m")
    for name in ("m", "me/m/x", "me/..", "me/a--b", "a b/c"):
        assert "OWNER/NAME" in refused(capsys, "export", there, f"--push={name}", "--dry_run")
    assert "must come with --push" in refused(capsys, "export", there, "--dry_run")
    assert "--license must be" in refused(capsys, "export", there, "--license=a b")
    empty = tmp_path / "empty"
    empty.mkdir()
    said = refused(capsys, "export", f"--to={empty}", "--push=me/m", "--dry_run")
    assert "without config.json" in said


def test_names_that_lie_here_are_no_ids(tmp_path, monkeypatch, fake):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    names = ("", "runs/gone", str(tmp_path / "x"), "model.gguf", "./a/b", "a/b/c", "http:a/b")
    for name in names:
        assert hub.present(name, "--model", print) == name
    assert fake.calls == []


def test_an_id_is_fetched_without_code_and_told(tmp_path, monkeypatch, fake):
    monkeypatch.chdir(tmp_path)
    lines = []
    place = hub.present("me/m", "--model", lines.append)
    assert hub.id_of(place) == "me/m"
    assert lines == [f"me/m: read from {place}"]
    ((_, name, how),) = fake.calls
    assert name == "me/m"
    assert not [p for p in how["allow_patterns"] if p.endswith((".bin", ".py", ".pt", "*"))
                and not p.startswith("LICENSE")]  # fmt: skip
    assert hub.id_of("folder/model") == ""


def test_an_id_without_network_or_package_is_one_line(tmp_path, monkeypatch, fake, capsys):
    monkeypatch.chdir(tmp_path)
    fake.package.fail = ConnectionError("unreachable")
    argv = ("sample", "--model=me/m", "--prompt=hi")
    said = refused(capsys, *argv)
    assert "'me/m', which is not on this machine, and could not be fetched: Conn" in said
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'alignjax[hub]'" in refused(capsys, *argv)
    fields = [f"--config.{name}=me/m" for name in ("weights", "data.tokenizer")]
    said = refused(capsys, "import", "--config=smollm2_sft:tiny", *fields, "--workdir=w")
    assert "--config.weights must be" in said
    (tmp_path / "here").mkdir()
    fields = ["--config.weights=here", "--config.data.tokenizer=me/m"]
    said = refused(capsys, "import", "--config=smollm2_sft:tiny", *fields, "--workdir=w")
    assert "--config.data.tokenizer must be" in said
