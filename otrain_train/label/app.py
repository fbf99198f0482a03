"""The web application: the page, and what it asks for."""

import json
import struct
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otrain_infer.errors import OtrainError, OutputError, UsageError
from otrain_train.label.desk import Desk, check_labeller
from otrain_train.label.stretch import STRETCHES

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

MOST_AT_ONCE = 200
"""Candidates asked for, or votes given, in one request."""

LARGEST_BODY = 1 << 20

Answer = Callable[[Desk, Request, Any], Any]


class RefusedError(Exception):
    """A request that cannot be answered: a status and a sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def make_app(desk: Desk) -> Starlette:
    """Make the application that a desk is worked with through."""
    files = [
        each for each in resources.files("otrain_train.label").joinpath("page").iterdir() if _ending(each.name) in KINDS
    ]
    routes = [_page("/" if each.name == "page.html" else f"/{each.name}", each) for each in files]
    for path, (method, answer) in _ANSWERS.items():
        routes.append(Route(path, _endpoint(desk, answer), methods=[method]))
    return Starlette(routes=routes)


def _ending(name: str) -> str:
    return name[name.rfind(".") :]


def _page(path: str, file: Traversable) -> Route:
    content, kind = file.read_bytes(), KINDS[_ending(file.name)]

    async def page(_: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(path, page)


def _endpoint(desk: Desk, answer: Answer) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            body = await _json(request) if request.method == "POST" else None
            found = await run_in_threadpool(answer, desk, request, body)
        except RefusedError as error:
            return _said({"error": str(error)}, error.status)
        except OutputError as error:
            return _said({"error": str(error)}, 507)
        except KeyError as error:
            return _said({"error": f"{error} is missing"}, 400)
        except (OtrainError, ValueError, TypeError, OverflowError) as error:
            return _said({"error": str(error) or "it makes no sense"}, 400)
        return found if isinstance(found, Response) else _said(found)

    return endpoint


def _said(what: Any, status: int = 200) -> Response:
    # In ASCII: names of files need not be text.
    return Response(json.dumps(what, separators=(",", ":")), status, media_type="application/json")


async def _json(request: Request) -> Any:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise RefusedError(413, "that is too much at once")
    body = json.loads(content)
    if not isinstance(body, dict):
        raise UsageError("it makes no sense")
    return body


def _index(desk: Desk, text: str) -> int:
    # By number alone: no path comes from the page.
    if not text.isdecimal() or len(text) > 9 or int(text) >= len(desk.candidates):
        raise UsageError("there is no such candidate")
    return int(text)


def _check_listing(desk: Desk, request: Request) -> None:
    if request.query_params.get("listing") != desk.listing:
        raise RefusedError(409, "the folder holds other candidates now: load the page again")


def _labeller(desk: Desk, request: Request) -> str:
    return check_labeller(request.query_params.get("labeller", desk.settings.labeller))


def _start(desk: Desk, request: Request, _: Any) -> Any:
    return desk.describe(_labeller(desk, request))


def _state(desk: Desk, request: Request, _: Any) -> Any:
    known = request.query_params
    return desk.state(_labeller(desk, request), known.get("journal", ""), int(known.get("votes", "-1")))


def _order(desk: Desk, request: Request, _: Any) -> Response:
    _check_listing(desk, request)
    return _binary(desk.order(request.query_params["order"]).astype("<u4").tobytes())


def _scores(desk: Desk, request: Request, _: Any) -> Response:
    _check_listing(desk, request)
    return _binary(desk.scores.values.astype("<f4").tobytes())


def _tiles(desk: Desk, request: Request, _: Any) -> Response:
    # The length of a JSON text, the text, and behind it the shades: both of all that were asked for.
    _check_listing(desk, request)
    indices = [_index(desk, each) for each in request.query_params["i"].split(",", MOST_AT_ONCE)]
    stretch = request.query_params.get("stretch", STRETCHES[0])
    if stretch not in STRETCHES:
        raise UsageError(f"there is no such stretch: take one of {', '.join(STRETCHES)}")
    said, shades = desk.show(indices, stretch, request.query_params.get("small") == "1")
    text = json.dumps({"shape": shades.shape, "items": said}).encode()
    return _binary(struct.pack("<I", len(text)) + text + shades.tobytes())


def _others(desk: Desk, request: Request, _: Any) -> Any:
    _check_listing(desk, request)
    return desk.others(_index(desk, request.query_params["i"]), _labeller(desk, request))


def _explain(desk: Desk, request: Request, _: Any) -> Response:
    _check_listing(desk, request)
    found = desk.explain(_index(desk, request.query_params["i"]), request.query_params["kind"])
    return _binary(struct.pack("<II", *found.shape) + found.tobytes())


def _vote(desk: Desk, _: Request, body: Any) -> Any:
    votes = body["votes"]
    if not isinstance(votes, list) or len(votes) > MOST_AT_ONCE:
        raise UsageError("that is no list of votes")
    return desk.vote(str(body["labeller"]), votes)


def _agreement(desk: Desk, _: Request, __: Any) -> Any:
    return desk.agreement()


def _plan(desk: Desk, _: Request, __: Any) -> Any:
    plan = desk.plan()
    return {"moves": len(plan.moves), "said": str(plan)}


def _move(desk: Desk, _: Request, body: Any) -> Any:
    return {"moved": desk.undo_moves() if body.get("undo") else desk.move()}


def _binary(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")


_ANSWERS: dict[str, tuple[str, Answer]] = {
    "/api/start": ("GET", _start),
    "/api/state": ("GET", _state),
    "/api/order": ("GET", _order),
    "/api/scores": ("GET", _scores),
    "/api/tiles": ("GET", _tiles),
    "/api/others": ("GET", _others),
    "/api/explain": ("GET", _explain),
    "/api/votes": ("POST", _vote),
    "/api/agreement": ("GET", _agreement),
    "/api/plan": ("GET", _plan),
    "/api/moves": ("POST", _move),
}
