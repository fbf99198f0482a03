"""Evaluations for the tests of the report, and how a page is read."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from otrain_infer.card import ModelCard
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train.evaluation import Evaluation
from otrain_train.export import export
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build

VOID = {"meta", "img", "br", "col", "line", "circle"}


def make_model(folder, planes=("DIFF",), size=24, **fields):
    """Write an untrained network and its model, and open the model."""
    network = build("lite", (size, size, len(planes)), seed=1)
    card = ModelCard("reported", "1", "2030-01-01T00:00:00+00:00", planes, (size, size), Normalisation("l2"), **fields)
    export(network, card, folder / "reported.onnx")
    network.save(folder / "reported.keras")
    return Scorer(folder / "reported.onnx")


def make_evaluation(scorer, n_true=60, n_false=60, noise=0.25, seed=3, **fields):
    """Mock candidates with scores that err now and then."""
    ny, _ = scorer.card.size
    settings = MockSettings(n_true, n_false, size=ny, planes=scorer.card.planes, seed=seed, edge_fraction=0.1)
    datacube = replace(mock_arrays(settings), **fields)
    spread = np.random.default_rng(seed).normal(0, noise, n_true + n_false)
    scores = np.clip(0.5 + 0.6 * (datacube.labels - 0.5) + spread, 0, 1).astype(np.float32)
    return Evaluation(datacube, scores, 0.5, scorer)


class Page(HTMLParser):
    """A page taken apart; tags that do not close as they should are an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.headings = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_decl(self, decl):
        assert decl == "DOCTYPE html"
        assert not self.tags

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attributes)))
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append([tag, ""])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3", "h4"):
            self.headings[-1][1] += data

    @property
    def text(self):
        """What a reader reads."""
        return " ".join(" ".join(self.words).split())

    def each(self, tag):
        """The attributes of each tag of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    def titles(self, *levels):
        """The headings of some levels."""
        return [text for tag, text in self.headings if tag in levels]


def contrast(one, other):
    """Contrast of two colours as the Web Content Accessibility Guidelines 2 define it."""

    def luminance(colour):
        parts = [value / 255 for value in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
