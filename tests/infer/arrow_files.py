"""The alerts of `packet_files` as tables of Arrow, of the types that a reader of their Avro makes of them."""

import pyarrow as pa
from packet_files import SCHEMAS

SIMPLE = {
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.binary(),
}


def arrow_type(kind, named):
    """The type of one of Avro; `named` are the records told so far."""
    if isinstance(kind, list):
        (kind,) = [each for each in kind if each != "null"]
    if isinstance(kind, str):
        return SIMPLE.get(kind) or named[kind]
    if kind["type"] == "array":
        return pa.list_(arrow_type(kind["items"], named))
    made = pa.struct([(field["name"], arrow_type(field["type"], named)) for field in kind["fields"]])
    named[kind["name"]] = made
    return made


def table(survey, *alerts):
    return pa.Table.from_pylist(list(alerts), pa.schema(list(arrow_type(SCHEMAS[survey], {}))))
