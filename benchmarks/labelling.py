"""Does the page of otrain-label lose a vote, and does it keep up with who uses it?

First, a browser presses T, F and U on mock candidates, each so long after the one before, while the server is killed
(-9) and started again on the way. The keys pressed are then compared with the lines of labels.csv. Second, the grid of
many candidates is scrolled from top to bottom, at the pace of a wheel and in leaps: what the longest frame and the
longest task of the page take, and how long it takes until all pictures in view are there. Needs Chromium.

    python benchmarks/labelling.py [--votes 5000] [--rate 5] [--kills 3] [--candidates 50000]
"""

import argparse
import collections
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe_machine
from playwright.sync_api import sync_playwright

from otrain_train.mock import MockSettings, write_mock
from otrain_train.votes import read_votes

COMMAND = "import sys; from otrain_train.cli_label import label; sys.exit(label())"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WORDS = {"t": "true", "f": "false", "u": "unsure"}
SECONDS_AWAY = 4.0
"""For which the server is not there after it was killed."""
DIFFERENT = 1000
"""Files that are written of many candidates; the others are hard links to them."""

WATCH = """() => {
  window.seen = {frames: [], tasks: []};
  const told = (list) => { for (const each of list.getEntries()) seen.tasks.push(each.duration); };
  new PerformanceObserver(told).observe({type: "longtask"});
  let before = performance.now();
  const frame = (now) => { seen.frames.push(now - before); before = now; requestAnimationFrame(frame); };
  requestAnimationFrame((now) => { before = now; requestAnimationFrame(frame); });
}"""

SCROLL = """async ([step, frames]) => {
  const grid = document.getElementById("grid");
  seen.frames.length = seen.tasks.length = 0;
  for (let i = 0; i < frames; i++) {
    grid.scrollTop += step;
    await new Promise(requestAnimationFrame);
  }
  return seen;
}"""

COMPLETE = """() => {
  const {grid} = window.otrain, [first, last] = grid.range(0);
  for (let p = first; p < last; p++) if (!grid.tiles.get(p)?.drawn) return false;
  return true;
}"""

LEAP = """async (to) => {
  const grid = document.getElementById("grid"), began = performance.now();
  grid.scrollTop = to * (grid.scrollHeight - grid.clientHeight);
  const complete = () => {
    const {grid} = window.otrain, [first, last] = grid.range(0);
    for (let p = first; p < last; p++) if (!grid.tiles.get(p)?.drawn) return false;
    return true;
  };
  do await new Promise(requestAnimationFrame); while (!complete());
  return performance.now() - began;
}"""


PACES = (
    ("standing still", 0, 300),
    ("a wheel, 60 pixels a frame", 60, 600),
    ("fast, a screen a frame", 800, 600),
)


