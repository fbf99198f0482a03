"""The page of otrain-label as it is used: a server process of its own, a real browser, real key presses."""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest

pytest.importorskip("uvicorn", reason="the page needs pip install 'otrain[label]'")
pytest.importorskip("playwright", reason="playwright is needed to use the page in a browser")

from matched import make_matched
from reports import contrast

from otrain_train.mock import MockSettings, write_mock
from otrain_train.votes import read_votes

COMMAND = "import sys; from otrain_train.cli_label import label; sys.exit(label())"
WORDS = {"t": "true", "f": "false", "u": "unsure"}
TOKEN = "a-token-for-tests"  # noqa: S105
READY = ".tile.cursor[aria-busy=false]"


class Server:
    def __init__(self, folder, *options, state, token=TOKEN):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder, self.environment = folder, {**os.environ, "XDG_STATE_HOME": str(state)}
        self.options = ["--port", str(self.port), "--no-browser", *(["--token", token] if token else []), *options]
        self.start()

    def start(self):
        command = [sys.executable, "-c", COMMAND, str(self.folder), *self.options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment)
        self.address = self.process.stdout.readline().strip()

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        code = self.process.wait(20)
        self.process.stdout.close()
        self.said = self.process.stderr.read()
        self.process.stderr.close()
        return code

    def ask(self, path, method="GET", body=None, **headers):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {"Authorization": f"Bearer {TOKEN}"}
        given |= {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, {key: value for key, value in given.items() if value is not None})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, answer.headers


