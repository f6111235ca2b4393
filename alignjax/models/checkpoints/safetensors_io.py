"""Safetensors folders, read slice by slice and written tensor by tensor.

Everything that headers and index claim is checked against the sizes on disk before anything is
allocated, and nothing but numbers is read: no pickle, no code (`auto_map` and `.py` files are never
looked at).
"""

import json
import math
import os
import pathlib
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from alignjax.core import untrusted
from alignjax.models.checkpoints import safetensors_format
from alignjax.models.checkpoints.safetensors_format import TensorInfo

WINDOW = 16 * 2**20  # bytes of a file that are mapped at a time
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

Index = tuple[slice | int, ...]
Tensor = tuple[str, tuple[int, ...], Any, Callable[[], np.ndarray]]


def bounds(what: str, shape: tuple[int, ...], index: Index) -> list[tuple[int, int]]:
    """[start, stop) of every axis of `shape` under a partial index of slices and numbers.

    Raises:
      ValueError: too many axes, a number out of range, or a slice with a step other than 1.
    """
    if len(index) > len(shape):
        raise ValueError(f"{what} must be indexed by at most {len(shape)} axes; got {len(index)}.")
    ranges = [(0, size) for size in shape]
    for axis, (at, size) in enumerate(zip(index, shape, strict=False)):
        if isinstance(at, slice):
            start, stop, step = at.indices(size)
            if step != 1:
                raise ValueError(f"{what} must be sliced with step 1; got {step} (axis {axis}).")
            ranges[axis] = (start, max(start, stop))
        elif not -size <= at < size:
            raise ValueError(f"{what} must be indexed below {size}; got {at} (axis {axis}).")
        else:
            ranges[axis] = (at % size, at % size + 1)
    return ranges


def dropped(index: Index) -> tuple[Any, ...]:
    """What removes the axes that an index names by number, after they were read as length 1."""
    return tuple(slice(None) if isinstance(at, slice) else 0 for at in index)


