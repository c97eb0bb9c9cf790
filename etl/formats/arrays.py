"""NumPy and MATLAB files to arrays: `.npy`, `.npz` (SciPy's sparse ones too), `.mat` up to v7 and v7.3 (HDF5).

No file can run code here: pickled objects are refused.
"""

# mypy: allow-untyped-calls

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from etl.errors import ItemError
from etl.pixels.raster import MAX_BYTES, Array, check_size, unreadable

NPY = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
MATLAB, MATLAB_HDF5 = b"MATLAB", b"MATLAB 7.3"
NOT_NUMBERS = frozenset({"cell", "struct", "char", "function", "object", "opaque", "unknown"})
SPARSE = frozenset({"format", "shape", "data"})


def kind_of(path: Path, head: bytes) -> str | None:
    """``npy``, ``npz``, ``mat`` or ``hdf5`` by content and, where that says too little, by name; else None."""
    name = path.name.lower()
    if head.startswith(NPY):
        return "npy"
    if head.startswith(ZIP) and name.endswith(".npz"):
        return "npz"
    if head.startswith(MATLAB_HDF5):
        return "hdf5"
    if head.startswith(MATLAB) or name.endswith(".mat"):
        return "mat"
    return None


def read(path: Path, kind: str, variable: str | None = None, limit: int = MAX_BYTES) -> Array:
    """One numeric array of a file in MATLAB's or NumPy's axis order.

    ``variable`` names it (``struct.field`` in a MAT file); without it the file must hold exactly one array.

    Raises:
        ItemError: `unreadable` (damaged, no such variable, several and none named), `unsupported` (pickled or
            not numeric), `too_large`.
    """
    try:
        array = READERS[kind](path, variable, limit)
    except ItemError:
        raise
    except MemoryError as error:
        raise ItemError("too_large", f"{path.name}: more than this machine's memory") from error
    except Exception as error:  # readers of damaged files raise anything
        raise unreadable(path, error) from error
    if array.dtype.kind not in "biuf":
        raise ItemError("unsupported", f"{path.name}: an array of type {array.dtype}, not of numbers")
    check_size(path, array.shape or (0,), array.dtype.itemsize, limit)
    return array


def _npy(path: Path, variable: str | None, limit: int) -> Array:
    with path.open("rb") as stream:
        _declared(path, stream, path.name, limit)
        stream.seek(0)
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _declared(path: Path, stream: IO[bytes], name: str, limit: int) -> tuple[int, ...]:
    """The shape in a .npy header, checked against the limit; no byte of the data is read."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ItemError("unsupported", f"{path.name}: {name} is .npy of version {version[0]}.{version[1]}")
    first = version == (1, 0)
    read_header: Callable[..., Any] = (
        np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ItemError("unsupported", f"{path.name}: {name} holds pickled objects, which are refused")
    check_size(path, tuple(max(1, extent) for extent in shape) or (1,), dtype.itemsize, limit)
    return tuple(shape)


def _npz(path: Path, variable: str | None, limit: int) -> Array:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        for member in members.values():
            with archive.open(member) as stream:
                _declared(path, stream, member, limit)
    if members.keys() >= SPARSE:
        return _sparse(path, limit)
    name = _chosen(path, list(members), variable)
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file[name])


def _sparse(path: Path, limit: int) -> Array:
    from scipy import sparse

    matrix = sparse.load_npz(path)
    check_size(path, matrix.shape, matrix.dtype.itemsize, limit)
    return np.asarray(matrix.toarray())


def _chosen(path: Path, names: list[str], variable: str | None) -> str:
    if variable is None and len(names) == 1:
        return names[0]
    if variable in names:
        return str(variable)
    has = f"it has {', '.join(sorted(names)) or 'none'}"
    if variable is None:
        raise unreadable(path, f"several variables; name one in the manifest (variable: …); {has}")
    raise unreadable(path, f"no variable '{variable}'; {has}")


def _mat(path: Path, variable: str | None, limit: int) -> Array:
    from scipy import io

    found = {name: (shape, kind) for name, shape, kind in io.whosmat(path)}
    top = variable.split(".")[0] if variable else None
    numeric = [name for name, (_, kind) in found.items() if kind not in NOT_NUMBERS]
    name = _chosen(path, numeric if top is None else list(found), top)
    check_size(path, tuple(found[name][0]), 8, limit)
    value: Any = io.loadmat(path, variable_names=[name], struct_as_record=False, squeeze_me=False)[name]
    for part in (variable or name).split(".")[1:]:
        value = _field(path, value, part)
    return np.asarray(value.toarray() if hasattr(value, "toarray") else value)


def _field(path: Path, value: Any, part: str) -> Any:
    item = value.flat[0] if isinstance(value, np.ndarray) and value.dtype == object and value.size == 1 else value
    if part not in getattr(item, "_fieldnames", ()):
        raise unreadable(path, f"no field '{part}'; it has {', '.join(getattr(item, '_fieldnames', ())) or 'none'}")
    return getattr(item, part)


def _hdf5(path: Path, variable: str | None, limit: int) -> Array:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        names = [n for n in file if isinstance(file.get(n), h5py.Dataset)] if variable is None else list(file)
        top = _chosen(path, names, variable.split(".")[0] if variable else None)
        where = (variable or top).replace(".", "/")
        data = file.get(where) if _inside(file, where) else None
        if not isinstance(data, h5py.Dataset):
            raise unreadable(path, f"no array '{variable or top}' inside the file")
        if data.external or data.is_virtual:
            raise ItemError("unsupported", f"{path.name}: '{where}' lies in another file")
        check_size(path, data.shape or (1,), data.dtype.itemsize, limit)
        return np.asarray(data[()]).T  # MATLAB writes its axes in reverse order


def _inside(file: Any, where: str) -> bool:
    """Whether no part of a path in an HDF5 file is a link out of it."""
    import h5py

    parts = where.split("/")
    links = (file.get("/".join(parts[: n + 1]), getlink=True) for n in range(len(parts)))
    return not any(isinstance(link, h5py.ExternalLink) for link in links)


READERS: dict[str, Callable[[Path, str | None, int], Array]] = {
    "npy": _npy, "npz": _npz, "mat": _mat, "hdf5": _hdf5,
}  # fmt: skip
