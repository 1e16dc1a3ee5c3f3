import contextlib
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from clipjax.config.errors import UserError
from clipjax.data.decode import BadSampleError
from clipjax.data.writers import DatasetFolder, Sample, make_folder, write_members, write_shards


def samples(count, *, fail_at=None):
    for i in range(count):
        if i == fail_at:
            raise RuntimeError("the maker is interrupted")
        image = np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        yield Sample(image, f"caption {i} é", {"number": i}, label=i if i % 2 else None)


def members(path):
    with tarfile.open(path, "r:") as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def test_names_and_keys_are_those_of_img2dataset(tmp_path):
    assert write_shards(tmp_path / "out", samples(7), shard_size=3) == 7
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"0000{i}{end}" for i in range(3) for end in (".tar", "_stats.json")]
    keys = [[m.name for m, _ in members(tmp_path / "out" / f"0000{i}.tar")] for i in range(3)]
    assert keys[0][:3] == ["000000000.json", "000000000.png", "000000000.txt"]
    assert keys[1][:4] == [f"000010000.{end}" for end in ("cls", "json", "png", "txt")]
    assert [name.split(".")[0] for name in keys[2]] == ["000020000"] * 3


def test_members_hold_the_sample(tmp_path):
    write_shards(tmp_path, samples(2))
    by_name = {member.name: data for member, data in members(tmp_path / "00000.tar")}
    image = np.asarray(Image.open(io.BytesIO(by_name["000000001.png"])))
    np.testing.assert_array_equal(image, next(s.image for s in samples(2) if s.label))
    assert by_name["000000001.txt"].decode() == "caption 1 é"
    assert by_name["000000001.cls"] == b"1"
    assert json.loads(by_name["000000001.json"]) == {
        "caption": "caption 1 é",
        "key": "000000001",
        "status": "success",
        "width": 12,
        "height": 8,
        "number": 1,
    }


def test_webdataset_reads_them_in_order(tmp_path):
    write_shards(tmp_path, samples(5), shard_size=2)
    with contextlib.ExitStack() as stack:  # webdataset's own opener leaves the last file open
        shards = [
            {"url": str(path), "stream": stack.enter_context(path.open("rb"))}
            for path in sorted(tmp_path.glob("*.tar"))
        ]
        read = list(group_by_keys(tar_file_expander(shards)))
    assert [one["txt"].decode() for one in read] == [f"caption {i} é" for i in range(5)]


