"""An ONNX file looked into without the onnx package: whether all of its weights are in it."""

from collections.abc import Iterator

from otrain_infer.errors import ModelError

# Of each message of onnx.proto, the fields that are messages in which there may be a tensor, and which messages.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA_LOCATION = 14  # a field of a tensor: 0, or not there, if it is in the file itself
_VARINT, _EIGHT_BYTES, _CHUNK, _FOUR_BYTES = 0, 1, 2, 5


def check_whole(content: bytes, source: str) -> None:
    """Raise ModelError if a tensor of a model lies in another file: onnxruntime would read it, wherever that is."""
    if b"location" not in content:  # the key of where it lies
        return
    left = [("model", 0, len(content))]
    try:
        while left:
            kind, *span = left.pop()
            for field, wire, start, stop in _iter_fields(content, *span):
                if wire == _CHUNK and field in _MESSAGES[kind]:
                    left.append((_MESSAGES[kind][field], start, stop))
                elif kind == "tensor" and field == _DATA_LOCATION and any(byte & 127 for byte in content[start:stop]):
                    raise ModelError(f"{source} cannot be used: some of its weights lie in another file; save it whole")
    except IndexError:
        raise ModelError(f"{source} is not an ONNX model that onnxruntime can run (it is damaged)") from None


def _iter_fields(content: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Give (number, wire type, start, stop) of each field of a message as protocol buffers encode it.

    Raises
    ------
    IndexError
        When it is damaged, or holds the groups of old, which ONNX never had.
    """
    while at < stop:
        tag, at = _read_varint(content, at)
        number, wire, start = (tag & 0xFFFFFFFF) >> 3, tag & 7, at
        if wire == _VARINT:
            _, at = _read_varint(content, at)
        elif wire == _CHUNK:
            size, start = _read_varint(content, at)
            at = start + size
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if wire == _EIGHT_BYTES else 4
        else:
            raise IndexError
        if at > stop:
            raise IndexError
        yield number, wire, start, at


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """Give (number, where it ends): seven bits a byte, lowest first; raises IndexError where it has no end."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
    raise IndexError
