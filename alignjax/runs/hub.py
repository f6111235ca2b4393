"""Models on the hub of huggingface: folders uploaded, and weights by their id.

The only part that asks that network, and through its own package alone. Code and pickled weights
are neither fetched nor sent.
"""

import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax.core import errors

ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
FETCHED = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*")
INSTALL = "Run pip install 'alignjax[hub]'"
TIMEOUT = 10  # seconds for the hub's first answer


class Upload(NamedTuple):
    """A file that a push sends: its name in the repository, and its bytes."""

    name: str
    size: int


def check_id(name: str, option: str) -> None:
    """Raises ValueError where a name is no OWNER/NAME of the hub."""
    if not ID.fullmatch(name) or ".." in name or "--" in name:
        raise ValueError(
            f"{option} must be OWNER/NAME of a repository; got {name!r:.120}. Letters, digits, "
            "'-', '_' and '.' are legal."
        )


def uploads(folder: pathlib.Path) -> list[Upload]:
    """The files that a push of a model's folder sends, by name; links are none of them.

    Raises:
      ValueError: it is no model's folder.
    """
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"a folder to push must hold a model or adapters, as alignjax export writes them; got "
            f"{folder}, without config.json. Export a run there with --workdir."
        )
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    return [
        Upload(str(file.relative_to(folder)), file.stat().st_size)
        for file in files
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def package(option: str) -> Any:
    """The package huggingface_hub.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"{option} needs the package huggingface_hub; it is not installed. {INSTALL}."
        ) from None
    return huggingface_hub


def push(folder: pathlib.Path, repository: str, *, private: bool) -> str:
    """Uploads a model's folder to a repository, made where there is none; returns its address.

    Raises:
      ValueError: the name or the folder is wrong, or the package is not installed.
      errors.Failure: the hub is not to be reached, or refuses.
    """
    check_id(repository, "--push")
    names = [upload.name for upload in uploads(folder)]
    hub = package(f"--push={repository}")
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        told = api.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=names,
            commit_message="model from alignjax export",
        )  # fmt: skip
    except Exception as error:  # of a network, of an account, of the package
        raise errors.Failure(
            f"{folder} is written, and not pushed to {repository}: {errors.condense(error)}. Log "
            f"in by `hf auth login`, then run alignjax export --to={folder} --push={repository}."
        ) from error
    return str(told)


def present(name: str, option: str, log: Callable[[str], None]) -> str:
    """Where a model is on this machine: the name itself, or a snapshot of an id of the hub.

    A name is an id where nothing lies at it, nor at its first part, and it reads OWNER/NAME.

    Raises:
      ValueError: it is an id, and the package or the network is not there, or no such model.
    """
    if not name or not ID.fullmatch(name) or pathlib.Path(name.split("/")[0]).exists():
        return name
    what = (
        f"{option} must be a model's folder, a .gguf file, or an id of the hub; got {name!r}, "
        "which is not on this machine"
    )
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ValueError(f"{what}. {INSTALL} to fetch it by id, or name a folder.") from None
    try:
        place = hub.snapshot_download(
            name, allow_patterns=[*FETCHED], etag_timeout=TIMEOUT, library_name="alignjax"
        )
    except Exception as error:  # of a network, of an account, of the package
        raise ValueError(
            f"{what}, and could not be fetched: {errors.condense(error)}. Name a folder, or try "
            "again where the network allows it."
        ) from error
    log(f"{name}: read from {place}")
    return str(place)


def id_of(path: str) -> str:
    """The id of the hub whose snapshot lies at a path; "" for any other path."""
    for part in pathlib.Path(path).parts:
        owner, _, name = part.removeprefix("models--").partition("--")
        if part.startswith("models--") and owner and name:
            return f"{owner}/{name}"
    return ""
