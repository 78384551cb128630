import pytest
from torch.utils.data import Dataset

from lazyengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset

from .samples import Boxes


def paths(dataset):
    return [info["img_path"] for info in dataset]


def wrap_all(lazy_init):
    return [
        ConcatDataset([Boxes(3, lazy_init=lazy_init), Boxes(2, lazy_init=lazy_init)], lazy_init=lazy_init),
        RepeatDataset(Boxes(3, lazy_init=lazy_init), 2, lazy_init=lazy_init),
        ClassBalancedDataset(Boxes(20, lazy_init=lazy_init), 0.5, lazy_init=lazy_init),
    ]


def test_lazy_and_eager_give_the_same():
    for lazy, eager in zip(wrap_all(True), wrap_all(False)):
        assert not lazy._fully_initialized
        assert lazy.metainfo == eager.metainfo == {"classes": ["a", "b"], "task": "boxes"}
        assert paths(lazy) == paths(eager)
        assert lazy[-1] == eager[len(eager) - 1]
        assert lazy.get_data_info(1) == eager[1]
        assert lazy.get_cat_ids(1) == [eager[1]["label"]]


def test_out_of_range_and_subsets_are_refused():
    for dataset in wrap_all(False):
        for index in (len(dataset), -len(dataset) - 1):
            with pytest.raises(IndexError, match=f"sample {index} of {len(dataset)} does not exist"):
                dataset[index]
        for refused in (dataset.get_subset, dataset.get_subset_):
            with pytest.raises(NotImplementedError, match="take the subset of the dataset inside"):
                refused(3)


def test_concatenated_metainfo_must_agree():
    other = Boxes(2, metainfo={"task": "other", "classes": ("a", "b")})
    with pytest.raises(
        TypeError, match=r"metainfo\['classes'\] is a list in datasets\[0\] and a tuple in datasets\[1\]"
    ):
        ConcatDataset([Boxes(2), other])
    with pytest.raises(
        ValueError, match=r"'boxes' in datasets\[0\], 'other' in datasets\[1\]; make them equal, or pass"
    ):
        ConcatDataset([Boxes(2), other], ignore_keys="classes")
    assert ConcatDataset([Boxes(2), other], ignore_keys=["classes", "task"]).metainfo["task"] == "boxes"
    more = Boxes(2, metainfo={"extra": 1})
    for pair, lacking in (([Boxes(2), more], 0), ([more, Boxes(2)], 1)):
        with pytest.raises(ValueError, match=rf"metainfo\['extra'\] is missing in datasets\[{lacking}\]"):
            ConcatDataset(pair)


def test_plain_torch_datasets_can_be_wrapped():
    class Squares(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, idx):
            return idx * idx

    assert list(RepeatDataset(ConcatDataset([Squares(), Squares()]), 2)) == [0, 1, 4] * 4


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="at least one dataset"):
        ConcatDataset([])
    with pytest.raises(TypeError, match=r"datasets\[1\]: got dict"):
        ConcatDataset([Boxes(1), {"type": "Boxes"}])
    with pytest.raises(TypeError, match="ignore_keys: got int"):
        ConcatDataset([Boxes(1)], ignore_keys=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="times: got 0"):
        RepeatDataset(Boxes(1), 0)
    with pytest.raises(ValueError, match="oversample_thr: got -1"):
        ClassBalancedDataset(Boxes(1), -1)
    with pytest.raises(TypeError, match="dataset: got int"):
        RepeatDataset(3, 2)
