"""Models whose weights lie in other files are refused, wherever in the model these are."""

import numpy as np
import onnx
import pytest
from networks import make_model
from onnx import TensorProto, helper, numpy_helper

from otrain_infer import Scorer
from otrain_infer.errors import ModelError
from otrain_infer.onnx_file import check_whole


def _outside(tensor: TensorProto, path: str) -> TensorProto:
    """The same tensor, its content in a file."""
    moved = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    moved.data_location = TensorProto.EXTERNAL
    moved.external_data.add(key="location", value=path)
    return moved


@pytest.fixture
def model():
    return onnx.load_model_from_string(make_model())


def test_weights_in_another_file_are_refused_before_it_is_read(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tensor,) = [each for each in model.graph.initializer if each.name == "bias"]
    (tmp_path / "secret.bin").write_bytes(numpy_helper.to_array(tensor).tobytes())
    tensor.CopyFrom(_outside(tensor, "secret.bin"))
    with pytest.raises(ModelError, match="some of its weights lie in another file"):
        Scorer(model.SerializeToString())


@pytest.mark.parametrize("place", ["attribute", "attributes", "subgraph", "function", "sparse"])
def test_wherever_they_are_told(place, model):
    inside = numpy_helper.from_array(np.ones(3, np.float32), "t")
    outside = _outside(inside, "/etc/passwd")
    node = helper.make_node("Constant", [], ["c"], value=inside)
    if place == "attribute":
        node.attribute[0].t.CopyFrom(outside)
    elif place == "attributes":
        node.attribute.append(helper.make_attribute("many", [inside]))
        node.attribute[-1].tensors[0].CopyFrom(outside)
    elif place == "subgraph":
        node = helper.make_node("If", ["x"], ["y"], then_branch=helper.make_graph([], "g", [], [], [outside]))
    elif place == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(outside)
    if place == "function":
        node.attribute[0].t.CopyFrom(outside)
        model.functions.add(name="f", domain="d").node.append(node)
    else:
        model.graph.node.append(node)
    with pytest.raises(ModelError, match="some of its weights lie in another file"):
        check_whole(model.SerializeToString(), "it")


def test_the_word_alone_does_no_harm(model):
    model.graph.node[0].name = "location"
    check_whole(model.SerializeToString(), "it")
    assert Scorer(model.SerializeToString()).card.name == "tiny"


def test_a_damaged_file_is_told(model):
    model.graph.node[0].name = "location"
    content = model.SerializeToString()
    for stop in range(1, len(content), 97):
        try:
            check_whole(content[:stop], "it")
        except ModelError as error:
            assert "it is damaged" in str(error)  # noqa: PT017 (not every cut is between fields)