@pytest.fixture
def serve(tmp_path):
    """Start servers, which end with the test."""
    started = []

    def start(folder, *options, **settings):
        started.append(Server(folder, *options, state=tmp_path / "state", **settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.end()


@pytest.fixture
def visit(browser):
    """Open pages, each in a browser of its own, which complain of nothing but of a server that is away."""
    contexts, complaints, refusals = [], [], set()

    def go(address, width=1200, height=800, refused=(), **settings):
        refusals.update(refused)
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(address)
        page.wait_for_selector(READY)
        return page

    yield go
    for context in contexts:
        context.close()
    assert [said for said in complaints if not any(each in said for each in ("ERR_", *refusals))] == []


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """24 mock candidates in two planes that the matched filter scores, and the model."""
    folder = tmp_path_factory.mktemp("mock")
    settings = MockSettings(12, 12, size=24, planes=("SCI", "DIFF"), edge_fraction=0, nan_fraction=0.3, seed=2)
    write_mock(folder / "sorted", settings)
    (folder / "all").mkdir()
    for path in folder.glob("sorted/*/*.fits"):
        shutil.copy(path, folder / "all")
    (folder / "m.onnx").write_bytes(make_matched())
    (folder / "other.onnx").write_bytes(make_matched("other"))
    return folder


@pytest.fixture
def folder(cutouts, tmp_path):
    return shutil.copytree(cutouts / "all", tmp_path / "night <b>&amp;")


def wait_until_sent(page):
    page.wait_for_selector("#unsent[data-count='0']", state="attached", timeout=30_000)


def press(page, keys):
    for key in keys:
        page.keyboard.press(key)


def lines_of(folder):
    return (folder / "labels.csv").read_text().splitlines()[1:]


def test_keys_vote_move_and_undo(serve, visit, folder):
    page = visit(serve(folder, "--labeller", "ada", "--blind-fraction", "0").address)
    assert page.locator("h1").inner_text() == folder.name
    assert "token" not in page.url
    names = sorted(path.name for path in folder.glob("*.fits"))
    press(page, ["t", "f", "ArrowRight", "u", "z", "Home", "f"])
    wait_until_sent(page)
    tally = read_votes(folder / "labels.csv")
    assert tally.of("ada") == {names[0]: "false", names[1]: "false"}
    assert [line.split(",")[4] for line in lines_of(folder)] == ["true", "false", "unsure", "none", "false"]
    assert page.locator(".tile.f").count() == 2
    assert page.locator(".tile.t, .tile.u").count() == 0
    assert page.locator("#counts").inner_text() == "2 of 24 · 0 true, 2 false, 0 unsure"
    assert "false" in page.locator("#live").inner_text()
    press(page, ["Enter"])
    assert page.locator("#single").is_visible()
    assert page.locator("#name").inner_text() == names[2].removesuffix(".fits")  # the next without a vote
    press(page, ["t", "3", "+", "-", "ArrowLeft"])
    assert page.locator("[data-vote=t]").get_attribute("aria-pressed") == "true"
    assert page.locator("[data-stretch=linear]").get_attribute("aria-pressed") == "true"
    press(page, ["Escape"])
    assert page.locator("#grid").is_visible()
    press(page, ["n"])
    assert page.locator(".tile").count() == 21
    press(page, ["?"])
    assert page.locator("#help").is_visible()
    press(page, ["t", "Escape"])  # no vote while the keys are shown
    wait_until_sent(page)
    assert len(lines_of(folder)) == 6


def test_the_page_goes_on_where_it_was(serve, visit, folder):
    server = serve(folder, "--labeller", "ada", "--blind-fraction", "0")
    page = visit(server.address)
    press(page, "tfu")
    wait_until_sent(page)
    page.reload()
    page.wait_for_selector(READY)
    assert [page.locator(f".tile.{letter}").count() for letter in "tfu"] == [1, 1, 1]
    assert page.locator(".tile.cursor").get_attribute("id") == "tile-3"


def test_no_vote_is_lost_when_the_server_is_killed_or_the_page_closed(serve, visit, tmp_path):
    write_mock(tmp_path / "n", MockSettings(80, 80, size=16, planes=("DIFF",), seed=3))
    server = serve(tmp_path / "n", "--labeller", "ada", "--blind-fraction", "0.2")
    page = visit(server.address)
    keys = random.Random(0).choices("tfu", k=150)
    for i, key in enumerate(keys):
        if i == 50:
            server.end(signal.SIGKILL)
        if i == 75:
            assert int(page.locator("#unsent").get_attribute("data-count")) >= 20
            assert "does not answer" in page.locator("#unsent").inner_text()
            server.start()
        if i == 100:
            server.end(signal.SIGKILL)
        if i == 110:  # the page is closed while votes wait, and opened again when the server is there
            server.start()
            page.goto("about:blank")
            page.goto(server.address)
            page.wait_for_selector(READY)
        page.keyboard.press(key)
        time.sleep(0.02)
    wait_until_sent(page)
    written = [line.split(",") for line in lines_of(tmp_path / "n")]
    assert sorted(line[4] for line in written) == sorted(WORDS[key] for key in keys)
    tally = read_votes(tmp_path / "n" / "labels.csv")
    assert (tally.votes, tally.damaged) == (150, [])
    assert len(tally.standing) + sum(map(len, tally.looks.values())) == 150


def test_two_tabs_and_two_labellers_at_once(serve, visit, folder):
    server = serve(folder, "--labeller", "ada", "--blind-fraction", "0")
    ada, bob = visit(server.address), visit(server.address)
    second = ada.context.new_page()
    second.goto(f"http://127.0.0.1:{server.port}/")  # the browser has kept the token
    second.wait_for_selector(READY)
    press(bob, ["l"])
    bob.keyboard.type("bob, <i>=1")
    press(bob, ["Enter"])
    press(second, ["ArrowRight"] * 12)
    for letter in "tfuut":
        press(ada, letter)
        press(second, letter)
        press(bob, "t")
    for page in (ada, bob, second):
        wait_until_sent(page)
    tally = read_votes(folder / "labels.csv")
    assert tally.labellers == ["ada", "bob, <i>=1"]
    assert len(tally.of("ada")) == 10
    assert list(tally.of("bob, <i>=1").values()) == ["true"] * 5
    press(bob, "a")
    bob.wait_for_selector("#kappas td")
    assert bob.locator("#kappas th[scope=row]").inner_text() == "ada and bob, <i>=1"
    assert bob.locator("#kappas td").first.inner_text() == "5"


def test_scores_are_shown_unless_a_look_is_blind_and_maps_lie_on_the_planes(serve, visit, folder, cutouts):
    options = [
        "--model",
        str(cutouts / "m.onnx"),
        "--other-model",
        str(cutouts / "other.onnx"),
        "--order",
        "uncertainty",
    ]
    server = serve(folder, "--labeller", "ada", "--blind-fraction", "0.3", *options)
    page = visit(server.address)
    page.wait_for_selector(".tile .number:has-text('/')")
    start = json.loads(server.ask("/api/start")[1])
    shown = list(zip(*[page.locator(f".tile .{part}").all_inner_texts() for part in ("id", "number")], strict=True))
    veiled = {
        key.removesuffix(".fits") for key, blind in zip(start["keys"], start["blind"], strict=True) if blind == "1"
    }
    assert 0 < len(veiled) < 24
    assert sum(name == "blind look" for name, _ in shown) == len(veiled)
    assert all((name == "blind look") == ("/" not in said) for name, said in shown)
    assert not veiled & {name for name, _ in shown}
    for _ in range(24):
        press(page, "t")
    wait_until_sent(page)
    for line in lines_of(folder):
        _, _, _, candid, _, model, score, look, _, order, _ = line.split(",")
        if look != "again":
            assert look == ("blind" if candid in veiled else "open")
        assert score.count(";") == model.count(";") == (look == "open")
        assert order == "uncertainty"
    press(page, ["Home", "Enter", "g"])
    while page.evaluate("window.otrain.isVeiled(window.otrain.item)"):
        press(page, ["ArrowRight"])
    page.wait_for_selector("#pictures figure:nth-child(3) canvas:visible")
    assert page.locator("#pictures figcaption").all_inner_texts() == ["SCI", "DIFF", "Occlusion"]
    coloured = "[...document.querySelectorAll('#pictures canvas')].map(c => c.getContext('2d')" \
        ".getImageData(8, 8, 8, 8).data.some((v, i, d) => i % 4 === 0 && v !== d[i + 2]))"  # fmt: skip
    assert page.evaluate(coloured)[2]
    assert page.locator("#score .value").count() == 2


def test_files_are_moved_on_request_and_back(serve, visit, folder):
    page = visit(serve(folder, "--labeller", "ada", "--blind-fraction", "0").address)
    names = sorted(path.name for path in folder.glob("*.fits"))
    press(page, "tf")
    wait_until_sent(page)
    assert not (folder / "true").exists()
    press(page, "m")
    page.locator("#move-do:enabled").click()
    page.wait_for_selector("#plan:has-text('Moved: 2.')")
    assert (folder / "true" / names[0]).exists()
    assert (folder / "false" / names[1]).exists()
    press(page, ["Escape", "Home", "f"])
    wait_until_sent(page)
    assert read_votes(folder / "labels.csv").of("ada") == {names[0]: "false", names[1]: "false"}
    press(page, "m")
    page.locator("#move-undo").click()
    page.wait_for_selector("#plan:has-text('Moved back: 2.')")
    assert sorted(path.name for path in folder.glob("*.fits")) == names


def test_a_broken_file_says_why_and_can_be_voted_on(serve, visit, folder):
    (folder / "0.fits").write_text("no cutout")
    page = visit(serve(folder, "--labeller", "ada").address)
    page.wait_for_selector("#tile-0 .why:has-text('FITS')")
    press(page, "f")
    wait_until_sent(page)
    assert read_votes(folder / "labels.csv").of("ada") == {"0.fits": "false"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_letters_stand_out(serve, visit, folder, scheme):
    page = visit(serve(folder, "--blind-fraction", "0").address, width=400, height=800, color_scheme=scheme)
    colours = """[["body", "backgroundColor"], ["body", "color"], ["#counts", "color"]].map(
        ([e, k]) => getComputedStyle(document.querySelector(e))[k].match(/\\d+/g).slice(0, 3).map(Number))"""
    for keys in ("", ["t", "Enter"]):
        press(page, keys)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        beyond = """[...document.querySelectorAll("main *")].filter(e => !e.closest("#trail") && e.clientWidth &&
            e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName)"""
        assert page.evaluate(beyond) == []
        paper, ink, soft = page.evaluate(colours)
        assert contrast(paper, ink) > 10
        assert contrast(paper, soft) > 4.5


def test_many_candidates_are_few_elements(serve, visit, folder):
    source = next(folder.glob("*.fits"))
    for i in range(20_000):
        os.link(source, folder / f"x{i:06d}.fits")
    page = visit(serve(folder).address)
    press(page, ["End"])
    page.wait_for_selector(".tile.cursor .id:has-text('2')")
    assert page.locator("#sheet > *").count() < 300
    assert page.evaluate("window.otrain.cursor") == 20_023


def test_a_button_has_no_key_of_its_own_once_it_was_clicked(serve, visit, folder):
    page = visit(serve(folder, "--labeller", "ada", "--blind-fraction", "0").address)
    press(page, ["Enter"])
    page.locator("[data-vote=f]").click()
    press(page, [" ", "Enter", "Escape"])
    page.locator("#only").click()
    press(page, ["Enter"])
    assert page.locator("#single").is_visible()
    assert page.locator("#only").get_attribute("aria-pressed") == "true"
    press(page, ["Escape"])
    page.locator("#order").focus()
    press(page, ["t"])
    wait_until_sent(page)
    assert len(lines_of(folder)) == 2


def test_no_vote_on_what_is_not_seen_and_any_vote_can_be_taken_back(serve, visit, folder):
    server = serve(folder, "--labeller", "ada", "--blind-fraction", "0")
    page = visit(server.address)
    press(page, "tf")
    wait_until_sent(page)
    page.reload()
    page.wait_for_selector(READY)
    press(page, ["z", "Home", "x", "x"])
    wait_until_sent(page)
    assert len(lines_of(folder)) == 3
    assert list(read_votes(folder / "labels.csv").of("ada").values()) == ["false"]
    server.end(signal.SIGKILL)
    press(page, ["2", "t"])  # a stretch that no picture has come in
    assert "no vote was taken" in page.locator("#live").inner_text()
    server.start()
    page.wait_for_selector(READY)
    press(page, "t")
    wait_until_sent(page)
    assert len(lines_of(folder)) == 4


def test_labellers_that_take_turns_see_their_own_votes(serve, visit, folder):
    server = serve(folder, "--labeller", "ada", "--blind-fraction", "0")
    page = visit(server.address, refused=["status of 400"])

    def be(name):
        press(page, ["l"])
        page.keyboard.press("Control+A")
        page.keyboard.type(name)
        press(page, ["Backspace", "Enter"] if not name else ["Enter"])
        time.sleep(0.5)

    press(page, "ttt")
    wait_until_sent(page)
    be("")
    assert "from 1 to 64 letters" in page.locator("#notice").inner_text()
    be("bob")
    assert page.locator("#counts").inner_text().startswith("0 of 24")
    press(page, "f")
    wait_until_sent(page)
    be(" ada ")
    assert page.locator("#counts").inner_text() == "3 of 24 · 3 true, 0 false, 0 unsure"
    (folder / "labels.csv").unlink()
    page.wait_for_selector("#counts:has-text('0 of 24')")
    press(page, "u")
    wait_until_sent(page)
    assert [line.split(",")[1] for line in lines_of(folder)] == ["ada"]


def test_a_second_look_cannot_be_told_from_a_blind_first_one(serve, visit, folder):
    for i, path in enumerate(sorted(folder.glob("*.fits"))):
        for k in range(12):
            shutil.copy(path, folder / f"{i:02d}-{k:02d}.fits")
    page = visit(serve(folder, "--labeller", "ada", "--blind-fraction", "0.3").address, width=700, height=500)
    press(page, ["Enter"])
    seen = []
    for _ in range(150):
        item = "[otrain.item.again ?? false, otrain.isVeiled(otrain.item), otrain.single.name.textContent, "
        item += "document.querySelector('#place').textContent, document.querySelector('#facts').textContent]"
        seen.append(page.evaluate(item))
        press(page, "t")
    again = [k for k, (is_again, *_) in enumerate(seen) if is_again]
    assert len(again) > 10
    for _, is_veiled, name, place, facts in seen:
        assert (name == "blind look") == is_veiled
        assert is_veiled == (".fits" not in place)
        assert not is_veiled or "CANDID" not in facts
    assert sum(b - a == 1 for a, b in itertools.pairwise(again)) < len(again) / 2
    wait_until_sent(page)
    looks = [line.split(",")[7] for line in lines_of(folder)]
    assert looks.count("again") == len(again)
    assert looks.count("blind") > 10


def test_names_that_are_no_text_are_candidates_like_others(serve, visit, folder):
    source = next(folder.glob("*.fits"))
    shutil.copy(source, os.fsencode(folder) + b"/0caf\xe9.fits")
    page = visit(serve(folder, "--labeller", "ada", "--blind-fraction", "0").address)
    press(page, "t")
    wait_until_sent(page)
    assert list(read_votes(folder / "labels.csv").of("ada")) == ["0caf\udce9.fits"]


def test_the_address_that_opens_a_browser_works_once(serve, folder, tmp_path):
    program = tmp_path / "browser"
    program.write_text('#!/bin/sh\necho "$1" > "$0.part" && mv "$0.part" "$0.opened"\nexec sleep 5\n')
    program.chmod(0o700)
    server = serve(folder)
    server.end()
    server.environment["BROWSER"] = f"{program} %s"
    server.options.remove("--no-browser")
    server.start()
    assert server.ask("/api/start")[0] == 200  # although the browser stays in front
    opened = tmp_path / "browser.opened"
    while not opened.exists():
        time.sleep(0.01)
    address = opened.read_text().strip()  # which everybody on the machine can see
    assert TOKEN not in address
    exchange = "/api/token?" + address.partition("?")[2]
    assert server.ask("/api/token?once=wrong", Authorization=None)[0] == 403
    assert server.ask(exchange, Authorization=None)[:2] == (200, TOKEN.encode())
    assert server.ask(exchange)[0] == 403


def test_only_who_has_the_token_comes_in_and_only_from_its_own_pages(serve, visit, folder):
    server = serve(folder)
    here = f"127.0.0.1:{server.port}"
    vote = json.dumps({"labeller": "eve", "votes": []})
    for path in ("/api/start", "/api/tiles?i=0", f"/api/start?token={TOKEN}", "/api/none", "/api/token"):
        assert server.ask(path, Authorization=None)[0] == 403, path
    assert server.ask("/api/start", Authorization="Bearer wrong")[0] == 403
    assert server.ask("/api/start", Authorization=None, Cookie=f"otrain-label-{server.port}={TOKEN}")[0] == 403
    for path in ("/", "/page.js"):
        status, content, headers = server.ask(path, Authorization=None)
        assert status == 200
        assert folder.name.encode() not in content
        assert TOKEN.encode() not in content
        assert "Set-Cookie" not in headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "[::1].evil.example"):
        assert server.ask("/api/start", Host=host)[0] == 403
        assert server.ask("/", Host=host)[0] == 403
    for host in (f"localhost:{server.port}", "localhost:9000", "127.0.0.1"):  # as through a tunnel
        assert server.ask("/api/start", Host=host)[0] == 200
    assert server.ask("/api/votes", "POST", vote, Origin="http://127.0.0.1:1")[0] == 403
    assert server.ask("/api/votes", "POST", vote, Sec_Fetch_Site="same-site")[0] == 403
    assert server.ask("/api/votes", "POST", vote, Origin=f"http://{here}", Sec_Fetch_Site="same-origin")[0] == 200
    assert server.ask("/api/moves")[0] == 405


def test_a_page_without_the_token_says_what_to_do(serve, browser, folder):
    page = browser.new_page()
    page.goto(serve(folder).address.partition("?")[0])
    page.wait_for_selector("#notice:has-text('Open the address that otrain-label printed')")
    page.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/tiles?i=99&listing={l}", 400),
        ("/api/tiles?i=-1&listing={l}", 400),
        ("/api/tiles?i=../x&listing={l}", 400),
        ("/api/tiles?i=%C2%B2&listing={l}", 400),
        ("/api/tiles?i=0&stretch=x&listing={l}", 400),
        ("/api/tiles?listing={l}", 400),
        ("/api/tiles?i=0&listing=other", 409),
        ("/api/order?order=x&listing={l}", 400),
        ("/api/order?order=uncertainty&listing={l}", 400),
        ("/api/explain?i=0&kind=occlusion&listing={l}", 400),
        ("/api/state?votes=x", 400),
        ("/../page.js", 404),
        ("/page.html/../app.py", 404),
        ("/app.py", 404),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(shared, path, status):
    listing = json.loads(shared.ask("/api/start")[1])["listing"]
    answer, content, _ = shared.ask(path.format(l=listing))
    assert answer == status
    if status != 404:
        assert len(json.loads(content)["error"]) > 3


@pytest.mark.parametrize(
    "body", ["", "x", "[]", "{}", '{"labeller": "a"}', '{"labeller": "a", "votes": 1}', "9" * 2**21]
)
def test_votes_that_are_none_are_refused(shared, body):
    assert shared.ask("/api/votes", "POST", body)[0] in (400, 413)


@pytest.fixture(scope="module")
def shared(cutouts, tmp_path_factory):
    server = Server(cutouts / "all", state=tmp_path_factory.mktemp("state"))
    yield server
    server.end()


def test_the_token_is_kept_in_a_file_of_ones_own(serve, folder, tmp_path):
    server = serve(folder, token="")
    assert server.end() == 0
    path = tmp_path / "state" / "otrain" / "label-token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert server.address.endswith(f"/?token={path.read_text()}")
    first = server.address
    server.start()
    assert server.address == first
    path.chmod(0o644)  # others have seen it
    server.end()
    server.start()
    assert server.address != first


def test_ctrl_c_ends_it_and_a_port_that_is_taken_is_one_line(serve, folder, tmp_path):
    server = serve(folder, "--host", "0.0.0.0")  # noqa: S104
    command = [sys.executable, "-c", COMMAND, str(folder), *server.options]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "is taken" in second.stderr
    assert second.stdout == ""
    assert server.end(signal.SIGINT) == 0
    assert "can be reached from other machines" in server.said
