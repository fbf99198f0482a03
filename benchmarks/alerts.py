"""What does an alert cost, from the bytes of its packet to its score, beside the way of a broker in Python?

10,000 alerts, as from one visit of Rubin, each an Avro container with three gzipped stamps of 63x63 pixels, in memory.
The rivals run in turn in one process and must find the same scores:

- fastavro decodes the packet, gzip and astropy open each stamp, numpy scales them, ONNX Runtime scores batches of 64;
- the same with isal, and the pixels taken from where they nearly always are instead of astropy;
- ONNX Runtime alone, on scaled pixels that are in memory: what any broker pays at the least;
- the stamps inflated by isal, and nothing else.

The network is `lite`, untrained, of three planes. Packets are real ones where the variable OTRAIN_DATA names a folder
with a folder `alerts` of them.

    python benchmarks/alerts.py [--alerts 10000] [--slow-alerts 512] [--repeats 5]
"""

import argparse
import gzip
import io
import tempfile
from functools import partial
from pathlib import Path

import fastavro
import numpy as np
from alert_packets import CUTOUTS, SIZE, describe, make_packets
from astropy.io import fits
from isal import igzip
from machine import compare, describe_machine, middle, per_thing, print_times, ratio
from scoring import Model, Plain, normalise

from otrain_infer import ModelCard, Normalisation, Scorer
from otrain_infer.alerts import AlertReader, iter_alerts
from otrain_infer.chunks import split
from otrain_infer.cutouts import CHUNK
from otrain_train.export import export
from otrain_train.network import build

PLANES = (*CUTOUTS.values(),)
BETWEEN_VISITS = 39
"""Seconds."""

OURS, TWO, BARE = "otrain, 1 thread", "otrain, 2 threads", "ONNX Runtime alone, pixels in memory"
BROKER, LEAN, INFLATE = (
    "fastavro, gzip, astropy, ONNX Runtime",
    "fastavro, isal, numpy, ONNX Runtime",
    "inflating alone",
)


def make_model(folder: Path, pixels) -> Model:
    network = build("lite", (SIZE, SIZE, len(PLANES)))
    card = ModelCard("lite", "untrained", "", PLANES, (SIZE, SIZE), Normalisation("l2"))
    export(network, card, folder / "lite.onnx", pixels)
    return Model("lite", folder / "lite.onnx", "fp32")


def score(scorer: Scorer, reader: AlertReader, packets):
    return np.concatenate([scores for _, scores, _ in scorer.score_parts(split(packets, CHUNK), reader.read)])


def stamps_of(packet):
    record = next(fastavro.reader(io.BytesIO(packet)))
    return [record[name]["stampData"] for name in CUTOUTS]


def open_with_astropy(stamp):
    with fits.open(io.BytesIO(gzip.decompress(stamp)), ignore_missing_simple=True) as hdus:
        return hdus[0].data.astype(np.float32)


def open_with_numpy(stamp):
    return np.frombuffer(igzip.decompress(stamp), ">f4", SIZE * SIZE, 2880).reshape(SIZE, SIZE).astype(np.float32)


def score_as_a_broker(plain: Plain, open_stamp, packets):
    pixels = np.stack([np.stack([open_stamp(each) for each in stamps_of(packet)], -1) for packet in packets])
    return plain.run(normalise_planes(pixels, plain.normalisation))


def normalise_planes(pixels, normalisation):
    return np.concatenate([normalise(pixels[..., k : k + 1], normalisation) for k in range(len(PLANES))], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alerts", type=int, default=10_000)
    parser.add_argument("--slow-alerts", type=int, default=512, help="alerts for the other ways")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as place:
        packets = make_packets(options.alerts, Path(place))
        few = packets[: options.slow_alerts]
        print(f"{describe()}, {np.mean([*map(len, packets)]) / 1000:.0f} kB each")
        raw = np.concatenate([part.pixels for part in iter_alerts(few, planes=PLANES, size=(SIZE, SIZE))])
        model = make_model(Path(place), raw)
        scorers = [Scorer(model.path, threads=threads) for threads in (1, 2)]
        card, reader = scorers[0].card, AlertReader.for_card(scorers[0].card)
        plain, ready = Plain(model, card, 64), card.normalisation.apply(raw)
        stamps = [stamp for packet in few for stamp in stamps_of(packet)]
        rivals = {
            OURS: (partial(score, scorers[0], reader), packets),
            TWO: (partial(score, scorers[1], reader), packets),
            BARE: (lambda packets: plain.run(ready[: len(packets)]), few),
            INFLATE: (lambda _: [igzip.decompress(stamp) for stamp in stamps], few),
            LEAN: (partial(score_as_a_broker, plain, open_with_numpy), few),
            BROKER: (partial(score_as_a_broker, plain, open_with_astropy), few),
        }
        expected = score(scorers[0], reader, few)
        for name in (BARE, LEAN, BROKER):
            difference = np.abs(rivals[name][0](few) - expected).max()
            if difference > 1e-4:
                raise SystemExit(f"'{name}' is no rival: its scores differ by {difference:.2g}")
        times = compare({name: partial(run, own) for name, (run, own) in rivals.items()}, options.repeats)
        times = per_thing(times, {name: len(own) for name, (_, own) in rivals.items()})
    print_times(times, "alert", OURS)
    print(f"  of the processor, a broker's way takes {ratio(times[BROKER], times[OURS]):.1f} times what otrain takes,")
    print(f"  the lean one {ratio(times[LEAN], times[OURS]):.1f} times")
    print(f"  2 threads are {ratio(times[OURS], times[TWO], 'wall'):.2f} times as fast as one")
    seconds = middle(times[TWO]).wall * 10_000
    print(f"  10,000 alerts with 2 threads: {seconds:.2f} s (aimed at: 5; between visits: {BETWEEN_VISITS})")


if __name__ == "__main__":
    main()
