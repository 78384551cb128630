import collections
import dataclasses
from typing import Any

import pytest
import torch

from lazyengine.dataset import default_collate, pseudo_collate


@dataclasses.dataclass
class Sample:
    image: Any
    name: str
    boxes: list[Any]
    note: Any = None


def test_dataclasses_are_collated_field_by_field():
    batch = default_collate([Sample(torch.zeros(2), "a", [1, 2]), Sample(torch.ones(2), "b", [3, 4])])
    assert type(batch) is Sample
    assert batch.image.tolist() == [[0, 0], [1, 1]]
    assert (batch.name, batch.note) == (["a", "b"], [None, None])
    assert [boxes.tolist() for boxes in batch.boxes] == [[1, 3], [2, 4]]
    samples = [Sample(1, "a", []), Sample(2, "b", [])]
    assert pseudo_collate(samples) == samples


def test_tensors_of_different_shapes_are_named():
    with pytest.raises(RuntimeError, match=r"cannot stack \['x'\]\[1\]: sample 0 .* \(2,\), sample 1 has \(3,\); make"):
        default_collate([{"x": (0, torch.zeros(2))}, {"x": (0, torch.zeros(3))}])
    ragged = [{"x": torch.zeros(2)}, {"x": torch.zeros(3)}]
    assert [part.shape[0] for part in pseudo_collate(ragged)["x"]] == [2, 3]


def test_structures_that_differ_are_named():
    with pytest.raises(RuntimeError, match=r"equal size at \['x'\]: got lengths \[1, 2\]"):
        pseudo_collate([{"x": [1]}, {"x": [1, 2]}])
    with pytest.raises(RuntimeError, match=r"has \['a'\]\['y'\], but samples \[1\] have not"):
        default_collate([{"a": {"y": 1}}, {"a": {"z": 1}}])


def test_what_no_tensor_can_be_made_of_is_named():
    with pytest.raises(TypeError) as caught:
        default_collate([{"x": object()}, {"x": object()}])
    assert caught.value.__notes__ == ["at ['x'] of the batch; pass a collate_fn that knows object"]


def test_mappings_keep_their_class_where_they_can():
    ordered = default_collate([collections.OrderedDict(a=1), collections.OrderedDict(a=2)])
    assert type(ordered) is collections.OrderedDict
    assert type(pseudo_collate([collections.defaultdict(int, a=1)])) is dict


def test_dtypes_are_those_of_torch():
    batch = default_collate([(1, 1.0, True), (2, 2.0, False)])
    assert [part.dtype for part in batch] == [torch.int64, torch.float64, torch.bool]


def test_a_field_that_only_later_samples_have_is_named():
    for collate in (default_collate, pseudo_collate):
        with pytest.raises(RuntimeError, match=r"has \['k'\], but samples \[0\] have not"):
            collate([{"x": 1}, {"x": 2, "k": 3}])
    with pytest.raises(RuntimeError, match=r"\['a'\]\['z'\]"):
        default_collate([{"a": {"y": 1}}, {"a": {"y": 1, "z": 1}}])


def test_none_beside_tensors_is_named():
    with pytest.raises(TypeError) as caught:
        default_collate([{"m": torch.zeros(2)}, {"m": None}])
    assert "['m'] of the batch; pass a collate_fn that knows Tensor beside NoneType" in caught.value.__notes__[0]
