"""The zip of a bundle: `flow.pkl` and `code/<path>`. Written the same way every time; read with suspicion."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from flowgroup.errors import Refused

FLOW = "flow.pkl"
CODE = "code"
MAX_UNPACKED_BYTES = 2 * 1024**3
MAX_FILES = 20_000
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_AGAIN = "deploy the flow again"


def write(flow: bytes, code: Mapping[str, bytes]) -> bytes:
    """The zip: the same content gives the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in [(FLOW, flow), *((f"{CODE}/{path}", code[path]) for path in sorted(code))]:
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o600) << 16
            file.writestr(entry, data)
    return out.getvalue()


def unpack(data: bytes, into: Path, *, name: str) -> bytes:
    """
    Put the code of a bundle below the folder `into` (made if it is not there), and return the pickled flow.

    Every entry is checked before the first is written. Raises Refused; `name` is what the bundle is called in it.
    """
    with _reading(name):
        file = zipfile.ZipFile(io.BytesIO(data))
    entries = file.infolist()
    _check(entries, name)
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in entries:
        if entry.filename != FLOW:
            _extract(into / PurePosixPath(entry.filename).relative_to(CODE), _read(file, entry.filename, name))
    return _read(file, FLOW, name)


def _read(file: zipfile.ZipFile, entry: str, name: str) -> bytes:
    with _reading(name):
        return file.read(entry)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Around what reads from memory only: whatever goes wrong is the zip's, and `zipfile` has many words for it."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, EOFError, OverflowError) as exc:
        raise Refused(f"the bundle {name} is not a readable zip ({exc}): {_AGAIN}") from exc


def _extract(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _check(entries: list[zipfile.ZipInfo], name: str) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > MAX_FILES:
        raise Refused(f"the bundle {name} has {len(names)} files, more than {MAX_FILES}: include fewer")
    if len(set(names)) != len(names):
        raise Refused(f"the bundle {name} has two files of one name: {_AGAIN}")
    if FLOW not in names:
        raise Refused(f"the bundle {name} has no {FLOW}, so it was not made by flowgroup: {_AGAIN}")
    total = sum(entry.file_size for entry in entries)
    if total > MAX_UNPACKED_BYTES:
        raise Refused(f"the bundle {name} unpacks to {total} bytes, more than {MAX_UNPACKED_BYTES}: include less")
    for entry in entries:
        if not _is_safe(entry):
            raise Refused(f"the bundle {name} has an entry that may not be in one, {entry.filename!r}: {_AGAIN}")


def _is_safe(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a plain file at a plain relative path inside `code/`, or the flow itself."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or entry.flag_bits & 0x1 or entry.compress_type not in _PACKED:
        return False
    if entry.filename == FLOW:
        return True
    parts = entry.filename.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    return plain and parts[0] == CODE and len(parts) > 1 and not set(entry.filename) & {"\\", "\0", ":"}
