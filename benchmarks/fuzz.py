"""What do the parsers of untrusted bytes make of bytes that nobody meant: FITS files, alert packets, model cards?

    python benchmarks/fuzz.py {fits,packets,card} [--executions 2000000] [--seconds N] [--corpus DIR]
    python benchmarks/fuzz.py {fits,packets,card} --interpreted [...]     to make the corpus grow
    python benchmarks/fuzz.py {fits,packets,card} --keep [--corpus DIR]   to keep the best of it in tests/fuzz_corpus

It needs atheris (pip install atheris), which is libFuzzer for Python. What must hold of any input is in
tests/infer/fuzz_targets.py, and tests/infer/test_fuzz.py checks it of the inputs that are kept, without atheris. An
input of which it does not hold is a finding: it is put into build/fuzz, told at the end, and the run goes on.

Machine code cannot be instrumented, so there are two ways to run it.

- With `--interpreted`, Python runs the kernels of FITS and Avro instead of numba, all of them instrumented: libFuzzer
  sees each branch that an input takes, and every read of a byte is checked. That is slow (some hundred executions a
  second) and makes the corpus grow.
- Without it the kernels are those that users run. libFuzzer then sees the branches of the Python code around them, and
  those of no kernel: it mutates the corpus that the other way has left, and with it blindly. What is beyond the bytes
  lies on pages that may not be touched, so that a read beyond them ends the process.

Of the mutations of either way, most know the format: they change the value of a FITS card, the number of an Avro
record, a field of a schema or of a card, and write what is around them whole again (tests/infer/fuzz_inputs.py).

astropy and fastavro are the references where an input is looked at thoroughly, one in 256. Of the FITS files that the
kernels decline, one in 4 goes on to astropy, which takes ten times as long. Of the cards one in 1000 is put into an
ONNX file, damaged or not, which onnxruntime loads.
"""

import argparse
import gzip
import hashlib
import math
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGETS = ("fits", "packets", "card")
KERNELS = ("fits_kernels", "fits_cards", "fits_tiles", "avro_kernels", "file_kernels", "normalise", "robust_kernels")

THOROUGHLY, TO_ASTROPY, AS_MODEL = 256, 4, 1000
"""One input in so many."""

LARGEST = 1 << 16
"""Bytes of an input."""

MEMORY = 1 << 29
"""Bytes by which an input may raise the peak of resident memory."""


class Run:
    """What is told at the end, and what a single execution does."""

    def __init__(self, target: str, most: int, seconds: float, findings: Path) -> None:
        self.target, self._most, self._seconds, self._folder = target, most, seconds or math.inf, findings
        self.executions = self.thorough = self.models = 0
        self.findings: dict[tuple[Any, ...], int] = {}
        self.start = time.perf_counter()
        self._peak = _peak()
        findings.mkdir(parents=True, exist_ok=True)

    def execute(self, data: bytes) -> None:
        self.executions += 1
        try:
            self._check(data)
            self._check_memory()
        except Exception as error:  # noqa: BLE001
            self._note(data, error)
        if self.executions % 100_000 == 0:
            print(self.summary(), file=sys.stderr, flush=True)
        if self.executions >= self._most or time.perf_counter() - self.start > self._seconds:
            # libFuzzer ends a process without what Python would do before.
            print(self.summary(), flush=True)
            os._exit(1 if self.findings else 0)

    def _check(self, data: bytes) -> None:
        import fuzz_inputs
        import fuzz_targets

        number = zlib.crc32(data)
        thoroughly = number % THOROUGHLY == 0
        self.thorough += thoroughly
        options = {"astropy": thoroughly or number % TO_ASTROPY == 0} if self.target == "fits" else {}
        fuzz_targets.CHECK[self.target](data, thoroughly=thoroughly, **options)
        if self.target == "card" and number % AS_MODEL == 0:
            self.models += 1
            fuzz_targets.check_model(fuzz_inputs.model_of(data, random.Random(number)))  # noqa: S311

    def _check_memory(self) -> None:
        before, self._peak = self._peak, _peak()
        if self._peak - before > MEMORY:
            raise AssertionError(f"it took {self._peak - before >> 20} MiB more than any before")

    def _note(self, data: bytes, error: Exception) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        key = (type(error).__name__, Path(frame.filename).name, frame.lineno)
        self.findings[key] = self.findings.get(key, 0) + 1
        if self.findings[key] <= 3:
            path = self._folder / f"finding-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            print(f"{path}: {key}: {str(error)[:300]}", file=sys.stderr, flush=True)

    def summary(self) -> str:
        spent = time.perf_counter() - self.start
        besides = f"{self.thorough} of them thoroughly" + (f", {self.models} as models" if self.models else "")
        rate = self.executions / spent
        found = "".join(f"\n    {count} times {key}" for key, count in self.findings.items())
        return (
            f"  {self.target}: {self.executions} executions ({besides}) in {spent:.0f} s, {rate:.0f} a second, peak of "
            f"{_peak() >> 20} MiB, {len(self.findings)} kinds of finding{found}"
        )


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_mutator(target: str) -> Callable[[bytes, int, int], bytes]:
    import atheris
    import fuzz_inputs

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            blindly = rng.random() < 0.15
            data = atheris.Mutate(data, largest) if blindly else fuzz_inputs.MUTATE[target](data, rng)
        return data[:largest]

    return mutate


