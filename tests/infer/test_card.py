import json
import math

import numpy as np
import pytest
from networks import CASCADE, full_card, make_card

from otrain_infer.card import ModelCard
from otrain_infer.errors import ModelError


def test_everything_comes_back():
    card = full_card()
    back = ModelCard.from_json(card.to_json())
    for name in (
        "name",
        "version",
        "created",
        "planes",
        "size",
        "normalisation",
        "threshold",
        "description",
        "calibration",
        "training",
        "reference",
    ):
        assert getattr(back, name) == getattr(card, name)
    assert back.metrics == {"auc": 0.9, "mcc": None}
    assert back.operating_points[0].threshold == 0.9
    assert math.isnan(back.operating_points[0].precision)
    assert back.golden.pixels.tobytes() == card.golden.pixels.tobytes()
    assert np.array_equal(back.golden.scores, card.golden.scores)
    assert back.shape == (64, 64, 1)


def test_what_it_says_of_an_int8_copy_comes_back():
    assert ModelCard.from_json(make_card(cascade=CASCADE).to_json()).cascade == CASCADE
    assert ModelCard.from_json(full_card().to_json()).cascade is None
    older = json.loads(full_card().to_json())
    del older["cascade"]
    assert ModelCard.from_json(json.dumps(older)).cascade is None


def test_it_is_strict_json():
    json.loads(full_card().to_json(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not readable"),
        ("[]", "not readable"),
        ("{}", "not readable"),
        ('{"format": "otrain-card-99"}', "'otrain-card-99'"),
        ('{"format": "otrain-card-1"}', "incomplete"),
    ],
)
def test_what_is_no_card_is_refused(text, said):
    with pytest.raises(ModelError, match=said):
        ModelCard.from_json(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", [64]),
        ("cascade", {"intervals": [[0.1, 0.2]]}),
        ("cascade", {"intervals": [0.1, 0.2]}),
        ("planes", 3),
        ("normalisation", {"method": "magic", "padding": {}}),
        ("golden", {"shape": [9]}),
        ("surplus", 1),
        ("threshold", "high"),
        ("threshold", 2),
        ("threshold", 10**400),
        ("threshold", None),
        ("planes", ["FOO"]),
        ("planes", []),
        ("metrics", None),
        ("training", [1]),
        ("operating_points", [[1, 2]]),
        ("operating_points", "abc"),
        ("operating_points", [{"name": "x", "threshold": "y", "recall": 1, "fpr": 0, "precision": 1}]),
        ("operating_points", [{"name": "x"}]),
    ],
)
def test_a_damaged_card_is_refused(key, value):
    content = json.loads(full_card().to_json()) | {key: value}
    with pytest.raises(ModelError, match="incomplete or damaged"):
        ModelCard.from_json(json.dumps(content))
