import json
import os
import pickle

import numpy as np
import pytest

from lazyengine.dataset import BaseDataset, Compose, force_full_init

from .samples import Boxes, record

LAYOUTS = [True, "columnar", False]


def expected(i, size=20):
    return {**record(i % size), "sample_idx": i % size}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("generates", [False, True])
def test_records_come_back_equal_by_any_index(layout, generates):
    dataset = Boxes(serialize_data=layout, generates=generates)
    assert len(dataset) == 20
    assert [dataset.get_data_info(i) for i in range(-20, 20)] == [expected(i) for i in range(-20, 20)]
    assert dataset.get_data_info(np.int64(3)) == expected(3)
    assert list(dataset) == [expected(i) for i in range(20)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_record_may_be_changed_by_its_reader(layout):
    dataset = Boxes(serialize_data=layout)
    info = dataset.get_data_info(2)
    info["instances"][0]["bbox"][0] = -1.0
    info["label"] = None
    assert dataset.get_data_info(2) == expected(2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_index_out_of_range_is_named(layout):
    dataset = Boxes(serialize_data=layout)
    for index in (20, -21):
        with pytest.raises(IndexError, match=f"sample {index} of 20 does not exist"):
            dataset[index]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("generates", [False, True])
@pytest.mark.parametrize("indices", [0, 5, 30, -4, -30, [3, -1, 3], []])
def test_indices_select_at_construction(layout, generates, indices):
    dataset = Boxes(serialize_data=layout, generates=generates, indices=indices)
    everything = list(range(20))
    if isinstance(indices, int):
        kept = everything[:indices] if indices >= 0 else everything[indices:]
    else:
        kept = [everything[i] for i in indices]
    assert [info["img_path"] for info in dataset] == [record(i)["img_path"] for i in kept]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_subsets_of_subsets(layout):
    dataset = Boxes(serialize_data=layout)
    subset = dataset.get_subset([9, 5, -1, 0])
    smaller = subset.get_subset(-3)
    assert [info["img_path"] for info in smaller] == [record(i)["img_path"] for i in (5, 19, 0)]
    assert (len(dataset), len(subset), smaller[1]["sample_idx"]) == (20, 4, 1)
    assert smaller.metainfo == dataset.metainfo
    dataset.get_subset_(2)
    assert len(dataset) == 2
    again = pickle.loads(pickle.dumps(smaller))
    assert list(again) == list(smaller)


def test_wrong_subsets_are_refused():
    dataset = Boxes()
    with pytest.raises(IndexError, match="a subset of 21 samples: the dataset has 20"):
        dataset.get_subset(21)
    with pytest.raises(IndexError, match=r"\[20\] are out of range: the dataset has 20 samples"):
        dataset.get_subset([0, 20])
    with pytest.raises(TypeError, match="accepted: an int or a sequence"):
        dataset.get_subset(1.5)  # type: ignore[arg-type]


def test_lazy_init_loads_at_first_need():
    loads = []

    class Counted(Boxes):
        def load_data_list(self):
            loads.append(self)
            return super().load_data_list()

        @force_full_init
        def first(self):
            return self._records[0]

    dataset = Counted(lazy_init=True)
    assert dataset.metainfo["task"] == "boxes"
    assert loads == []
    assert dataset.first() == record(0)
    assert (len(dataset), dataset[1]) == (20, expected(1))
    dataset.full_init()
    assert loads == [dataset]


def test_force_full_init_needs_full_init():
    class Plain:
        @force_full_init
        def read(self):
            return 1

    with pytest.raises(AttributeError, match="full_init"):
        Plain().read()


def test_filter_data_sees_lists_and_generators():
    class Filtered(Boxes):
        def filter_data(self):
            return (info for info in self.data_list if info["label"] == self.filter_cfg["label"])

    for generates in (False, True):
        dataset = Filtered(generates=generates, filter_cfg={"label": 2})
        assert [info["label"] for info in dataset] == [2, 2, 2]


class Tracked(dict):
    """A record that counts how many of its kind are alive."""

    num_alive = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Tracked.num_alive += 1

    def __del__(self):
        Tracked.num_alive -= 1


@pytest.mark.parametrize("layout", [True, "columnar"])
def test_a_generator_is_not_held_as_a_whole(layout):
    seen = []

    class Streaming(BaseDataset):
        def load_data_list(self):
            for i in range(40_000):
                seen.append(Tracked.num_alive)
                yield Tracked(value=i)

    assert len(Streaming(serialize_data=layout)) == 40_000
    assert max(seen) <= (3 if layout is True else 2 * 16_384)


def test_metainfo_order_of_precedence_and_files(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    annotations = tmp_path / "ann.json"
    annotations.write_text(json.dumps({"metainfo": {"task": "file", "origin": "file"}, "data_list": [{"x": 1}]}))

    class Named(BaseDataset):
        METAINFO = {"task": "class", "size": 3}  # noqa: RUF012

    dataset = Named("ann.json", metainfo={"classes": str(names), "size": 4}, data_root=str(tmp_path))
    assert dataset.metainfo == {"task": "class", "size": 4, "classes": ["cat", "dog"], "origin": "file"}
    dataset.metainfo["size"] = 9
    assert dataset.metainfo["size"] == 4
    assert Named.METAINFO == {"task": "class", "size": 3}
    assert dataset[0] == {"x": 1, "sample_idx": 0}
    with pytest.raises(TypeError, match="metainfo: got list; accepted: a mapping"):
        Boxes(metainfo=["a"])


@pytest.mark.parametrize("suffix", ["json", "yaml", "pkl"])
def test_annotation_files_and_prefixes(tmp_path, suffix):
    content = {"metainfo": {"task": "t"}, "data_list": [{"img_path": "a.jpg"}, {"img_path": "b.jpg"}]}
    path = tmp_path / f"ann.{suffix}"
    path.write_bytes(pickle.dumps(content) if suffix == "pkl" else json.dumps(content).encode())
    dataset = BaseDataset(str(path), data_root=str(tmp_path), data_prefix={"img_path": "images"})
    assert dataset[1]["img_path"] == str(tmp_path / "images" / "b.jpg")
    assert dataset.metainfo == {"task": "t"}
    assert BaseDataset(str(path))[0]["img_path"] == "a.jpg"
    with pytest.raises(KeyError, match="has no 'seg_path'"):
        BaseDataset(str(path), data_prefix={"seg_path": "masks"})


def test_parse_data_info_may_give_several_records(tmp_path):
    path = tmp_path / "ann.json"
    path.write_text(json.dumps({"metainfo": {}, "data_list": [{"n": 2}, {"n": 1}]}))

    class Frames(BaseDataset):
        def parse_data_info(self, raw_data_info):
            return [{"frame": k} for k in range(raw_data_info["n"])]

    assert [info["frame"] for info in Frames(str(path))] == [0, 1, 0]


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_bad_annotation_files_say_what_is_wrong(tmp_path):
    def dataset(name, content):
        (tmp_path / name).write_bytes(content)
        return BaseDataset(str(tmp_path / name))

    with pytest.raises(TypeError, match="must hold a mapping, but holds list"):
        dataset("a.json", b"[]")
    with pytest.raises(ValueError, match=r"lacks \['metainfo'\]; it has \['data_list', 'x'\]"):
        dataset("b.json", b'{"data_list": [], "x": 1}')
    with pytest.raises(ValueError, match=r"ends in none of \.json"):
        dataset("c.csv", b"")
    with pytest.raises(ValueError, match="has no ann_file"):
        BaseDataset()
    with pytest.raises(pickle.UnpicklingError, match=r"wants to import posix\.mkdir; only plain data"):
        dataset("d.pkl", pickle.dumps(Intruder(str(tmp_path / "made"))))
    assert not (tmp_path / "made").exists()
    arrays = {"metainfo": {}, "data_list": [{"x": np.arange(3), "y": np.float32(2), "z": np.array(["a"])}]}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        record = dataset("e.pkl", pickle.dumps(arrays, protocol))[0]
        assert (record["x"].tolist(), record["y"], record["z"].tolist()) == ([0, 1, 2], 2, ["a"])


class Runner:
    """Runs a text as code by a function of numpy when it is unpickled."""

    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return np.testing.measure, (self.code,)


def test_a_pickle_runs_no_function_of_numpy(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Runner(f"open({str(tmp_path / 'made')!r}, 'w')")))
    with pytest.raises(pickle.UnpicklingError, match=r"wants to import numpy\.\S*\.measure; only plain data"):
        BaseDataset(str(tmp_path / "a.pkl"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_number_of_records_may_be_one_of_numpys(layout):
    assert [record["i"] for record in Numbered(indices=np.int64(2), serialize_data=layout)] == [0, 1]
    assert [record["i"] for record in Numbered(indices=np.int64(-2), serialize_data=layout)] == [3, 4]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_indices_that_do_not_fit_are_named(layout):
    with pytest.raises(IndexError, match=r"indices \[99, -6\] are out of range: the dataset has 5 samples"):
        Numbered(indices=[0, 99, -6], serialize_data=layout)
    with pytest.raises(TypeError, match="indices: got str; accepted: an int or a sequence of ints"):
        Numbered(indices="12", serialize_data=layout)
    assert [record["i"] for record in Numbered(indices=[-1, 0], serialize_data=layout)] == [4, 0]


class Numbered(BaseDataset):
    """Five records."""

    def load_data_list(self):
        return [{"i": i} for i in range(5)]


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="serialize_data: got 'rows'; accepted"):
        Boxes(serialize_data="rows")
    with pytest.raises(ValueError, match="max_refetch: got -1"):
        Boxes(max_refetch=-1)
    with pytest.raises(TypeError, match=r"data_prefix\['img_path'\]: got int"):
        Boxes(data_prefix={"img_path": 3})


def drop_odd(info):
    return None if info["sample_idx"] % 2 else info


def test_refused_samples_are_replaced_within_the_limit():
    dataset = Boxes(pipeline=[drop_odd])
    assert dataset[4]["sample_idx"] == 4
    assert all(dataset[i]["sample_idx"] % 2 == 0 for i in range(20))
    calls = []

    def refuse(info):
        calls.append(info["sample_idx"])

    with pytest.raises(
        RuntimeError, match=r"None for sample 7 and for 3 others drawn instead \(max_refetch\)"
    ) as caught:
        Boxes(pipeline=[refuse], max_refetch=3)[7]
    assert calls[0] == 7
    assert len(calls) == 4
    assert "while reading sample 7 of Boxes" in caught.value.__notes__
    with pytest.raises(RuntimeError, match="None for sample 3; in test mode"):
        Boxes(pipeline=[drop_odd], test_mode=True)[3]


def double(info):
    return {**info, "label": info["label"] * 2}


def fail(info):
    return [][3]


def test_pipeline_errors_name_step_and_sample():
    with pytest.raises(IndexError) as caught:
        Boxes(pipeline=[double, fail])[6]
    assert [note.split(" at 0x")[0] for note in caught.value.__notes__] == [
        "in pipeline[1]: <function fail",
        "while reading sample 6 of Boxes",
    ]
    with pytest.raises(IndexError):  # not silently the end of the loop
        list(Boxes(pipeline=[fail]))


def test_compose():
    assert Compose(None)(3) == 3
    assert Compose([lambda x: x + 1, lambda x: x * 2])(3) == 8
    assert Compose([lambda x: None, fail])(3) is None
    assert repr(Compose([max])) == "Compose(\n    <built-in function max>\n)"
    with pytest.raises(TypeError, match=r"pipeline\[1\] is not callable: got \{'type': 'Flip'\}.*LazyCall"):
        Compose([double, {"type": "Flip"}])  # type: ignore[list-item]
