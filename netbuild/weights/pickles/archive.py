"""The zip archives that torch.save writes, read without trusting them: entries lie in the file as they are."""

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from netbuild.weights.pickles.stubs import MalformedError

MAX_ENTRIES = 200_000
MAX_DIRECTORY = 64 << 20  # bytes

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_RECORD = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL, _SHORT_FULL = 0xFFFFFFFF, 0xFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """An uncompressed entry: bytes, where its local header begins, and its checksum, 0 where none was written."""

    name: str
    size: int
    header: int
    crc: int


class Archive:
    """The entries of an open zip file by name.

    Only what torch.save writes is taken: uncompressed, each name once, no two entries over the same bytes.

    Raises:
        MalformedError: if the file is no such archive.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        count, start, length = self._end()
        self.entries = self._directory(count, self._bytes(start, length))
        # With this the sum of all that is read stays within the file's size, whatever the directory says.
        if sum(entry.size for entry in self.entries.values()) > size:
            raise MalformedError("the entries of the archive are larger than the file, so they overlap")

    def read_into(self, entry: Entry, target: memoryview) -> None:
        """Read the first bytes of an entry: all of it, or as many as the target takes."""
        header = _LOCAL.unpack(self._bytes(entry.header, _LOCAL.size))
        start = entry.header + _LOCAL.size + header[-2] + header[-1]
        if header[0] != b"PK\x03\x04" or start + entry.size > self.size:
            raise MalformedError(f"the archive's entry {entry.name} is not where its directory says")
        self.file.seek(start)
        if self.file.readinto(target) != len(target):  # type: ignore[attr-defined]
            raise MalformedError(f"the archive's entry {entry.name} is cut short")
        if entry.crc and len(target) == entry.size and zlib.crc32(target) != entry.crc:
            raise MalformedError(f"the archive's entry {entry.name} is damaged: its checksum differs")

    def read(self, name: str, limit: int) -> bytes:
        """An entry's bytes."""
        entry = self.entries[name]
        if entry.size > limit:
            raise MalformedError(f"the archive's entry {name} has {entry.size:,} bytes, more than {limit:,}")
        data = bytearray(entry.size)
        self.read_into(entry, memoryview(data))
        return bytes(data)

    def _bytes(self, start: int, length: int) -> bytes:
        if start + length > self.size:
            raise MalformedError("the archive is cut short")
        self.file.seek(start)
        data = self.file.read(length)
        if len(data) != length:
            raise MalformedError("the archive is cut short")
        return data

    def _end(self) -> tuple[int, int, int]:
        """Number of entries, where the directory starts, and its length."""
        start = max(0, self.size - _END.size - _SHORT_FULL)
        tail = self._bytes(start, self.size - start)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            raise MalformedError("the archive is cut short: it has no directory at its end")
        *_, count, length, offset, _ = _END.unpack_from(tail, at)
        if _FULL in (length, offset) or count == _SHORT_FULL:
            count, length, offset = self._end64(tail, at - _LOCATOR.size)
        if length > MAX_DIRECTORY or count > MAX_ENTRIES:
            raise MalformedError(f"the archive has {count:,} entries, more than {MAX_ENTRIES:,}")
        return count, offset, length

    def _end64(self, tail: bytes, at: int) -> tuple[int, int, int]:
        """The same from the record that large archives have beside it."""
        signature, _, offset, _ = _LOCATOR.unpack_from(tail, at) if at >= 0 else (b"", 0, 0, 0)
        record = _END64.unpack(self._bytes(offset, _END64.size)) if signature == b"PK\x06\x07" else (b"",)
        if record[0] != b"PK\x06\x06":
            raise MalformedError("the archive's directory is damaged")
        return record[-3], record[-2], record[-1]

    def _directory(self, count: int, data: bytes) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        at = 0
        for _ in range(count):
            if len(data) - at < _RECORD.size:
                raise MalformedError("the archive's directory is cut short")
            entry, at = _entry(data, at)
            if entry.name in entries:
                raise MalformedError(f"the archive has two entries of the name {entry.name}")
            entries[entry.name] = entry
        return entries


def _entry(data: bytes, at: int) -> tuple[Entry, int]:
    """The entry whose directory record starts at a byte, and where the next record starts."""
    record = _RECORD.unpack_from(data, at)
    signature, flags, method = record[0], record[3], record[4]
    crc, packed, size, name_length, extra_length, comment_length = record[7:13]
    header = record[16]
    at += _RECORD.size
    name = data[at : at + name_length].decode("utf-8", "replace")
    extra = data[at + name_length : at + name_length + extra_length]
    if signature != b"PK\x01\x02" or len(extra) != extra_length:
        raise MalformedError("the archive's directory is damaged")
    if flags & 1 or method:
        raise MalformedError(
            f"the archive's entry {name} is {'encrypted' if flags & 1 else 'compressed'}; no torch.save does so"
        )
    size, packed, header = _large(extra, [size, packed, header])
    if size != packed:
        raise MalformedError(f"the archive's entry {name} has two sizes, {size:,} and {packed:,} bytes")
    return Entry(name, size, header, crc), at + name_length + extra_length + comment_length


def _large(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offset, those that 32 bits do not hold from the record's extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            body = extra[4 : 4 + length]
            wide = [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
            return [wide.pop(0) if value == _FULL and wide else value for value in values]
        extra = extra[4 + length :]
    return values
