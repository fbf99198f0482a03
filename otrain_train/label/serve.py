"""The server of the page: where it listens, what it prints, and how it ends."""

import errno
import logging
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from otrain_infer.errors import MissingExtraError, OutputError, UsageError
from otrain_train.label.desk import Desk, DeskSettings

log = logging.getLogger(__name__)

PORT = 8642

SECONDS_TO_END = 2


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the page is served.

    Attributes
    ----------
    host
        Name or address to listen on.
    port
        0 takes any that is free.
    token
        What the page asks for; if empty, that which is kept for the user.
    browser
        Whether to open the page.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    token: str = ""
    browser: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"{self.port} is no port: give one from 0 to 65535")
        if self.token and (len(self.token) < 8 or quote(self.token, safe="") != self.token):
            raise UsageError("a token has 8 letters or more, of those that an address may hold as they are")


def serve(folder: Path, desk_settings: DeskSettings, settings: ServerSettings) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Prints its address on stdout.

    Raises
    ------
    MissingExtraError
        When Starlette or Uvicorn is not installed.
    OutputError
        When the port is taken, or the host is not of this machine.
    OtrainError
        As of `Desk`.
    """
    try:
        import uvicorn

        from otrain_train.label.app import make_app
        from otrain_train.label.guard import Guard, is_loopback, kept_token
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"otrain-label needs {error.name}: pip install 'otrain[label]'") from None
    with _listen(settings) as listening:
        desk = Desk(folder, desk_settings)
        port = listening.getsockname()[1]
        token, kept = (settings.token, True) if settings.token else kept_token()
        if not kept:
            log.warning("the token cannot be kept: after a restart, open pages ask for the new address")
        if not is_loopback(settings.host):
            log.warning(
                "%s can be reached from other machines, and what goes there is not encrypted: whoever sees the token "
                "can vote and move files",
                settings.host,
            )
        guard = Guard(make_app(desk), token, settings.host)
        config = uvicorn.Config(
            guard,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
        server = uvicorn.Server(config)
        with _ending(server):
            desk.scores.start()
            address = f"http://{_in_address(settings.host)}:{port}/"
            print(f"{address}?token={token}", flush=True)  # noqa: T201 (the result of this command)
            if settings.browser:
                # In a thread, for some browsers stay in front; and what is on their command line is seen by all.
                threading.Thread(target=webbrowser.open, args=(f"{address}?once={guard.once}",), daemon=True).start()
            log.info("%d candidates, votes go to '%s'; Ctrl-C ends it", len(desk.candidates), desk.journal.path)
            try:
                server.run(sockets=[listening])
            finally:
                desk.scores.stop()


@contextmanager
def _ending(server: Any) -> Iterator[None]:
    # Ctrl-C and SIGTERM are how it is meant to end; the server itself would raise them again when it has ended.
    server.capture_signals = nullcontext
    asked = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, server.handle_exit) for each in asked]
    try:
        yield
    finally:
        for each, handler in zip(asked, before, strict=True):
            signal.signal(each, handler)


def _in_address(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 (what was asked for)
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise OutputError(
                f"port {settings.port} is taken, perhaps by another otrain-label: give another --port, or 0 for any"
            ) from None
        raise OutputError(f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error})") from None
    return listening