class TensorFolder:
    """Tensors by name, of one file or several; nothing but headers is in memory.

    Attributes:
      tensors: name -> TensorInfo.
      metadata: the text that the files carry about themselves.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]):
        self.tensors = dict(tensors)
        self.metadata = dict(metadata)

    def read(
        self, name: str, index: Index = (), shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """A new array of the tensor's part at `index`; only that part's pages are read.

        Args:
          name: a key of `tensors`.
          index: slices (step 1) and numbers for the leading axes; a number drops its axis.
          shape: the axes that `index` speaks of, where they split or join those of the tensor.

        Raises:
          ValueError: the name is unknown, or index or shape do not fit.
        """
        if name not in self.tensors:
            raise ValueError(f"tensor must be one of the folder's; got {name!r:.200}.")
        info = self.tensors[name]
        shape = info.shape if shape is None else shape
        if math.prod(shape) != math.prod(info.shape):
            raise ValueError(
                f"the shape to read must have as many elements as {list(info.shape)}; "
                f"got {list(shape)} (tensor {name!r:.200})."
            )
        box = bounds(f"tensor {name!r:.200}", shape, index)
        out = np.empty([stop - start for start, stop in box], info.dtype)
        if out.size:
            with untrusted.opened(info.file) as file:
                _copy(file, info.start, shape, box, out)
        return out[(*dropped(index), ...)]


def _copy(file: Any, offset: int, shape: Any, box: list[tuple[int, int]], out: np.ndarray) -> None:
    """Fills `out` with the box, mapping at most a window at a time: mapped pages count as memory
    of the process until they are unmapped."""
    if not shape:
        out[...] = np.memmap(file, out.dtype, "r", offset, ())
        return
    (start, stop), *rest = box
    row = math.prod(shape[1:]) * out.dtype.itemsize
    if row > WINDOW and len(shape) > 1:
        for i in range(start, stop):
            _copy(file, offset + i * row, shape[1:], rest, out[i - start])
        return
    step = max(1, WINDOW // row)
    inner = tuple(slice(*b) for b in rest)
    for a in range(start, stop, step):
        b = min(a + step, stop)
        view = np.memmap(file, out.dtype, "r", offset + a * row, (b - a, *shape[1:]))
        out[a - start : b - start] = view[(slice(None), *inner)]


def open_folder(path: str | os.PathLike[str], stem: str = "model") -> TensorFolder:
    """The tensors of `stem`.safetensors, or of all files in `stem`.safetensors.index.json.

    Args:
      path: a folder, or one `.safetensors` file.
      stem: first part of the file's name; "adapter_model" for peft's.

    Raises:
      ValueError: no such files, or one of them is not what it claims to be; one line that names
        the file and the field.
    """
    path = pathlib.Path(path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(
                f"weights must be a .safetensors file; got {path}. Convert them: other formats "
                "may run code when they are read."
            )
        return TensorFolder(*safetensors_format.read_header(path.resolve()))
    if not path.is_dir():
        raise ValueError(f"weights must be a folder or a file that exists; got {path}.")
    root = path.resolve()
    single, index = root / f"{stem}.safetensors", root / f"{stem}.safetensors.index.json"
    if os.path.lexists(single) and os.path.lexists(index):
        raise ValueError(
            f"a folder of weights must hold {single.name} or {index.name}; got both ({path}). "
            "Remove the one that is out of date."
        )
    if os.path.lexists(single):
        return TensorFolder(
            *safetensors_format.read_header(_inside(root, single.name, "the folder"))
        )
    if os.path.lexists(index):
        return _indexed(root, index)
    pickles = sorted(p.name for p in root.iterdir() if p.suffix in PICKLES)
    hint = f" {pickles[0]} is not read: it may run code. Convert it." if pickles else ""
    raise ValueError(
        f"a folder of weights must hold {single.name} or {index.name}; got neither ({path}).{hint}"
    )


def _inside(root: pathlib.Path, name: str, where: str) -> pathlib.Path:
    """The file of that plain name, links followed, if it stays in the folder.

    The Hugging Face cache keeps `snapshots/<revision>/<file>` as links to `blobs/<digest>` of the
    same repository's folder; that one other place is the folder's own too.
    """
    plain = pathlib.PurePosixPath(name).name == name and "\\" not in name and "\0" not in name
    if not plain or not name.endswith((".safetensors", ".json")):
        raise ValueError(
            f"a file of weights must be a plain *.safetensors name; got {name!r:.200} ({where})."
        )
    file = (root / name).resolve()
    homes = [root]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("models--"):
        homes.append(root.parents[1] / "blobs")
    if not any(file.is_relative_to(home) for home in homes):
        raise ValueError(f"a file of weights must not link out of {root}; got {name} -> {file}.")
    if not file.is_file():
        raise ValueError(f"a file of weights must exist; got {name} ({where}). Fetch it again.")
    return file


def _indexed(root: pathlib.Path, index: pathlib.Path) -> TensorFolder:
    """The tensors of all files in an index, which must agree with them in both directions."""
    file = _inside(root, index.name, "the folder")
    content = untrusted.read_bytes(file, safetensors_format.HEADER_LIMIT)
    places = safetensors_format.parse_json(content, str(index)).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise ValueError(f"weight_map must map tensor names to file names ({index}).")
    files = {name: _inside(root, name, str(index)) for name in sorted(set(places.values()))}
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for name, file in files.items():
        held, about = safetensors_format.read_header(file)
        wanted = {tensor for tensor, place in places.items() if place == name}
        if wanted != held.keys():
            missing, more = sorted(wanted - held.keys()), sorted(held.keys() - wanted)
            raise ValueError(
                f"a file must hold the tensors that the index places there; {name} lacks "
                f"{missing[:5]!r:.300} and adds {more[:5]!r:.300} ({index})."
            )
        tensors |= held
        metadata |= about
    return TensorFolder(tensors, metadata)


def write_folder(
    path: str | os.PathLike[str],
    tensors: Iterable[Tensor],
    *,
    stem: str = "model",
    max_file_bytes: float = 5e9,
    metadata: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a folder of weights, one tensor in memory at a time; whole, or not at all.

    Args:
      path: the folder to make; it must not exist, or be empty.
      tensors: (name, shape, dtype, get) of each tensor; `get()` is called once, when it is written.
      stem: first part of the files' names.
      max_file_bytes: a file that would grow beyond is followed by another (and an index is
        written); one tensor is never split.
      metadata: text in every file's header; `{"format": "pt"}`, which transformers asks for,
        where None.
      files: other files of the folder (config.json), by plain name.

    Raises:
      ValueError: the folder is in use, or a tensor is not what was announced.
    """
    path, entries = pathlib.Path(path).absolute(), list(tensors)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"the folder to write must be new or empty; got {path}.")
    _check_entries(entries)
    about = {"format": "pt"} if metadata is None else dict(metadata)
    shards = _shards(entries, max_file_bytes)
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = [f"{stem}.safetensors"] if len(shards) == 1 else names
    others = dict(files or {})
    if len(shards) > 1:
        places = {t[0]: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": sum(map(_nbytes, entries))}, "weight_map": places}
        others[f"{stem}.safetensors.index.json"] = json.dumps(index, indent=2).encode()
    bad = [name for name in others if pathlib.PurePath(name).name != name or name in names]
    if bad:
        raise ValueError(f"other files must have plain names of their own; got {bad}.")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        for name, shard in zip(names, shards, strict=True):
            _write_file(partial / name, shard, about)
        for name, content in others.items():
            (partial / name).write_bytes(content)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _nbytes(tensor: Tensor) -> int:
    return math.prod(tensor[1]) * np.dtype(tensor[2]).itemsize


def _check_entries(entries: list[Tensor]) -> None:
    names = set()
    for name, _, dtype, _ in entries:
        if np.dtype(dtype) not in safetensors_format.NAMES:
            raise ValueError(f"dtype must be one of safetensors'; got {dtype} (tensor {name}).")
        if name in names or name == "__metadata__":
            raise ValueError(f"tensor names must be unique; got {name!r} twice or reserved.")
        names.add(name)


def _shards(entries: list[Tensor], limit: float) -> list[list[Tensor]]:
    """The tensors cut into files in their order."""
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in entries:
        if shards[-1] and filled + _nbytes(tensor) > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += _nbytes(tensor)
    return shards


def _write_file(path: pathlib.Path, tensors: list[Tensor], metadata: dict[str, str]) -> None:
    """One file; wide dtypes first, so that every tensor is aligned."""
    tensors = sorted(tensors, key=lambda t: -np.dtype(t[2]).itemsize)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for tensor in tensors:
        start, end = end, end + _nbytes(tensor)
        header[tensor[0]] = {
            "dtype": safetensors_format.NAMES[np.dtype(tensor[2])],
            "shape": list(tensor[1]),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape, dtype, get in tensors:
            array = np.asarray(get())
            if (array.shape, array.dtype) != (tuple(shape), np.dtype(dtype)):
                raise ValueError(
                    f"tensor {name} must be {np.dtype(dtype)}{list(shape)} as announced; "
                    f"got {array.dtype}{list(array.shape)}."
                )
            file.write(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
        file.flush()
        os.fsync(file.fileno())
