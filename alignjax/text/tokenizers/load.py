"""Opens whatever tokenizer a path holds: ours, a model folder's, or a GGUF file's."""

import os
import pathlib
import typing

from alignjax.core import untrusted
from alignjax.text import tokenizer as own_tokenizer
from alignjax.text.tokenizers import gguf_file, interface, opened, sentencepiece_file
from alignjax.text.tokenizers import tokenizer_json as json_file

MAX_BYTES = 256 * 2**20  # of a tokenizer file; the largest in use have about 35 MB
MAX_CONFIG_BYTES = 32 * 2**20
GENERATION = "generation_config.json"
_GGUF_MAGIC = b"GGUF"
_KINDS = ("pad", "bos", "eos")


def load_tokenizer(path: str | os.PathLike) -> interface.TextTokenizer:
    """Returns the tokenizer at `path`, a file or a model folder.

    A folder is looked through for `tokenizer.json`, then `tokenizer.model`, then one `*.gguf`
    file; pad, BOS and EOS come from its `tokenizer_config.json` and `special_tokens_map.json`
    where they name them; its `legacy` false means no space after control tokens. A SentencePiece
    file with our markers is our own `tokenizer.Tokenizer`. Code in the folder is never run.

    Raises: ValueError for a missing, damaged or unknown file, or a link that leaves the folder.
    """
    path = pathlib.Path(path)
    with untrusted.formed("a tokenizer", path):
        return _from_folder(path) if path.is_dir() else _from_file(path)


def _from_file(path: pathlib.Path) -> interface.TextTokenizer:
    if path.suffix == ".gguf" or _starts_with(path, _GGUF_MAGIC):
        return gguf_file.from_file(path)
    source = read_bounded(path, MAX_BYTES)
    if path.suffix == ".json" or source[:1] == b"{":
        return json_file.from_json(source, where=str(path))
    if is_own(source):
        return own_tokenizer.from_bytes(source, where=str(path))
    return sentencepiece_file.from_model(source, where=str(path))


def read_chat_template(folder: str | os.PathLike) -> str | None:
    """Returns the Jinja source of a model folder or GGUF file, None where it holds none.

    It is text only: `jinja_template` runs it in a sandbox. Of several named templates the one
    called "default" is taken.
    """
    folder = pathlib.Path(folder)
    if folder.is_file():
        return gguf_file.read_fields(folder).get("tokenizer.chat_template")
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        file = _inside(folder, name)
        if file is None:
            continue
        if name.endswith(".jinja"):
            return _utf8(read_bounded(file, MAX_CONFIG_BYTES), file)
        template = _read_object(file).get("chat_template")
        if isinstance(template, list):
            template = {
                one.get("name"): one.get("template") for one in template if isinstance(one, dict)
            }.get("default")
        if isinstance(template, str):
            return template
    return None


def read_stops(path: str | os.PathLike, vocab_size: int) -> tuple[int, ...]:
    """Returns the ids at which a model folder's generation_config.json ends answers, in its order.

    Empty where there is no such file, or it names none.

    Raises: ValueError for a file that is no object, or ids outside the vocabulary.
    """
    folder = pathlib.Path(path)
    file = _inside(folder, GENERATION) if folder.is_dir() else None
    if file is None:
        return ()
    stated = _read_object(file).get("eos_token_id")
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise ValueError(
                f"eos_token_id must be ids in 0..{vocab_size - 1}; got {str(token)[:30]} ({file}). "
                "Correct it, or remove the file."
            )
    return tuple(dict.fromkeys(ids))


def _from_folder(folder: pathlib.Path) -> interface.TextTokenizer:
    config = _config(folder)
    names = _names(config)
    template = read_chat_template(folder)
    file = _inside(folder, "tokenizer.json")
    if file is not None:
        return json_file.from_json(
            read_bounded(file, MAX_BYTES),
            names=names,
            chat_template=template,
            add_bos=_add_bos(config),
            where=str(file),
        )
    file = _inside(folder, "tokenizer.model")
    if file is not None:
        source = read_bounded(file, MAX_BYTES)
        if is_own(source):
            return own_tokenizer.from_bytes(source, where=str(file))
        return sentencepiece_file.from_model(
            source,
            names=names,
            added=_added(config, file),
            chat_template=template,
            space_after_special=config.get("legacy") is not False,
            add_bos=_add_bos(config) is not False,
            where=str(file),
        )
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1 and (file := _inside(folder, ggufs[0].name)) is not None:
        return gguf_file.from_file(file)
    raise ValueError(
        f"a model folder must hold tokenizer.json, tokenizer.model or one .gguf file; got "
        f"{len(ggufs)} .gguf files and neither of the others ({folder}). Give the folder of the "
        "model, or the file itself."
    )


