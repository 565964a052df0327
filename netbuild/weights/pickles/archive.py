"""A strict reader of the zip archives that ``torch.save`` writes.

Python's zipfile is not used: it accepts compressed and overlapping entries, with which a small file can fill memory.
torch stores entries uncompressed; everything else is refused here. The structures follow PKWARE's APPNOTE.TXT.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from netbuild.weights.pickles.stubs import MalformedError

MAX_ENTRIES = 200_000
MAX_DIRECTORY = 64 << 20  # bytes

# In the order of the specification: end of central directory, zip64 locator, zip64 end of central directory, central
# directory header, local file header.
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_RECORD = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
# A field of 32 or 16 bits with this value is stored with 64 bits elsewhere (zip64).
_FULL, _SHORT_FULL = 0xFFFFFFFF, 0xFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """An uncompressed entry of the archive.

    Args:
        name: its path in the archive.
        size: number of bytes.
        header: offset of its local header in the file.
        crc: CRC-32 of its bytes, 0 if none was written.
    """

    name: str
    size: int
    header: int
    crc: int


class Archive:
    """The entries of an open zip file by name, in `entries`.

    Accepts only what ``torch.save`` writes: uncompressed entries with distinct names that do not overlap.

    Args:
        file: the file, open for reading.
        size: its size in bytes.

    Raises:
        MalformedError: if the file is no such archive.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        count, start, length = self._read_end_record()
        self.entries = self._parse_directory(count, self._read_bytes(start, length))
        # Bounds the memory for all entries together by the file's size, whatever the directory claims.
        if sum(entry.size for entry in self.entries.values()) > size:
            raise MalformedError("the entries of the archive are larger than the file, so they overlap")

    def read_into(self, entry: Entry, target: memoryview) -> None:
        """Fill the target with the first bytes of an entry; the checksum is compared if that is the whole entry.

        Raises:
            MalformedError: if the entry is not where the directory says, is cut short or damaged.
        """
        header = _LOCAL.unpack(self._read_bytes(entry.header, _LOCAL.size))
        start = entry.header + _LOCAL.size + header[-2] + header[-1]
        if header[0] != b"PK\x03\x04" or start + entry.size > self.size:
            raise MalformedError(f"the archive's entry {entry.name} is not where its directory says")
        self.file.seek(start)
        if self.file.readinto(target) != len(target):  # type: ignore[attr-defined]
            raise MalformedError(f"the archive's entry {entry.name} is cut short")
        if entry.crc and len(target) == entry.size and zlib.crc32(target) != entry.crc:
            raise MalformedError(f"the archive's entry {entry.name} is damaged: its checksum differs")

    def read(self, name: str, limit: int) -> bytes:
        """Read a whole entry.

        Raises:
            MalformedError: if it has more than `limit` bytes, or as `read_into` does.
        """
        entry = self.entries[name]
        if entry.size > limit:
            raise MalformedError(f"the archive's entry {name} has {entry.size:,} bytes, more than {limit:,}")
        data = bytearray(entry.size)
        self.read_into(entry, memoryview(data))
        return bytes(data)

    def _read_bytes(self, start: int, length: int) -> bytes:
        if start + length > self.size:
            raise MalformedError("the archive is cut short")
        self.file.seek(start)
        data = self.file.read(length)
        if len(data) != length:
            raise MalformedError("the archive is cut short")
        return data

    def _read_end_record(self) -> tuple[int, int, int]:
        """Return the number of entries, the central directory's offset and its length in bytes."""
        start = max(0, self.size - _END.size - _SHORT_FULL)
        tail = self._read_bytes(start, self.size - start)
        position = tail.rfind(b"PK\x05\x06")
        if position < 0 or len(tail) - position < _END.size:
            raise MalformedError("the archive is cut short: it has no directory at its end")
        *_, count, length, offset, _ = _END.unpack_from(tail, position)
        if _FULL in (length, offset) or count == _SHORT_FULL:
            count, length, offset = self._read_end64_record(tail, position - _LOCATOR.size)
        if length > MAX_DIRECTORY or count > MAX_ENTRIES:
            raise MalformedError(f"the archive has {count:,} entries, more than {MAX_ENTRIES:,}")
        return count, offset, length

    def _read_end64_record(self, tail: bytes, position: int) -> tuple[int, int, int]:
        """Return the same from the zip64 record, which large archives have in addition."""
        signature, _, offset, _ = _LOCATOR.unpack_from(tail, position) if position >= 0 else (b"", 0, 0, 0)
        record = _END64.unpack(self._read_bytes(offset, _END64.size)) if signature == b"PK\x06\x07" else (b"",)
        if record[0] != b"PK\x06\x06":
            raise MalformedError("the archive's directory is damaged")
        return record[-3], record[-2], record[-1]

    def _parse_directory(self, count: int, data: bytes) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        position = 0
        for _ in range(count):
            if len(data) - position < _RECORD.size:
                raise MalformedError("the archive's directory is cut short")
            entry, position = _parse_entry(data, position)
            if entry.name in entries:
                raise MalformedError(f"the archive has two entries named {entry.name}")
            entries[entry.name] = entry
        return entries


def _parse_entry(data: bytes, position: int) -> tuple[Entry, int]:
    """Parse the directory record at a byte position; return the entry and the position of the next record."""
    record = _RECORD.unpack_from(data, position)
    signature, flags, method = record[0], record[3], record[4]
    crc, packed, size, name_length, extra_length, comment_length = record[7:13]
    header = record[16]
    position += _RECORD.size
    name = data[position : position + name_length].decode("utf-8", "replace")
    extra = data[position + name_length : position + name_length + extra_length]
    if signature != b"PK\x01\x02" or len(extra) != extra_length:
        raise MalformedError("the archive's directory is damaged")
    if flags & 1 or method:
        raise MalformedError(
            f"the archive's entry {name} is {'encrypted' if flags & 1 else 'compressed'}, which torch.save does not do"
        )
    size, packed, header = _resolve_zip64(extra, [size, packed, header])
    if size != packed:
        raise MalformedError(f"the archive's entry {name} has two sizes, {size:,} and {packed:,} bytes")
    return Entry(name, size, header, crc), position + name_length + extra_length + comment_length


def _resolve_zip64(extra: bytes, values: list[int]) -> list[int]:
    """Replace values that do not fit 32 bits by those in the record's zip64 extra field (kind 1), in its order."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            body = extra[4 : 4 + length]
            wide = [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
            return [wide.pop(0) if value == _FULL and wide else value for value in values]
        extra = extra[4 + length :]
    return values