def test_bytes_are_a_function_of_the_samples(tmp_path, monkeypatch):
    digests = []
    for name, now in (("a", 1e9), ("b", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_shards(tmp_path / name, samples(3))
        digests.append(hashlib.sha256((tmp_path / name / "00000.tar").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    member = members(tmp_path / "a" / "00000.tar")[0][0]
    assert (member.mtime, member.uname, member.uid) == (0, "clipjax", 0)


def test_stats_count_each_shard(tmp_path):
    write_shards(tmp_path, samples(5), shard_size=3)
    stats = [json.loads((tmp_path / f"0000{i}_stats.json").read_text()) for i in range(2)]
    assert [one["count"] for one in stats] == [one["successes"] for one in stats] == [3, 2]
    assert stats[0]["status_dict"] == {"success": 3}
    assert stats[0]["failed_to_download"] == stats[0]["failed_to_resize"] == 0
    assert stats[0]["duration"] == stats[0]["end_time"] - stats[0]["start_time"] >= 0


def test_jpeg_is_written_on_demand(tmp_path):
    write_shards(tmp_path, samples(1), image_format="jpg")
    by_name = {member.name: data for member, data in members(tmp_path / "00000.tar")}
    assert Image.open(io.BytesIO(by_name["000000000.jpg"])).format == "JPEG"


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3])
def test_nothing_is_left_of_an_interrupted_run(tmp_path, fail_at):
    with pytest.raises(RuntimeError, match="interrupted"):
        write_shards(tmp_path, samples(5, fail_at=fail_at), shard_size=2)
    assert list(tmp_path.iterdir()) == []
    assert write_shards(tmp_path, samples(5), shard_size=2) == 5


def test_no_samples_make_no_shards(tmp_path):
    assert write_shards(tmp_path, []) == 0
    assert list(tmp_path.iterdir()) == []


def test_does_not_write_over_shards(tmp_path):
    write_shards(tmp_path, samples(1))
    with pytest.raises(UserError, match=r"holds 1 shards already .*Choose another folder"):
        write_shards(tmp_path, samples(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shard_size": 0}, "shard_size=0: wanted 1 to 10,000"),
        ({"shard_size": 10_001}, "shard_size=10001"),
        ({"image_format": "gif"}, "image_format='gif': wanted 'png' or 'jpg'"),
    ],
)
def test_refuses_what_cannot_be(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_shards(tmp_path, samples(1), **arguments)


def test_refuses_an_empty_caption(tmp_path):
    with pytest.raises(ValueError, match="sample 0: the caption is empty"):
        write_shards(tmp_path, [Sample(np.zeros((2, 2), np.uint8), " ")])


def folder(path, seed=0):
    return DatasetFolder(path, "toy", {"seed": seed}, ("train", "names.txt"))


def test_a_folder_is_complete_only_after_finish(tmp_path, capsys):
    one = folder(tmp_path / "toy")
    assert one.complete() is None
    one.begin()
    one.write_lines("names.txt", ["a"])
    assert one.complete() is None
    content = one.finish({"count": 1})
    assert content == {"dataset": "toy", "arguments": {"seed": 0}, "count": 1}
    assert sorted(path.name for path in one.path.iterdir()) == ["dataset.json", "names.txt"]
    assert capsys.readouterr().err == ""
    assert folder(tmp_path / "toy").complete() == content
    assert capsys.readouterr().err == f"{tmp_path / 'toy'}: already complete\n"


def test_begin_removes_only_its_own_from_a_begun_folder(tmp_path):
    one = folder(tmp_path)
    one.begin()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "00000.tar").touch()
    (tmp_path / "mine").mkdir()
    folder(tmp_path).begin()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json.partial", "mine"]


def test_begin_does_not_remove_what_others_wrote(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"holds train but neither .* did not write it"):
        folder(tmp_path).begin()
    assert (tmp_path / "train").exists()


def test_begin_refuses_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"is a file, wanted a folder"):
        folder(tmp_path / "file").begin()


@pytest.mark.parametrize("text", ["{}", "no json", '{"dataset": "toy", "arguments": {"seed": 1}}'])
def test_other_contents_are_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset.json: holds .*wanted .*--out"):
        folder(tmp_path).complete()


@pytest.mark.parametrize(("kind", "suffix"), [("jpeg", "jpg"), ("png", "png"), ("webp", "webp")])
def test_encoded_bytes_are_written_as_they_are(tmp_path, kind, suffix):
    buffer = io.BytesIO()
    Image.new("RGB", (13, 7), "red").save(buffer, kind)
    write_shards(tmp_path, [Sample(buffer.getvalue(), "red", {"width": 1, "x": 2})])
    by_name = {member.name: data for member, data in members(tmp_path / "00000.tar")}
    assert by_name[f"000000000.{suffix}"] == buffer.getvalue()
    fields = json.loads(by_name["000000000.json"])
    assert (fields["height"], fields["x"]) == (7, 2)


def test_bytes_that_are_no_image_leave_nothing(tmp_path):
    with pytest.raises(BadSampleError, match="damaged"):
        write_shards(tmp_path, [*samples(3), Sample(b"no image", "text")], shard_size=2)
    assert list(tmp_path.iterdir()) == []


def test_members_are_written_with_their_new_key(tmp_path):
    given = [{"jpg": b"a", "txt": b"x", "json": {"key": "old", "n": 1}}, {"png": b"b"}]
    assert write_members(tmp_path, given, shard_size=1) == 2
    first = {member.name: data for member, data in members(tmp_path / "00000.tar")}
    assert first["000000000.jpg"] == b"a"
    assert json.loads(first["000000000.json"]) == {"key": "000000000", "n": 1}
    second = {member.name: data for member, data in members(tmp_path / "00001.tar")}
    assert second == {"000010000.png": b"b"}


def test_a_lone_surrogate_does_not_end_the_writing(tmp_path):
    write_members(tmp_path, [{"jpg": b"a", "json": {"text": "\ud800"}}])
    by_name = {member.name: data for member, data in members(tmp_path / "00000.tar")}
    assert json.loads(by_name["000000000.json"])["text"] == "?"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(UserError, match="cannot be made or written") as caught:
            make_folder(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
