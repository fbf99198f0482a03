"""Schemas of messages that do not carry their own: from a file, a folder of numbered files, or a registry."""

import base64
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from time import monotonic
from typing import Any

from otrain_infer import avro
from otrain_infer.errors import MissingExtraError, PacketError, SourceError, UsageError, in_brief

SECRET = "OTRAIN_REGISTRY_AUTH"  # noqa: S105 (the name of the variable)
"""Environment variable with user:password for a registry that asks for them."""

TIMEOUT = 10.0
"""How long a registry may take to answer (s)."""

SCHEMA_NOT_FOUND = 40403
"""What a registry says besides 404."""

LARGEST_ANSWER = 4 * avro.LARGEST_SCHEMA


class SchemaFile:
    """One schema, of all messages.

    Parameters
    ----------
    path
        JSON, as .avsc; what it refers to is looked for beside it, in files with the names of the types.

    Raises
    ------
    UsageError
        When it cannot be used.
    """

    numbered = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._schema = load_schema(path)

    def find(self, number: int | None) -> avro.Schema:  # noqa: ARG002
        """Give the schema."""
        return self._schema


class SchemaFolder:
    """Schemas in a folder, each in a file that is named by its number, such as 704.avsc."""

    numbered = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if not any(each.stem.isdecimal() for each in self._path.glob("*.avsc")):
            raise UsageError(f"in the folder '{path}' is no schema that is named by its number, such as 704.avsc")

    def find(self, number: int | None) -> avro.Schema:
        """Give the schema of a number; raises PacketError where there is none, or none that can be used."""
        path = self._path / f"{_told(number)}.avsc"
        if not path.is_file():
            raise PacketError(f"its schema {number} is not in the folder '{self._path}'")
        try:
            return load_schema(path)
        except UsageError as error:  # a file that is still being copied, say
            raise PacketError(str(error)) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: what was asked for is then refused, with the code that said so."""


def _is_missing(answer: Any) -> bool:
    """Tell whether a registry says so, and not something on the way to it that knows nothing of schemas."""
    try:
        return bool(json.loads(_read(answer))["error_code"] == SCHEMA_NOT_FOUND)
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError, RecursionError):
        return False


def _read(answer: Any) -> bytes:
    """Read an answer, in its time; raises OSError where it takes longer."""
    until, content = monotonic() + TIMEOUT, b""
    while piece := answer.read1(1 << 16):
        content += piece
        if monotonic() > until or len(content) > LARGEST_ANSWER:
            raise OSError("it takes too long, or says too much")
    return content


class SchemaRegistry:
    """Schemas of a registry, as Confluent's answers.

    Parameters
    ----------
    url
        Of the registry; user and password, where it asks for them, are taken from the variable `SECRET`.
    """

    numbered = True

    def __init__(self, url: str) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise UsageError(f"the address of the registry is no registry's ({error})") from None
        if "@" in parts.netloc:
            raise UsageError(f"the user and password of a registry are taken from {SECRET} alone")
        if parts.scheme not in ("http", "https"):
            raise UsageError(f"'{url}' is no registry: its address begins with http:// or https://")
        self._url = url.rstrip("/")
        # Another host is not to be told the password.
        self._opener = urllib.request.build_opener(_NoRedirects)

    def find(self, number: int | None) -> avro.Schema:
        """Give the schema of a number.

        Raises
        ------
        PacketError
            When the registry has none of this number.
        SourceError
            When the registry does not answer as one.
        """
        request = urllib.request.Request(f"{self._url}/schemas/ids/{_told(number)}")  # noqa: S310 (see above)
        secret = os.environ.get(SECRET)
        if secret:
            request.add_header("Authorization", "Basic " + base64.b64encode(secret.encode()).decode())
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                content = json.loads(_read(answer))
        except urllib.error.HTTPError as error:
            if error.code == 404 and _is_missing(error):
                raise PacketError(f"its schema {number} is not in the registry {self._url}") from None
            raise SourceError(
                f"the registry {self._url} refuses the schema {number} ({error.code} {error.reason})"
            ) from None
        except (ValueError, RecursionError):
            raise SourceError(f"what answers at {self._url} is no registry of schemas") from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", None) or in_brief(error)
            raise SourceError(f"the registry {self._url} does not answer ({why})") from None
        if not isinstance(content, dict) or not isinstance(content.get("schema"), str):
            raise SourceError(f"what answers at {self._url} is no registry of schemas")
        return avro.parse_schema(content["schema"])


def open_schemas(where: str) -> SchemaFile | SchemaFolder | SchemaRegistry:
    """Open the schemas that a file, a folder or the address of a registry stands for; raises UsageError for neither."""
    if "://" in where:
        return SchemaRegistry(where)
    return SchemaFolder(where) if os.path.isdir(where) else SchemaFile(where)


def load_schema(path: str | os.PathLike[str]) -> avro.Schema:
    """Read a schema from a file; types that it only names are looked for beside it, in files with their names.

    Raises
    ------
    UsageError
        When it cannot be read or is none.
    MissingExtraError
        When fastavro, which finds the other files, is needed and not installed.
    """
    try:
        schema = avro.parse_schema(Path(path).read_bytes())
        if not isinstance(schema, dict | list | str):
            raise PacketError("its schema is no Avro schema")
    except (OSError, PacketError) as error:
        why = getattr(error, "strerror", None) or str(error).removeprefix("its schema ")
        raise UsageError(f"the schema '{path}' cannot be used ({why})") from None
    try:
        avro.compile_schema(schema, ())
    except PacketError:
        return _load_with_others(path)
    return schema


def _load_with_others(path: str | os.PathLike[str]) -> avro.Schema:
    try:
        import fastavro.schema
    except ImportError:
        raise MissingExtraError("schemas in several files need fastavro: pip install 'otrain[avro]'") from None
    try:
        return fastavro.schema.load_schema(os.fspath(path))
    except Exception as error:  # noqa: BLE001 (whatever it stumbles on, this file is what cannot be used)
        raise UsageError(f"the schema '{path}' cannot be used ({error.__cause__ or error})") from None


def _told(number: int | None) -> int:
    if number is None:
        raise PacketError("it does not tell the number of its schema")
    return number