def fill(corpus: Path, inputs: Iterable[bytes]) -> None:
    """Put inputs into a folder, named by what they are."""
    corpus.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def fuzz(options: argparse.Namespace, corpus: Path) -> None:
    """Run libFuzzer, which does not come back."""
    import atheris

    exclude = [] if options.interpreted else [f"otrain_infer.{name}" for name in KERNELS]
    with atheris.instrument_imports(include=["otrain_infer"], exclude=[*exclude, "otrain_infer.jit"]):
        import fuzz_inputs
        import fuzz_targets
    fill(corpus, [*fuzz_inputs.SEEDS[options.target](), *fuzz_inputs.load_corpus(options.target)])
    findings = ROOT / "build" / "fuzz" / options.target
    run = Run(options.target, options.executions, options.seconds, findings)
    arguments = [
        # atheris keeps what every comparison of arrays gives, some GB in the end: see `MEMORY` for what is checked.
        sys.argv[0], str(corpus), f"-max_len={LARGEST}", "-timeout=60", "-rss_limit_mb=16384", f"-seed={options.seed}",
        f"-artifact_prefix={findings}/", "-verbosity=0", "-reload=0",
    ]  # fmt: skip
    with ExitStack() as stack:
        if options.interpreted:
            stack.enter_context(fuzz_targets.interpreted())
        atheris.Setup(arguments, run.execute, custom_mutator=make_mutator(options.target))
        atheris.Fuzz()


def keep(target: str, corpus: Path, most: int) -> None:
    """Keep the smallest inputs that together take every branch that any of the corpus takes, in so many bytes.

    Those whose names begin with found- were findings, and stay.
    """
    import fuzz_inputs
    import fuzz_targets

    inputs = [path.read_bytes() for path in corpus.glob("*")]
    inputs += [*fuzz_inputs.SEEDS[target](), *fuzz_inputs.load_corpus(target)]
    packed = {gzip.compress(data, 9, mtime=0): data for data in inputs}
    folder = fuzz_inputs.CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("seed-*.gz"):
        path.unlink()
    taken: set[Any] = set()
    used = kept = 0
    with fuzz_targets.interpreted():
        for content in sorted(packed, key=len):
            branches = _branches(target, packed[content])
            if branches <= taken or used + len(content) > most:
                continue
            taken |= branches
            used, kept = used + len(content), kept + 1
            name = hashlib.sha256(packed[content]).hexdigest()[:16]
            (folder / f"seed-{name}.gz").write_bytes(content)
    print(f"  {target}: {kept} of {len(packed)} inputs kept, {used} bytes, {len(taken)} branches")


def _branches(target: str, data: bytes) -> set[Any]:
    """Give the steps from line to line that an input takes in this package."""
    import fuzz_targets

    taken: set[Any] = set()
    last: dict[Any, int] = {}

    def trace(frame: Any, event: str, _: Any) -> Any:
        code = frame.f_code
        if "otrain_infer" not in code.co_filename:
            return None
        if event == "line":
            taken.add((code.co_filename, code.co_name, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        fuzz_targets.CHECK[target](data)
    except Exception as error:  # noqa: BLE001
        taken.add(type(error).__name__)
    finally:
        sys.settrace(None)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--executions", type=int, default=2_000_000)
    parser.add_argument("--seconds", type=float, default=0, help="end after so many; 0 for never")
    parser.add_argument("--corpus", type=Path, help="a folder that grows; else what is kept, and no more")
    parser.add_argument("--interpreted", action="store_true", help="let Python run the kernels")
    parser.add_argument("--keep", action="store_true", help="keep the best of the corpus in tests/fuzz_corpus")
    parser.add_argument("--bytes", type=int, default=100_000, help="that may be kept")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "infer"))
    with tempfile.TemporaryDirectory() as place:
        corpus = options.corpus or Path(place)
        if options.keep:
            keep(options.target, corpus, options.bytes)
        else:
            fuzz(options, corpus)


if __name__ == "__main__":
    main()
