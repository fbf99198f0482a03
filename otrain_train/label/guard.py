"""Who may use the page: whoever has the token, from a page of this server, under a name that this server goes by."""

import hmac
import ipaddress
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_TOKEN = "Open the address that otrain-label printed: it holds the token that this page asks for.\n"  # noqa: S105
TOKEN_PATH = "/api/token"  # noqa: S105
"""Where the page gets the token for what opens it once."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def kept_token() -> tuple[str, bool]:
    """Give the token of this user, the same each time so that open pages go on, and whether it could be kept.

    It lies in a file of mode 600 in the folder for the state of programs ($XDG_STATE_HOME or ~/.local/state).
    """
    with suppress(OSError, RuntimeError):  # a user without a home, or one that cannot be written
        state = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
        path = state / "otrain" / "label-token"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and not _is_private(path):
            path.unlink()  # others have seen it
        if not path.exists():
            _write_token(path)
        token = path.read_text().strip()
        if len(token) >= 20 and _is_private(path):
            return token, True
    return secrets.token_urlsafe(24), False


def _is_private(path: Path) -> bool:
    return os.name != "posix" or path.stat().st_mode & 0o077 == 0


def _write_token(path: Path) -> None:
    # Under another name first: whoever starts at the same moment finds all of it, or none.
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Lets requests through that show the token and are no other site's.

    The page itself, which says nothing, is for all who can reach it; what it asks for shows the token in a header. A
    cookie would be shown to every other server on this machine as well.

    Parameters
    ----------
    app
        That is guarded.
    token
        What must be known.
    host
        Where the server listens.

    Attributes
    ----------
    once
        Opens the page once, so that others who see how a browser was started know nothing.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app, self._token = app, token
        self._anywhere = not is_loopback(host)
        self._names = {"localhost", host.lower()}
        if self._anywhere:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self.once = secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse to."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        app = self._app
        if why := self._why_not(headers, scope["method"]):
            app = PlainTextResponse(why, status_code=403)
        elif scope["path"] == TOKEN_PATH:
            app = self._exchange(scope)
        elif scope["path"].startswith("/api/") and not _is_same(_bearer(headers), self._token):
            app = PlainTextResponse(NO_TOKEN, status_code=403)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found[name] = value
                found.setdefault("Cache-Control", "no-store")
            await send(message)

        await app(scope, receive, send_with_headers)

    def _exchange(self, scope: Scope) -> ASGIApp:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("once", [""])[0]
        if not self.once or not _is_same(given, self.once):
            return PlainTextResponse(NO_TOKEN, status_code=403)
        self.once = ""
        return PlainTextResponse(self._token)

    def _why_not(self, headers: Headers, method: str) -> str:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "This is no name of this server.\n"  # as when the name of another site was made to lead here
        ours = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        followed = method == "GET" and headers.get("sec-fetch-mode") == "navigate"  # a link to the page itself
        if not (ours or followed) or headers.get("origin", f"http://{host}") != f"http://{host}":
            return "This is for pages of this server alone.\n"
        return ""

    def _is_ours(self, host: str) -> bool:
        # Any port: a tunnel may begin at another one.
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.removeprefix("[").removesuffix("]").lower()
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._anywhere


def _bearer(headers: Headers) -> str:
    return headers.get("authorization", "").removeprefix("Bearer ")


def _is_same(given: str, secret: str) -> bool:
    return bool(hmac.compare_digest(given.encode(), secret.encode()))
