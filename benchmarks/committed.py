"""What a topic holds for a reader of what is committed, by the marks in the log itself.

A transaction ends with a mark in each partition that it wrote to, which says whether it is committed or taken back
(Kafka's KIP-98). Clients leave it to the broker to list those that were taken back; Tansu 0.6.0 writes the marks and
lists none, so that any client sees them all. This reader goes by the marks.
"""

import socket
import struct
from collections.abc import Iterator

FETCH, VERSION = 1, 4
MOST_BYTES = 50_000_000
PATIENCE_MS = 500

TRANSACTIONAL, CONTROL, COMPRESSED = 0x10, 0x20, 0x07
"""Bits of the attributes of a batch."""
COMMIT = 1

BATCH = struct.Struct(">qiibIhiqqqhii")
"""Head of a batch: offset, length, epoch of the leader, magic, checksum, attributes, last offset within it, two times,
number and epoch of the producer, first sequence, count."""


def iter_committed(broker: str, topic: str, partition: int) -> Iterator[bytes]:
    """Give the values of a partition, from its beginning on, that are in no transaction or in one that is committed."""
    open_records: dict[int, list[bytes]] = {}
    for attributes, producer, records in _iter_batches(broker, topic, partition):
        if attributes & COMPRESSED:
            raise SystemExit("compressed batches are not read")
        if not attributes & TRANSACTIONAL:
            yield from (value for _, value in records)
        elif not attributes & CONTROL:
            open_records.setdefault(producer, []).extend(value for _, value in records)
        else:
            ((mark, _),) = records
            ended = open_records.pop(producer, [])
            if struct.unpack(">hh", mark)[1] == COMMIT:
                yield from ended


def _iter_batches(broker: str, topic: str, partition: int) -> Iterator[tuple[int, int, list[tuple[bytes, bytes]]]]:
    offset, found = 0, True
    host, port = broker.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as connection:
        while found:
            content, at, found = _fetch(connection, topic, partition, offset), 0, False
            while at + BATCH.size <= len(content):
                first, length, *_, attributes, last, _, _, producer, _, _, count = BATCH.unpack_from(content, at)
                stop = at + 12 + length
                if stop > len(content):
                    break
                if first + last >= offset:
                    yield attributes, producer, _read_records(content[at + BATCH.size : stop], count)
                    offset, found = first + last + 1, True
                at = stop


def _fetch(connection: socket.socket, topic: str, partition: int, offset: int) -> bytes:
    """Ask for batches from an offset on."""
    wanted = struct.pack(">i", 1) + _text(topic) + struct.pack(">iiqi", 1, partition, offset, MOST_BYTES)
    told = struct.pack(">iiiib", -1, PATIENCE_MS, 1, MOST_BYTES, 1)
    request = struct.pack(">hhi", FETCH, VERSION, 0) + _text("committed") + told + wanted
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _receive(connection, 4))
    answer = _receive(connection, size)
    (letters,) = struct.unpack_from(">h", answer, 12)
    at = 12 + 2 + letters + 4
    _, error, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
    if error:
        raise SystemExit(f"{topic} cannot be read: error {error} of Kafka's protocol")
    return answer[at + 26 + 16 * max(0, aborted) + 4 :]


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _receive(connection: socket.socket, size: int) -> bytes:
    with connection.makefile("rb", buffering=0) as file:
        content = b""
        while len(content) < size:
            content += file.read(size - len(content)) or _gone()
        return content


def _gone() -> bytes:
    raise SystemExit("the broker is gone")


def _read_records(data: bytes, count: int) -> list[tuple[bytes, bytes]]:
    """Give key and value of each record."""
    found, at = [], 0
    for _ in range(count):
        size, at = _read_varint(data, at)
        stop = at + size
        _, at = _read_varint(data, at + 1)  # the time, behind the attributes
        _, at = _read_varint(data, at)  # the offset
        key, at = _read_bytes(data, at)
        value, at = _read_bytes(data, at)
        found.append((key, value))
        at = stop
    return found


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _read_varint(data, at)
    stop = at + max(0, size)
    return data[at:stop], stop


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at
