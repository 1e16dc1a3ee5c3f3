import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from clipjax.config import DataConfig, DualEncoderConfig, EvalsConfig, TaskConfig, UserError
from clipjax.evals.estimate import Estimate
from clipjax.evals.retrieval import Retrieval
from clipjax.evals.tasks import Task, flat_metrics, make_tasks
from clipjax.evals.zeroshot import ZeroShotClassification

MODEL = DualEncoderConfig()


def make(root, task=None, **fields):
    """The task `x` of a config, with fields of a TaskConfig."""
    task = dataclasses.replace(task or TaskConfig(shards="eval/*.tar"), **fields)
    evals = EvalsConfig(tasks={"x": task}, bootstrap_resamples=50)
    return make_tasks(evals, DataConfig(root=str(root)), MODEL)["x"]


def error_of(root, task=None, **fields):
    with pytest.raises(UserError) as caught:
        make(root, task, **fields)
    return str(caught.value)


COLOURS = TaskConfig(
    kind="zeroshot",
    shards="eval/*.tar",
    classnames="classnames.txt",
    templates="templates.txt",
)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def root(tmp_path, make_tar):
    """Three pairs with labels, and the files of the tasks."""
    (tmp_path / "eval").mkdir()
    samples = {
        f"{i:03d}": {
            "png": png(np.full((4, 6, 3), 40 * i, np.uint8)),
            "txt": f"caption {i}".encode(),
            "cls": f"{i}\n".encode(),
        }
        for i in range(3)
    }
    make_tar(tmp_path / "eval" / "0.tar", samples)
    (tmp_path / "classnames.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "templates.txt").write_text("a {c}\n\nthe {c}\n")
    (tmp_path / "more.txt").write_text("further\n caf\u00e9 \n", encoding="utf-8")
    return tmp_path


def replace_sample(root, make_tar, **files):
    make_tar(root / "eval" / "1.tar", {"bad": {"png": b"", "txt": b"t", "cls": b"0", **files}})
    return f"{root}/eval/1.tar: bad"


def test_a_retrieval_task_holds_captions_candidates_and_pictures(root):
    task = make(root, candidates="more.txt")
    assert isinstance(task, Retrieval)
    assert isinstance(task, Task)
    assert list(task.captions) == ["caption 0", "caption 1", "caption 2"]
    assert list(task.candidates) == ["further", "café"]
    assert task.resamples == 50
    out = np.zeros((4, 4, 3), np.uint8)
    task.images.fill(2, out)
    assert len(task.images) == 3
    assert (out == 80).all()


def test_a_classification_task_holds_labels_names_and_templates(root):
    task = make(root, COLOURS)
    assert isinstance(task, ZeroShotClassification)
    assert task.labels.tolist() == [0, 1, 2]
    assert list(task.class_names) == ["one", "two", "three"]
    assert list(task.templates) == ["a {c}", "the {c}"]


def test_without_templates_the_name_alone_is_the_prompt(root):
    assert list(make(root, COLOURS, templates="").templates) == ["{c}"]


def test_the_first_caption_of_a_list_is_the_one(shards_root):
    task = make(shards_root, caption="json.captions")
    assert task.captions[0].startswith("a red square at the")
    assert list(task.captions) == list(make(shards_root).captions)


def test_both_tasks_of_a_config_keep_their_names(root):
    evals = EvalsConfig(tasks={"a": TaskConfig(shards="eval/*.tar"), "b": COLOURS})
    tasks = make_tasks(evals, DataConfig(root=str(root)), MODEL)
    assert {name: type(task) for name, task in tasks.items()} == {
        "a": Retrieval,
        "b": ZeroShotClassification,
    }


@pytest.mark.parametrize(("shards", "found"), [("", "empty"), ("none/*.tar", "matches no file")])
def test_shards_that_name_no_file_are_named_with_the_task(root, shards, found):
    message = error_of(root, shards=shards)
    assert message.startswith("config.evals.tasks.x: ")
    assert "data.shards" not in message
    assert "shards" in message
    assert found in message


@pytest.mark.parametrize("field", ["classnames", "templates"])
def test_missing_files_of_classification_are_named_with_their_field(root, field):
    message = error_of(root, COLOURS, **{field: "none.txt"})
    assert f"config.evals.tasks.x.{field}='none.txt': no such file" in message
    assert f"data.root={str(root)!r}" in message


def test_missing_candidates_are_named_with_their_field(root):
    message = error_of(root, candidates="none.txt")
    assert "config.evals.tasks.x.candidates='none.txt': no such file" in message


def test_classification_needs_class_names(root):
    assert "config.evals.tasks.x.classnames=''" in error_of(root, COLOURS, classnames="")


@pytest.mark.parametrize("field", ["classnames", "templates", "candidates"])
@pytest.mark.parametrize(
    ("content", "found"), [(b"", "is empty"), (b" \n\n", "is empty"), (b"caf\xe9\n", "not UTF-8")]
)
def test_files_without_text_are_named_with_their_field(root, field, content, found):
    (root / "odd.txt").write_bytes(content)
    task = TaskConfig(shards="eval/*.tar") if field == "candidates" else COLOURS
    message = error_of(root, task, **{field: "odd.txt"})
    assert f"config.evals.tasks.x.{field}='odd.txt'" in message
    assert found in message


def test_a_blank_line_among_class_names_is_an_error_since_labels_are_line_numbers(root):
    (root / "classnames.txt").write_text("one\n\ntwo\nthree\n")
    message = error_of(root, COLOURS)
    assert "config.evals.tasks.x.classnames='classnames.txt': line 2 is blank" in message


def test_a_template_without_a_place_for_the_class_is_quoted(root):
    (root / "templates.txt").write_text("a {c}\na photo of {}\n")
    message = error_of(root, COLOURS)
    assert "config.evals.tasks.x.templates='templates.txt'" in message
    assert "a photo of {}" in message
    assert "{c}" in message


@pytest.mark.parametrize("label", [b"3", b"-1", b"", b"two", b"1.0", b"1e0", b"\xff", b"0 1"])
def test_a_bad_label_is_named_with_shard_and_key(root, make_tar, label):
    where = replace_sample(root, make_tar, cls=label)
    message = error_of(root, COLOURS)
    assert message.startswith(f"{where}: label ")
    assert "0 to 2" in message


def test_a_task_whose_shards_lack_what_it_needs_says_what(root):
    message = error_of(root, caption="json.caption")
    assert f"{root}/eval/0.tar: no complete sample" in message
    assert ".json" in message


def test_a_bad_caption_is_named_with_shard_and_key(root, make_tar):
    where = replace_sample(root, make_tar, txt=b" ")
    assert error_of(root).startswith(f"{where}: no caption: txt is empty")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"<html>", "not an image"), (png(np.zeros((30, 30), np.uint8)), "too large")],
)
def test_an_evaluation_picture_that_does_not_decode_is_an_error(root, make_tar, data, reason):
    """Training replaces such a sample; a score over fewer pictures would be another score."""
    where = replace_sample(root, make_tar, png=data)
    evals = EvalsConfig(tasks={"x": TaskConfig(shards="eval/*.tar")})
    task = make_tasks(evals, DataConfig(root=str(root), max_image_pixels=100), MODEL)["x"]
    out = np.zeros((4, 4, 3), np.uint8)
    for index in range(3):
        task.images.fill(index, out)
    with pytest.raises(UserError) as caught:
        task.images.fill(3, out)
    message = str(caught.value)
    assert message.startswith(f"{where}: {reason}")
    assert "mend the shard or take the sample out" in message