def is_own(source: bytes) -> bool:
    """Whether the bytes may be a model of ours: all our markers stand in them."""
    markers = (own_tokenizer.PAD, own_tokenizer.BOS, own_tokenizer.EOS, *own_tokenizer.CONTROL)
    return all(marker.encode() in source for marker in markers)


def read_bounded(path: pathlib.Path, limit: int) -> bytes:
    """Returns the bytes of a file; ValueError when it cannot be read or is above the limit."""
    try:
        return untrusted.read_bytes(path, limit)
    except OSError as error:
        raise ValueError(
            f"tokenizer must be a readable file or a model folder; got {error.strerror} ({path}). "
            "Give the path of a tokenizer."
        ) from None


def _starts_with(path: pathlib.Path, magic: bytes) -> bool:
    try:
        with untrusted.opened(path) as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False  # read_bounded says why


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns folder/name, None where there is none; ValueError for a link out of the folder.

    The one exception is the cache of Hugging Face, whose snapshots are links to `../../blobs`.
    """
    file = folder / name
    if not file.exists():
        return None
    target = file.resolve()
    root = folder.resolve()
    blobs = root.parent.parent / "blobs"
    if not target.is_relative_to(root) and not (
        root.parent.name == "snapshots" and target.parent == blobs
    ):
        raise ValueError(
            f"{name} must lie in its folder; got a link to {target} ({folder}). Copy the file "
            "into the folder."
        )
    return file


def _config(folder: pathlib.Path) -> dict[str, typing.Any]:
    merged: dict[str, typing.Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = _inside(folder, name)
        if file is not None:
            merged |= _read_object(file)
    return merged


def _read_object(file: pathlib.Path) -> dict[str, typing.Any]:
    text = read_bounded(file, MAX_CONFIG_BYTES)
    value = untrusted.parse_json(text, f"{file.name} ({file})")
    if not isinstance(value, dict):
        raise ValueError(
            f"{file.name} must hold a JSON object; got other content ({file}). Copy it again."
        )
    return value


def _names(config: dict[str, typing.Any]) -> dict[str, str | None]:
    """Returns "pad", "bos", "eos" -> token, or None where it is stated that there is none."""
    names: dict[str, str | None] = {}
    for kind in _KINDS:
        key = f"{kind}_token"
        if key in config:
            value = config[key]
            names[kind] = value.get("content") if isinstance(value, dict) else value
            if names[kind] is not None and not isinstance(names[kind], str):
                raise ValueError(
                    f"{key} must be a string or null; got {type(value).__name__} "
                    "(tokenizer_config.json). Correct it."
                )
    return names


def _add_bos(config: dict[str, typing.Any]) -> bool | None:
    """Whether the folder says that a document begins with BOS; None where it does not say."""
    stated = config.get("add_bos_token")
    return stated if isinstance(stated, bool) else None


def _added(config: dict[str, typing.Any], file: pathlib.Path) -> dict[int, str]:
    """Returns id -> control token of `added_tokens_decoder`."""
    added = {}
    for key, value in (config.get("added_tokens_decoder") or {}).items():
        content = value.get("content") if isinstance(value, dict) else None
        if not key.isdecimal() or int(key) >= 2**24 or not isinstance(content, str):
            raise ValueError(
                f"added_tokens_decoder must map ids to tokens; got {key[:20]!r} (beside {file}). "
                "Correct tokenizer_config.json."
            )
        added[int(key)] = content
    return added


def _utf8(source: bytes, file: pathlib.Path) -> str:
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{file.name} must be UTF-8 text; got other bytes ({file}). Copy it again."
        ) from None


def require_pad(tokenizer: interface.TextTokenizer) -> int:
    """Returns the pad id; ValueError where the model has none and none was stated."""
    if tokenizer.pad_id is None:
        raise ValueError(
            "a tokenizer that fills batches must have a pad; got none (require_pad). State one "
            "with with_pad; any control token will do, since masks come from lengths."
        )
    return tokenizer.pad_id


def with_pad(tokenizer: interface.TextTokenizer, name: str) -> interface.TextTokenizer:
    """Returns the tokenizer with the control token `name` as pad; our own has its pad already."""
    if isinstance(tokenizer, opened.OpenedTokenizer):
        return tokenizer.with_pad(name)
    raise ValueError(
        f"pad may be stated for tokenizers of other models only; got {name!r} for ours "
        "(with_pad). Leave it out."
    )
