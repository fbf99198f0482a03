"""Alert packets, written by fastavro as each survey lays them out."""

import gzip
import io
import struct

import fastavro
from astropy.io import fits
from cutout_files import draw

CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")


def stamp(image, packed=True, others=()) -> bytes:
    """An image as a FITS file, with others as extensions behind it."""
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(image), *(fits.ImageHDU(each, name=name) for name, each in others)]).writeto(file)
    return gzip.compress(file.getvalue(), 1) if packed else file.getvalue()


def images(seed, shape=(63, 63)):
    """Those of the three planes."""
    return [draw(100 * seed + k, shape) for k in range(3)]


def record(name, **fields):
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}


def optional(kind):
    return ["null", kind]


LIKE_ZTF = {
    "jd": "double", "fid": "int", "diffmaglim": optional("float"), "candid": "long", "ra": "double", "dec": "double",
    "xpos": optional("float"), "ypos": optional("float"), "magpsf": "float", "sigmapsf": "float",
    "fwhm": optional("float"),
}  # fmt: skip


def _history(name, candidate):
    """Earlier candidates, of which nothing is wanted."""
    kinds = {key: kind if isinstance(kind, list) else optional(kind) for key, kind in candidate.items()}
    return optional({"type": "array", "items": record(name, **kinds)})


def _stamped(kind, names=CUTOUTS):
    """Fields for the stamps; a record is told where it comes first, and named after that."""
    name = kind["name"] if isinstance(kind, dict) else kind
    return {each: optional(name if k else kind) for k, each in enumerate(names)}


def _in_record(name):
    return record(name, fileName="string", stampData="bytes")


_ZTF = {**LIKE_ZTF, "rcid": optional("int"), "pdiffimfilename": optional("string"), "isdiffpos": "string"}
_WINTER = {**LIKE_ZTF, "progname": "string", "isdiffpos": "boolean"}
_PGIR = {key: kind for key, kind in LIKE_ZTF.items() if key != "fid"} | {
    "stackquadid": "long",
    "pdiffimfilename": "string",
}
_TURBO = {**LIKE_ZTF, "isdiffpos": ["float"]}
_DECAM = {"mjd": "double", "band": "string", "ra": "double", "dec": "double"} | dict.fromkeys(
    ("forcediffimmag", "forcediffimmagunc"), "double"
)
_ATLAS = dict.fromkeys(("RA", "Dec", "Mag", "Dmag", "X", "Y", "Major", "mjd"), "double") | {"filter": "string"}
_LSST = {
    "diaSourceId": "long", "diaObjectId": optional("long"), "ssObjectId": optional("long"), "midpointMjdTai": "double",
    "ra": "double", "dec": "double", "x": "float", "y": "float", "psfFlux": optional("float"),
    "psfFluxErr": optional("float"), "band": optional("string"), "ixx": optional("float"), "iyy": optional("float"),
    "ixxPSF": optional("float"), "iyyPSF": optional("float"), "pixelFlags_edge": optional("boolean"),
}  # fmt: skip

_BYTES = dict.fromkeys(CUTOUTS, "bytes")
NAMED = {"objectId": "string", "candid": "long"}
SMALL = ("cutout_science", "cutout_template", "cutout_difference")

SCHEMAS = {
    "ztf": record(
        "ztf.alert", schemavsn="string", **NAMED, candidate=record("ztf.alert.candidate", **_ZTF),
        prv_candidates=_history("ztf.alert.prv_candidate", _ZTF), **_stamped(_in_record("ztf.alert.cutout")),
    ),
    "lsst": record(
        "lsst.v10_0.alert", diaSourceId="long", diaSource=record("lsst.v10_0.diaSource", **_LSST),
        prvDiaSources=optional({"type": "array", "items": "lsst.v10_0.diaSource"}), **_stamped("bytes"),
    ),
    "winter": record(
        "winter.alert", objectid="string", candid="long", candidate=record("winter.candidate", **_WINTER),
        prv_candidates=_history("winter.prv_candidate", _WINTER), **dict.fromkeys(SMALL, "bytes"),
    ),
    "pgir": record("pgir.alert", **_BYTES, **NAMED, candidate=record("pgir.candidate", **_PGIR)),
    "turbo": record("turbo.alert", **NAMED, candidate=record("turbo.candidate", **_TURBO), **_stamped("bytes")),
    "decam": record("alert", **NAMED, candidate=record("candidate", **_DECAM), **_BYTES),
    "atlas": record(
        "atlas.alert", candidate=record("atlas.candidate", **_ATLAS), candid="string", objectId="string",
        **_stamped(_in_record("atlas.cutout")),
    ),
}  # fmt: skip

