import io
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data.captions import choose_caption
from clipjax.data.decode import BadSampleError, decode_image
from clipjax.data.sources.source import Source
from clipjax.data.sources.tfds import TfdsSource, parse_address

COUNT = 23


def encoded(i, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8 + i % 3, 3), i, np.uint8)).save(buffer, kind)
    buffer.seek(0)
    return buffer


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Two prepared data sets: `plain` (caption and class) and `nested` (lists of captions)."""
    import tensorflow_datasets as tfds

    features = tfds.features

    class Plain(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # else importlib_resources would be needed

        def _info(self):
            spec = {
                "image": features.Image(encoding_format="png"),
                "caption": features.Text(),
                "label": features.ClassLabel(names=["tree_frog", "ice cream"]),
                "raw": features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(spec))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(COUNT), "test": self._generate_examples(4)}

        def _generate_examples(self, count):
            for i in range(count):
                image = encoded(i, "png")
                raw = b"\xff\xfe"
                yield i, {"image": image, "caption": f"é {i}", "label": i % 2, "raw": raw}

    class Nested(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.0")
        code_path = None  # else importlib_resources would be needed

        def _info(self):
            spec = {
                "picture": features.Image(encoding_format="jpeg"),
                "mask": features.Image(shape=(None, None, 3), encoding_format="png"),
                "captions": features.Sequence({"text": features.Text(), "id": np.int64}),
                "meta": {"lang": features.Text(), "score": np.float32, "ok": np.bool_},
                "objects": features.Sequence({"label": features.ClassLabel(num_classes=3)}),
            }
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(spec))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                yield (
                    i,
                    {
                        "picture": encoded(i, "jpeg"),
                        "mask": encoded(i, "png"),
                        "captions": [{"text": f"{i} {j}", "id": j} for j in range(i)],
                        "meta": {"lang": "en", "score": 0.5, "ok": True},
                        "objects": [{"label": 2}],
                    },
                )

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Plain, Nested):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    assert "tensorflow" not in sys.modules
    return folder


def test_samples_are_those_that_were_prepared(data_dir):
    source = TfdsSource("plain", needs=("txt", "json", "cls"), data_dir=str(data_dir))
    assert isinstance(source, Source)
    assert len(source) == COUNT
    seen = set()
    for i in range(COUNT):
        sample = source[i]
        number = int(sample["txt"].decode().removeprefix("é "))
        seen.add(number)
        assert sample["image"] == encoded(number, "png").read()
        assert (decode_image(sample["image"], 1 << 20) == number).all()
        assert sample["cls"] == str(number % 2).encode()
        assert json.loads(sample["json"]) == {"caption": f"é {number}", "label": number % 2}
    assert seen == set(range(COUNT))
    assert source.key(5) == "tfds:plain:train: 5"
    source.close()
    assert source[0]["image"]
    source.close()


def test_addresses_name_folders_and_splits(data_dir):
    assert parse_address("tfds:mnist") == ("mnist", "train")
    assert parse_address("tfds:a/b:3.*.*:test") == ("a/b:3.*.*", "test")
    assert parse_address("tfds:a:train[:50%]+test") == ("a", "train[:50%]+test")
    with pytest.raises(UserError, match="names no data set"):
        parse_address("tfds:")
    folder = data_dir / "plain" / "1.0.0"
    whole = TfdsSource.at(f"tfds:{folder}", "")
    below = TfdsSource.at("tfds:plain:test", str(data_dir))  # a folder with one version
    part = TfdsSource.at(f"tfds:{folder}:train[:10]", "")
    assert [len(whole), len(below), len(part)] == [COUNT, 4, 10]
    assert [part[i]["txt"] for i in range(10)] == [whole[i]["txt"] for i in range(10)]
    assert len({whole.digest(), below.digest(), part.digest()}) == 3
    assert whole.digest() == TfdsSource("plain", data_dir=str(data_dir)).digest()


def test_a_class_name_is_a_caption(data_dir):
    source = TfdsSource("plain", "test", caption_key="label", data_dir=str(data_dir))
    assert {source[i]["txt"] for i in range(4)} == {b"tree frog", b"ice cream"}


def test_nested_features_have_dotted_names(data_dir):
    options = {"image_key": "picture", "data_dir": str(data_dir)}
    source = TfdsSource("nested", needs=("json",), **options)
    for i in range(len(source)):
        fields = json.loads(source[i]["json"])
        count = len(fields["captions.text"])
        assert fields == {
            "captions.text": [f"{count} {j}" for j in range(count)],
            "captions.id": list(range(count)),
            "meta.lang": "en",
            "meta.score": 0.5,
            "meta.ok": True,
            "objects.label": [2],
        }
        if count:
            assert (
                choose_caption(source[i], "json.captions.text", (0.999, 0.0))
                == f"{count} {count - 1}"
            )
        else:
            with pytest.raises(BadSampleError, match="no caption"):
                choose_caption(source[i], "json.captions.text")
    assert TfdsSource("nested", caption_key="meta/lang", **options)[0]["txt"] == b"en"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {}, "no such data set is prepared in .*file_format='array_record'"),
        ("plain", {"split": "tran"}, r"There are: .*train.* Did you mean 'train'"),
        ("plain", {"split": "train[:0]"}, r"\(it is empty\)"),
        ("plain", {"split": "train["}, "the split cannot be read"),
        ("plain", {"needs": ("npy",)}, r"no member \.npy; found .*caption \(Text\)"),
        ("plain", {"caption_key": "captoin"}, "Did you mean 'caption'"),
        ("plain", {"image_key": "label"}, "no Image feature 'label'"),
        ("nested", {}, "needs one image feature.*mask .*picture"),
        ("nested", {"image_key": "mask"}, r"no caption: .*captions.text \(list of Text\)"),
        ("nested", {"image_key": "mask", "needs": ("cls",)}, r"no member \.cls"),
        ("nested", {"image_key": "mask", "caption_key": "captions/text"}, "no Text or ClassLabel"),
    ],
)
def test_what_cannot_be_used_is_told(data_dir, name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        TfdsSource(name, **options, data_dir=str(data_dir))
    assert "\n" not in str(caught.value)


def test_a_folder_that_tfds_did_not_make(data_dir, tmp_path):
    with pytest.raises(UserError, match="none and no version below it"):
        TfdsSource(str(tmp_path))
    shutil.copytree(data_dir / "plain", tmp_path / "plain")
    shutil.copytree(data_dir / "plain" / "1.0.0", tmp_path / "plain" / "2.0.0")
    with pytest.raises(UserError, match=r"found the versions 1.0.0, 2.0.0"):
        TfdsSource(str(tmp_path / "plain"))
    (tmp_path / "plain" / "2.0.0" / "dataset_info.json").write_text("{no json")
    with pytest.raises(UserError, match="cannot be opened"):
        TfdsSource(str(tmp_path / "plain" / "2.0.0"))


def test_another_file_format_is_told_what_to_do(data_dir, tmp_path):
    copy = tmp_path / "1.0.0"
    shutil.copytree(data_dir / "plain" / "1.0.0", copy)
    info = json.loads((copy / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"tfrecord.*Prepare it again with file_format='array_re"):
        TfdsSource(str(copy))


def test_a_damaged_record_is_a_bad_sample(data_dir, tmp_path):
    copy = tmp_path / "1.0.0"
    shutil.copytree(data_dir / "plain" / "1.0.0", copy)
    path = next(copy.glob("*train.array_record*"))
    content = bytearray(path.read_bytes())
    middle = content.find(b"IDAT", len(content) // 3)
    content[middle : middle + 8] = b"\0" * 8
    path.write_bytes(content)
    source = TfdsSource(str(copy))
    outcomes = []
    for i in range(len(source)):
        try:
            outcomes.append(decode_image(source[i]["image"], 1 << 20).shape[0])
        except BadSampleError as error:
            outcomes.append(error.reason)
    assert "damaged" in outcomes


@pytest.mark.parametrize("index", [-1, COUNT])
def test_an_index_outside_is_an_error(data_dir, index):
    with pytest.raises(IndexError, match=f"sample {index} of {COUNT}"):
        TfdsSource("plain", data_dir=str(data_dir))[index]


def test_threads_may_share_an_instance(data_dir):
    source = TfdsSource("plain", needs=("txt", "cls"), data_dir=str(data_dir))
    expected = [source[i] for i in range(COUNT)]
    source.close()
    wanted = np.random.default_rng(0).integers(0, COUNT, 1500).tolist()
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(source.__getitem__, wanted))
    assert all(sample == expected[index] for sample, index in zip(got, wanted, strict=True))


def test_records_are_read_by_one_thread_at_a_time(data_dir):
    source = TfdsSource("plain", data_dir=str(data_dir))

    class Watched:
        def __init__(self, records):
            self.records, self.inside, self.most = records, 0, 0

        def __len__(self):
            return len(self.records)

        def __getitem__(self, index):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.002)
            record = self.records[index]
            self.inside -= 1
            return record

    watched = source._records.data_source = Watched(source._records.data_source)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(source.__getitem__, range(COUNT)))
    assert watched.most == 1


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        TfdsSource("plain")


@pytest.mark.slow
def test_reading_imports_neither_tensorflow_nor_jax(data_dir):
    code = (
        "import sys; from clipjax.data.sources.opening import open_source\n"
        "assert 'tensorflow_datasets' not in sys.modules and 'pyarrow' not in sys.modules\n"
        f"source = open_source('tfds:plain', {str(data_dir)!r}, ('txt',))\n"
        "source[0]\n"
        "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_evaluation_reads_a_builder(data_dir, tmp_path):
    """Class names are those of the builder, templates those of the user."""
    from clipjax.data.resize import EvaluationTransform
    from clipjax.evals.open_suite import open_benchmark
    from clipjax.evals.places import MissingDataError
    from clipjax.evals.prompts import PromptFiles
    from clipjax.evals.suites import benchmark_of

    (tmp_path / "templates.txt").write_text("a photo of {c}\n")
    files = PromptFiles(templates=str(tmp_path / "templates.txt"))
    root = f"tfds:{data_dir}/plain/1.0.0:test"
    benchmark = benchmark_of("folder:plain")
    found = open_benchmark(benchmark, root, EvaluationTransform(), prompt_files=files)
    assert found.prompts.class_names == ["tree frog", "ice cream"]
    out = np.zeros((4, 4, 3), np.uint8)
    for index, label in enumerate(found.truth["label"]):
        found.items.fill(index, out)
        assert out.max() % 2 == label
    with pytest.raises(MissingDataError, match="--templates"):
        open_benchmark(benchmark, root, EvaluationTransform())
    assert "tensorflow" not in sys.modules