class Server:
    """The command as a process of its own, always on one port with one token."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        given = [str(folder), "--no-browser", "--port", str(port), "--token", "benchmark-token", *options]
        self._command = [sys.executable, "-c", COMMAND, *given]
        self.start()

    def start(self) -> None:
        began = time.perf_counter()
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self._process.stdout.readline().strip()
        self.started = time.perf_counter() - began
        if not self.address:
            raise SystemExit("otrain-label did not start")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def opened(address: str) -> Iterator[Any]:
    """Open the page in Chromium, 1440 by 900 pixels."""
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        began = time.perf_counter()
        page.goto(address)
        page.wait_for_selector(".tile.cursor[aria-busy=false]")
        page.seconds_to_open = time.perf_counter() - began
        yield page
        browser.close()


def vote(folder: Path, votes: int, rate: float, kills: int) -> None:
    """Press keys, kill the server on the way, and count."""
    rng = random.Random(1)  # noqa: S311
    keys = [rng.choice("tfu") for _ in range(votes)]
    server = Server(folder, "--labeller", "robot", "--blind-fraction", "0.05")
    deaths = [int(votes * (k + 1) / (kills + 1)) for k in range(kills)]
    back, most_unsent, late = 0.0, 0, []
    with opened(server.address) as page:
        began = time.perf_counter()
        for i, key in enumerate(keys):
            if i in deaths:
                server.kill()
                back = time.perf_counter() + SECONDS_AWAY
            if back and time.perf_counter() > back:
                server.start()
                back = 0.0
            if i == votes // 2:
                page.keyboard.press("Enter")  # the second half in single view
            wait = began + i / rate - time.perf_counter()
            time.sleep(max(0.0, wait))
            late.append(max(0.0, -wait))
            page.keyboard.press(key)
            if i % 25 == 0:
                most_unsent = max(most_unsent, int(page.locator("#unsent").get_attribute("data-count")))
        seconds = time.perf_counter() - began
        if back:
            server.start()
        page.wait_for_selector("#unsent[data-count='0']", state="attached", timeout=60_000)
    server.end()
    report(folder, keys, seconds, most_unsent, kills, late)


def report(folder: Path, keys: list[str], seconds: float, most_unsent: int, kills: int, late: list[float]) -> None:
    lines = (folder / "labels.csv").read_text().splitlines()[1:]
    tally = read_votes(folder / "labels.csv")
    pressed = collections.Counter(WORDS[key] for key in keys)
    written = collections.Counter(line.split(",")[4] for line in lines)
    in_order = [line.split(",")[4] for line in lines] == [WORDS[key] for key in keys]
    print(
        f"  keys pressed          {len(keys)} in {seconds:.0f} s, {len(keys) / seconds:.2f} a second: {dict(pressed)}"
    )
    print(
        f"  server killed (-9)    {kills} times, away for {SECONDS_AWAY:.0f} s or more each; "
        f"{most_unsent} votes waited at most"
    )
    print(f"  lines of labels.csv   {len(lines)}: {dict(written)}; in the order pressed: {in_order}")
    print(f"  votes counted         {tally.votes}; damaged lines {len(tally.damaged)}; lost {len(keys) - tally.votes}")
    looks = sum(map(len, tally.looks.values()))
    print(f"  standing              {len(tally.standing)} candidates, and {looks} blind second looks")
    print(f"  latest key            {max(late):.2f} s late")
    if tally.votes != len(keys) or pressed != written or tally.damaged:
        raise SystemExit("votes were lost or doubled")


def many(folder: Path, candidates: int) -> None:
    """Write some files, and names for the same ones until there are so many."""
    write_mock(folder / "mock", MockSettings(DIFFERENT // 2, DIFFERENT // 2, seed=1))
    files = sorted((folder / "mock").glob("*/*.fits"))
    (folder / "all").mkdir()
    for i in range(candidates):
        os.link(files[i % len(files)], folder / "all" / f"c{i:06d}.fits")


def wait_until_complete(page: Any) -> None:
    # The page forbids what wait_for_function does.
    while not page.evaluate(COMPLETE):
        time.sleep(0.005)


def scroll(folder: Path) -> None:
    """Scroll through the grid and print what it takes."""
    server = Server(folder)
    print(f"  until the address is printed  {server.started:.2f} s")
    with opened(server.address) as page:
        print(f"  until the first tiles         {page.seconds_to_open:.2f} s")
        wait_until_complete(page)
        page.evaluate(WATCH)
        print(f"  {'':<44}{'frames':>8}{'median':>9}{'99 %':>9}{'longest':>9}   longest task (ms)")
        for name, step, frames in PACES:
            found = page.evaluate(SCROLL, [step, frames])
            times = sorted(found["frames"])
            task = max(found["tasks"], default=0.0)
            longest = f"{task:.0f}" if task else "none of 50 or more"
            print(
                f"  {name:<44}{len(times):8}{median(times):9.1f}{times[int(0.99 * len(times))]:9.1f}{times[-1]:9.1f}"
                f"   {longest}"
            )
        leaps = [page.evaluate(LEAP, k / 20 + 0.01) for k in range(20)]
        print(
            f"  all pictures in view after a leap: {median(leaps):.0f} ms (median of 20), {max(leaps):.0f} ms at most"
        )
        for key in ("End", "Home"):
            began = time.perf_counter()
            page.keyboard.press(key)
            wait_until_complete(page)
            print(f"  {key:<4} until all pictures are there: {1e3 * (time.perf_counter() - began):.0f} ms")
    server.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=5000, help="keys pressed, on as many candidates")
    parser.add_argument("--rate", type=float, default=5.0, help="of them in a second")
    parser.add_argument("--kills", type=int, default=3, help="times that the server is killed")
    parser.add_argument("--candidates", type=int, default=50_000, help="candidates scrolled through")
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        if options.votes:
            half = options.votes // 2
            settings = MockSettings(options.votes - half, half, size=32, seed=1)
            write_mock(Path(name, "votes"), settings)
            print(f"\n{options.votes} candidates, {options.rate:g} keys a second", flush=True)
            vote(Path(name, "votes"), options.votes, options.rate, options.kills)
        if options.candidates:
            many(Path(name), options.candidates)
            print(f"\n{options.candidates} candidates of 64x64 pixels in three planes, scrolled", flush=True)
            scroll(Path(name, "all"))


if __name__ == "__main__":
    main()
