"""Alert packets for benchmarks: those of ZTF in the folder OTRAIN_DATA, else made up; each with a candid of its own."""

import gzip
import io
import os
from collections.abc import Iterator
from pathlib import Path

import fastavro
import numpy as np
from astropy.io import fits

from otrain_infer.avro import read_header
from otrain_train.mock import MockSettings, write_mock

SIZE = 63
CUTOUTS = {"cutoutScience": "SCI", "cutoutTemplate": "REF", "cutoutDifference": "DIFF"}
FIRST_CANDID = 2_400_000_000_000_000_000

_CANDIDATE = {
    "jd": "double", "fid": "int", "pid": "long", "diffmaglim": ["null", "float"], "candid": "long",
    "isdiffpos": "string",
    "rcid": ["null", "int"], "field": ["null", "int"], "xpos": ["null", "float"], "ypos": ["null", "float"],
    "ra": "double", "dec": "double", "magpsf": "float", "sigmapsf": "float", "fwhm": ["null", "float"],
    **{f"figure{k}": ["null", "float"] for k in range(80)},
}  # fmt: skip


def describe() -> str:
    """Say which packets these are."""
    if "OTRAIN_DATA" in os.environ:
        return "real packets of ZTF, over and over, each with a candid of its own"
    return "made-up packets, laid out as ZTF's (OTRAIN_DATA, which names a folder of real ones, is not set)"


def make_packets(n: int, folder: Path) -> list[bytes]:
    """Make n Avro containers of one alert each; `folder` is for what that needs."""
    written = []
    for schema, records in _groups(folder):
        file = io.BytesIO()
        fastavro.writer(file, schema, [])
        content = file.getvalue()
        header = read_header(memoryview(content), 0, len(content))
        written += [(content[: header.stop], header.sync, schema, record) for record in records]
    # Those of one schema come together, as in a night.
    return [_write(*written[k * len(written) // n], FIRST_CANDID + k) for k in range(n)]


def replace_candid(packet: bytes, old: int, new: int) -> bytes:
    """Give the k-th packet of `make_packets` the number of another, both counted from 0."""
    return packet.replace(_long(FIRST_CANDID + old), _long(FIRST_CANDID + new))


def _write(beginning: bytes, sync: bytes, schema: dict, record: dict, candid: int) -> bytes:
    body = io.BytesIO()
    record = record | {"candid": candid, "candidate": record["candidate"] | {"candid": candid}}
    fastavro.schemaless_writer(body, schema, record)
    return beginning + _long(1) + _long(body.tell()) + body.getvalue() + sync


def _long(value: int) -> bytes:
    file = io.BytesIO()
    fastavro.schemaless_writer(file, "long", value)
    return file.getvalue()


def _groups(folder: Path) -> Iterator[tuple[dict, list[dict]]]:
    if "OTRAIN_DATA" not in os.environ:
        yield _made_up(folder)
        return
    groups: dict[str, tuple[dict, list[dict]]] = {}
    for path in sorted(Path(os.environ["OTRAIN_DATA"], "alerts").glob("*.avro")):
        with path.open("rb") as file:
            reader = fastavro.reader(file)
            record = next(reader)
            if "magpsf" in record.get("candidate", {}) and _is_whole(record):
                schema = reader.writer_schema
                groups.setdefault(str(schema), (schema, []))[1].append(record)
    yield from groups.values()


def _is_whole(record: dict) -> bool:
    """Tell whether all stamps are there and of full size, so that every way of padding gives the same."""
    return all(image.shape == (SIZE, SIZE) for name in CUTOUTS if (image := open_stamp(record.get(name))) is not None)


def open_stamp(field: dict | None) -> np.ndarray | None:
    """Open a stamp with astropy."""
    if not isinstance(field, dict):
        return np.empty(0)
    with fits.open(io.BytesIO(gzip.decompress(field["stampData"])), ignore_missing_simple=True) as hdus:
        return hdus[0].data


def _made_up(folder: Path, n: int = 64) -> tuple[dict, list[dict]]:
    def record(name: str, fields: dict) -> dict:
        return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}

    earlier = {key: kind if isinstance(kind, list) else ["null", kind] for key, kind in _CANDIDATE.items()}
    stamp = record("ztf.alert.cutout", {"fileName": "string", "stampData": "bytes"})
    fields = {
        "schemavsn": "string",
        "objectId": "string",
        "candid": "long",
        "candidate": record("ztf.alert.candidate", _CANDIDATE),
        "prv_candidates": {"type": "array", "items": record("ztf.alert.prv_candidate", earlier)},
    }
    kinds = [stamp, "ztf.alert.cutout", "ztf.alert.cutout"]
    fields |= {name: ["null", kind] for name, kind in zip(CUTOUTS, kinds, strict=True)}
    settings = MockSettings(
        n // 2, n // 2, size=SIZE, planes=(*CUTOUTS.values(),), edge_fraction=0, nan_fraction=0, seed=3
    )
    write_mock(folder / "mock", settings)
    records = []
    for path in sorted((folder / "mock").glob("*/*.fits")):
        with fits.open(path) as hdus:
            images = {name: hdus[plane].data for name, plane in CUTOUTS.items()}
        records.append(_fill(images))
    return fastavro.parse_schema(record("ztf.alert", fields)), records


def _fill(images: dict[str, np.ndarray]) -> dict:
    candidate = {
        "jd": 2460000.75, "fid": 2, "pid": 1, "candid": 0, "isdiffpos": "t", "rcid": 5, "xpos": 500.0, "ypos": 400.0,
        "ra": 10.5, "dec": -3.25, "magpsf": 18.5, "sigmapsf": 0.05, "fwhm": 2.5,
    } | {f"figure{k}": 0.5 * k for k in range(80)}  # fmt: skip
    return {
        "schemavsn": "3.3",
        "objectId": "ZTF00aaaaaaa",
        "candidate": candidate,
        "prv_candidates": [candidate] * 20,
        **{name: {"fileName": "x.fits.gz", "stampData": _pack(image)} for name, image in images.items()},
    }


def _pack(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    fits.PrimaryHDU(image).writeto(file)
    return gzip.compress(file.getvalue())