def test_metrics_are_named_for_the_log():
    def score(value):
        return Estimate(value=value, low=0.0, high=1.0, chance=0.1, samples=3)

    results = {"pets": {"top1": score(0.5), "top5": score(0.75)}, "coco": {"r@1": score(0.25)}}
    assert flat_metrics(results) == {
        "eval/pets/top1": 0.5,
        "eval/pets/top5": 0.75,
        "eval/coco/r@1": 0.25,
    }


def test_samples_that_are_not_scored_are_told(root, make_tar):
    pixels = png(np.zeros((4, 4, 3), np.uint8))
    make_tar(root / "eval" / "1.tar", {"009": {"png": pixels, "txt": b"no label"}})
    evals = EvalsConfig(tasks={"labels": COLOURS, "texts": TaskConfig(shards="eval/*.tar")})
    told = []
    tasks = make_tasks(evals, DataConfig(root=str(root)), MODEL, say=told.append)
    assert [len(task.images) for task in tasks.values()] == [3, 4]
    assert told == [
        "config.evals.tasks.labels: 1 samples lack an image or .cls and are not scored; the first "
        f"is {root}/eval/1.tar: 009."
    ]


def test_pictures_are_resized_as_the_model_wants_them(root):
    """The left half of each picture is white: a squeezed one shows it, the middle does not."""
    import tarfile

    pixels = np.zeros((4, 16, 3), np.uint8)
    pixels[:, :4] = 255
    with tarfile.open(root / "eval" / "0.tar", "w") as tar:
        for name, content in {"0.png": png(pixels), "0.txt": b"a"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    evals = EvalsConfig(tasks={"x": TaskConfig(shards="eval/*.tar")})
    seen = {}
    for resize in ("crop", "squash"):
        model = dataclasses.replace(MODEL, resize=resize)
        task = make_tasks(evals, DataConfig(root=str(root)), model)["x"]
        seen[resize] = np.empty((4, 4, 3), np.uint8)
        task.images.fill(0, seen[resize])
    assert seen["crop"].max() == 0
    assert seen["squash"][:, 0].min() > 150