SIZES = {"winter": (81, 81), "lsst": (30, 30)}


def alert(survey, seed=0, *, shape=None, packed=None, **changes):
    """A packet as fastavro takes it, with an image for each plane; `changes` are of the candidate."""
    packed = survey != "lsst" if packed is None else packed
    drawn = images(seed, shape or SIZES.get(survey, (63, 63)))
    others = [("UNCERT", drawn[0] ** 2), ("PSFIMAGE", draw(9, (41, 41)))] if survey == "lsst" else ()
    stamps = [stamp(each, packed, others) for each in drawn]
    if survey in ("ztf", "atlas"):
        stamps = [{"fileName": f"{seed}.fits.gz", "stampData": each} for each in stamps]
    shared = {"ra": 10.5 + seed, "dec": -3.25, "candid": 7000 + seed}
    like_ztf = {
        **shared, "jd": 2460000.75, "fid": 2, "diffmaglim": 20.5, "xpos": 500.25, "ypos": 400.5, "magpsf": 18.5,
        "sigmapsf": 0.0625, "fwhm": 3.125, "pdiffimfilename": "night1.fits",
    }  # fmt: skip
    candidate = {
        "ztf": {**like_ztf, "rcid": 5, "isdiffpos": "t"},
        "winter": {**like_ztf, "progname": "p", "isdiffpos": True},
        "pgir": {**like_ztf, "stackquadid": 3},
        "turbo": {**like_ztf, "isdiffpos": 1.0},
        "decam": {**shared, "mjd": 60000.25, "band": "g", "forcediffimmag": 21.5, "forcediffimmagunc": 0.25},
        "atlas": {
            "RA": 10.5 + seed, "Dec": -3.25, "Mag": -17.5, "Dmag": 0.125, "X": 500.25, "Y": 400.5, "Major": 2.5,
            "mjd": 60000.25, "filter": "o",
        },
        "lsst": {
            **shared, "diaSourceId": 7000 + seed, "diaObjectId": None, "ssObjectId": 12, "midpointMjdTai": 60000.25,
            "x": 500.25, "y": 400.5, "psfFlux": -1000.0, "psfFluxErr": 100.0, "band": "i", "ixx": 0.25, "iyy": 0.25,
            "ixxPSF": 0.16, "iyyPSF": 0.16, "pixelFlags_edge": False,
        },
    }[survey] | changes  # fmt: skip
    names = SMALL if survey == "winter" else CUTOUTS
    packet = {"schemavsn": "1", "objectId": f"OBJ{seed}", "objectid": f"OBJ{seed}", "candid": 7000 + seed}
    packet |= {"candidate": candidate, "diaSource": candidate, "diaSourceId": 7000 + seed}
    packet |= {"prv_candidates": [candidate] * 3, "prvDiaSources": [candidate] * 3}
    if survey == "atlas":
        packet["candid"] = f"01a_{seed}"
    return packet | dict(zip(names, stamps, strict=True))


def container(survey, *alerts, codec="null") -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, SCHEMAS[survey], alerts, codec=codec, sync_interval=1)
    return file.getvalue()


def message(survey, packet, number=None) -> bytes:
    """A message without its schema; where its number is given, that in front, as Confluent's clients write it."""
    file = io.BytesIO()
    fastavro.schemaless_writer(file, SCHEMAS[survey], packet)
    return (b"" if number is None else struct.pack(">bI", 0, number)) + file.getvalue()
