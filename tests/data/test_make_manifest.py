"""Making manifests: against loops over the whole pool, and training reads just what is kept."""

import collections
import http.server
import json
import math
import os
import re
import threading

import numpy as np
import pytest

from clipjax.config.data import RemoteConfig
from clipjax.config.errors import UserError
from clipjax.data.balance import Balance, Metadata, sample_numbers
from clipjax.data.curation import Curation
from clipjax.data.filters import AtMost, CaptionWords, KeyList, MaxAspect, OneOf, TopShare
from clipjax.data.key_table import KeyTable, text_hashes
from clipjax.data.keyed import mix, uniforms
from clipjax.data.make_manifest import index_shards, write_manifest
from clipjax.data.manifest import FILE, Manifest
from clipjax.data.sources.opening import open_source
from clipjax.data.sources.tar_shards import ShardChangedError, TarShards
from clipjax.data.storage import open_storage
from clipjax.data.tar_index import open_index

WORDS = ["dog", "cat", "red", "house", "tree", "zebra"]


def make_samples(shards=5, per_shard=40):
    """{shard: {key: files}}: some without a caption, json or image; repeated images and texts."""
    rng = np.random.default_rng(5)
    pool = {}
    for shard in range(shards):
        pool[shard] = {}
        for row in range(per_shard):
            words = rng.choice(WORDS, rng.integers(0, 5), p=[0.5, 0.25, 0.1, 0.1, 0.04, 0.01])
            fields = {
                "width": int(rng.integers(1, 500)),
                "height": int(rng.integers(1, 500)),
                "punsafe": round(float(rng.random()), 2),
                "similarity": round(float(rng.random()), 2),
                "LANGUAGE": str(rng.choice(["en", "de"])),
                "sha256": f"{rng.integers(0, 60):064x}",
            }
            for name in list(fields):
                if rng.random() < 0.04:
                    del fields[name]
            files = {
                ("jpg", "png", "webp")[row % 3]: b"image %d" % rng.integers(0, 90),
                "json": json.dumps(fields).encode(),
                "txt": " ".join(words).encode(),
            }
            if rng.random() < 0.05:
                del files[str(rng.choice(list(files)))]
            pool[shard][f"{shard:05d}{row:04d}"] = files
    pool[shards - 1]["no-image"] = {"txt": b"alone"}
    return pool


@pytest.fixture
def pool(tmp_path, make_tar):
    samples = make_samples()
    folder = tmp_path / "pool"
    folder.mkdir()
    urls = [str(make_tar(folder / f"{shard:05d}.tar", samples[shard])) for shard in samples]
    return urls, samples


def write(urls, out, curation=None, *, needs=("txt",), **options):
    storage = open_storage(urls, options.pop("remote", RemoteConfig()))
    try:
        return write_manifest(
            urls, out, needs, curation or Curation(), storage=storage, made_by={}, **options
        )
    finally:
        storage.close()


def image_of(files):
    return next((files[s] for s in ("jpg", "jpeg", "png", "webp") if s in files), None)


def kept_keys(out):
    manifest = Manifest.load(out)
    found = []
    for shard in range(len(manifest)):
        keys = open_index(manifest.url(shard)).keys
        found += [keys[row] for row in manifest.rows(shard)]
    return found


def loop(urls, samples, rules, balance=None):
    """Kept keys and drops by the rules, sample by sample."""
    dropped = collections.Counter()
    rows = []
    for shard in samples:
        for key, files in samples[shard].items():
            if image_of(files) is None or "txt" not in files:
                dropped["incomplete"] += 1
            else:
                rows.append((shard, key, files, json.loads(files.get("json", b"{}"))))
    steps = [lambda row: rules["filter"](row[2], row[3])]
    if "top" in rules:
        steps.append(top_step(rows, *rules["top"]))
    if "duplicates" in rules:
        steps.append(duplicates_step(rules["duplicates"]))
    rows = taken(rows, steps, dropped)
    if balance:
        rows = taken(rows, [balance_step(rows, urls, balance)], dropped)
    return [row[1] for row in rows], dict(dropped)


def taken(rows, steps, dropped):
    kept = []
    for row in rows:
        reason = next((found for step in steps if (found := step(row))), None)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(row)
    return kept


def top_step(rows, column, share):
    numbers = sorted((f[column] for *_, f in rows if column in f), reverse=True)
    lowest = numbers[math.ceil(round(share * 100) * len(numbers) / 100) - 1]

    def step(row):
        if column not in row[3]:
            return f"no {column}"
        return None if row[3][column] >= lowest else f"{column} below the top {share}"

    return step


def duplicates_step(of):
    seen = set()

    def step(row):
        what = image_of(row[2]) if of == "image" else row[3].get(of)
        if what is None or what in seen:
            return f"no {of}" if what is None else f"duplicate {of}"
        seen.add(what)
        return None

    return step


def balance_step(rows, urls, balance):
    metadata = balance.metadata
    counts = collections.Counter(e for row in rows for e in metadata.find(row[2]["txt"].decode()))

    def step(row):
        digest = bytes.fromhex(open_index(urls[row[0]]).digest())[:16]
        number = sample_numbers(digest, [row[1]])[0]
        entries = metadata.find(row[2]["txt"].decode())
        for entry in entries:
            draw = uniforms(balance.seed, mix(number ^ mix(metadata.hashes[entry])), 5, 1)[0]
            if draw < balance.cap / counts[entry]:
                return None
        return "balance" if entries else "no entry"

    return step


def no_filter(files, fields):
    return None


def three_filters(files, fields):
    text = files["txt"].decode()
    if not text.strip():
        return "no caption"
    if len(text.split()) < 2:
        return "caption words"
    for name in ("width", "height"):
        if name not in fields:
            return f"no {name}"
    if max(fields["width"], fields["height"]) > 3 * min(fields["width"], fields["height"]):
        return "aspect ratio"
    if "punsafe" not in fields:
        return "no punsafe"
    if fields["punsafe"] > 0.8:
        return "punsafe above 0.8"
    return None


THREE = (AtMost("punsafe", 0.8), MaxAspect(3.0), CaptionWords(2, None))
BALANCE = Balance(Metadata(WORDS), 9, seed=11)
CASES = {
    "all": ({}, {"filter": no_filter}),
    "filters": ({"filters": THREE}, {"filter": three_filters}),
    "top": (
        {"top_shares": (TopShare("similarity", 0.3),)},
        {"filter": no_filter, "top": ("similarity", 0.3)},
    ),
    "images": ({"duplicates": "image"}, {"filter": no_filter, "duplicates": "image"}),
    "sha256": (
        {"duplicates": "sha256", "filters": THREE},
        {"filter": three_filters, "duplicates": "sha256"},
    ),
    "balance": ({"balance": BALANCE}, {"filter": no_filter}),
    "everything": (
        {
            "filters": THREE,
            "top_shares": (TopShare("similarity", 0.8),),
            "duplicates": "image",
            "balance": BALANCE,
        },
        {"filter": three_filters, "top": ("similarity", 0.8), "duplicates": "image"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_and_dropped_against_a_loop(tmp_path, pool, case):
    urls, samples = pool
    options, rules = CASES[case]
    curation = Curation(**options)
    expected, dropped = loop(urls, samples, rules, curation.balance)
    figures = write(urls, tmp_path / "out", curation)
    assert kept_keys(tmp_path / "out") == expected
    assert 0 < len(expected) == figures["samples"]
    assert figures["dropped"] == dropped
    assert figures["all_samples"] == sum(map(len, samples.values()))
    assert figures["samples"] + sum(dropped.values()) == figures["all_samples"]
    assert figures["bytes"] == sum(map(os.path.getsize, urls))
    about = json.loads((tmp_path / "out" / FILE).read_text())
    assert about["dropped"] == dropped
    assert about["digest"] == figures["digest"] == Manifest.load(tmp_path / "out").digest
    assert sorted(os.listdir(tmp_path / "out")) == ["manifest.json", "rows.bin", "shards.npz"]


@pytest.mark.parametrize("case", CASES)
def test_training_reads_exactly_the_samples_that_are_kept(tmp_path, pool, case):
    urls, samples = pool
    write(urls, tmp_path / "out", Curation(**CASES[case][0]))
    files = {key: found for of_shard in samples.values() for key, found in of_shard.items()}
    source = open_source("out", str(tmp_path), ("txt",))
    assert isinstance(source, TarShards)
    try:
        expected = [{"image": image_of(files[k]), "txt": files[k]["txt"]}
                    for k in kept_keys(tmp_path / "out")]  # fmt: skip
        assert [dict(source[index]) for index in range(len(source))] == expected
    finally:
        source.close()


def test_threads_and_caches_change_nothing(tmp_path, pool):
    urls, _ = pool
    curation = Curation(**CASES["everything"][0])
    digests = {
        write(urls, tmp_path / str(threads), curation, threads=threads)["digest"]
        for threads in (1, 3, 16)
    }
    for url in urls:
        os.remove(f"{url}.clipjax-index.npz")
    digests.add(write(urls, tmp_path / "1", curation)["digest"])
    assert len(digests) == 1
    other = Curation(**{**CASES["everything"][0], "balance": Balance(BALANCE.metadata, 9, seed=12)})
    assert write(urls, tmp_path / "other", other)["digest"] not in digests


def test_parquet_beside_the_shards_gives_the_same_manifest(tmp_path, pool):
    import pyarrow as pa
    import pyarrow.parquet

    urls, samples = pool
    curation = Curation(**CASES["everything"][0])
    by_json = write(urls, tmp_path / "json", curation)
    for url, of_shard in zip(urls, samples.values(), strict=True):
        rows = [{"key": "failed", "status": "failed"}]
        for key in reversed(list(of_shard)):
            if "json" in of_shard[key]:
                rows.append({"key": key, **json.loads(of_shard[key]["json"])})
        table = pa.Table.from_pylist(rows, schema=pa.unify_schemas(
            [pa.Table.from_pylist([row]).schema for row in rows]))  # fmt: skip
        pyarrow.parquet.write_table(table, url.replace(".tar", ".parquet"))
    by_parquet = write(urls, tmp_path / "parquet", curation)
    assert by_parquet["digest"] == by_json["digest"]
    assert by_parquet["dropped"] == by_json["dropped"]

    for url in urls:  # which shows that it is read
        with open(url.replace(".tar", ".parquet"), "wb") as file:
            file.write(b"PAR1")
    with pytest.raises(UserError, match=r"00000\.parquet: .*--no-parquet"):
        write(urls, tmp_path / "parquet", curation)
    without = Curation(**CASES["everything"][0], use_parquet=False)
    assert write(urls, tmp_path / "json", without)["digest"] == by_json["digest"]
    assert write(urls, tmp_path / "n", Curation(duplicates="image"))["samples"] > 0


def test_scores_from_a_file_and_lists_of_keys(tmp_path, pool):
    urls, samples = pool
    keys = [key for of_shard in samples.values() for key in of_shard if key != "no-image"]
    scores = np.random.default_rng(1).permutation(len(keys)).astype(float)
    hashes = text_hashes(keys)
    order = np.argsort(hashes)
    table = KeyTable(hashes[order], {"score": scores[order]})
    score = dict(zip(keys, scores.tolist(), strict=True))
    drop = KeyTable(np.unique(text_hashes(keys[::2])))
    curation = Curation(
        filters=(KeyList(drop, keep=False),),
        top_shares=(TopShare("score", 0.5),),
        scores=table,
    )
    figures = write(urls, tmp_path / "out", curation)
    whole = write(urls, tmp_path / "whole")["samples"]
    complete = kept_keys(tmp_path / "whole")
    lowest = sorted((score[key] for key in complete), reverse=True)[math.ceil(whole / 2) - 1]
    assert figures["thresholds"] == {"score top 0.5": lowest}
    dropped = set(keys[::2])
    expected = [key for key in complete if key not in dropped and score[key] >= lowest]
    assert kept_keys(tmp_path / "out") == expected


def test_a_score_that_two_samples_claim_is_refused(tmp_path, make_tar):
    urls = [str(make_tar(tmp_path / f"{n}.tar", {"a": {"jpg": b"x", "txt": b"x"}})) for n in "01"]
    table = KeyTable(text_hashes(["a"]), {"score": np.ones(1)})
    with pytest.raises(UserError, match=r"1\.tar: holds keys that have a score and occur in anot"):
        write(urls, tmp_path / "out", Curation(scores=table, top_shares=(TopShare("score", 0.5),)))


def test_a_shard_that_changes_afterwards_is_detected(tmp_path, pool, make_tar):
    urls, samples = pool
    write(urls, tmp_path / "out", Curation(filters=THREE))
    first = next(iter(samples[0]))
    changed = {**samples[0], first: {**samples[0][first], "txt": b"another caption"}}
    make_tar(tmp_path / "pool" / "00000.tar", changed)
    source = TarShards(Manifest.load(tmp_path / "out"))
    with pytest.raises(ShardChangedError, match=r"00000\.tar: .*lists other samples"):
        source[0]
    assert source[len(source) - 1]


def test_members_that_are_not_needed_are_told_when_they_are(tmp_path, pool):
    urls, samples = pool
    with_json = write(urls, tmp_path / "out", needs=("txt", "json"))
    expected = sum(image_of(f) is not None and "txt" in f and "json" in f
                   for of_shard in samples.values() for f in of_shard.values())  # fmt: skip
    assert with_json["samples"] == expected
    manifest = Manifest.load(tmp_path / "out")
    assert len(TarShards(manifest, needs=("json",))) == expected
    with pytest.raises(UserError, match=r"wanted \.cls\. Make it again"):
        TarShards(manifest, needs=("cls",))


def test_nothing_left_is_one_line_with_the_nearest_column(tmp_path, pool):
    urls, _ = pool
    with pytest.raises(UserError) as caught:
        write(urls, tmp_path / "out", Curation(filters=(AtMost("punsfe", 0.5),)))
    message = str(caught.value)
    assert re.search(r"no sample is left of 201 in 5 shards \(dropped \d+ no punsfe, ", message)
    assert "Did you mean 'punsafe'?" in message
    assert "\n" not in message
    with pytest.raises(UserError, match=r"dropped \d+ other LANGUAGE, .*incomplete.*\)\.$"):
        write(urls, tmp_path / "out", Curation(filters=(OneOf("LANGUAGE", ("xx",)),)))
    assert not (tmp_path / "out" / FILE).exists()


def test_a_failed_run_leaves_the_manifest_that_was_there(tmp_path, pool):
    urls, _ = pool
    before = write(urls, tmp_path / "out", Curation(filters=THREE))
    with pytest.raises(UserError):
        write(urls, tmp_path / "out", Curation(filters=(AtMost("punsfe", 0.5),)))
    with open(urls[3], "wb") as file:
        file.write(b"GIF89a")
    with pytest.raises(UserError, match=r"00003\.tar: cannot be read as a tar shard"):
        write(urls, tmp_path / "out")
    assert Manifest.load(tmp_path / "out").digest == before["digest"]


def test_the_manifest_of_another_program_is_left_alone(tmp_path, pool):
    urls, _ = pool
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_text('{"name": "my web app"}')
    with pytest.raises(UserError, match="is no manifest of shards, and would be replaced"):
        write(urls, tmp_path / "out")
    assert "web app" in (tmp_path / "out" / FILE).read_text()
    with pytest.raises(UserError, match="is a file"):
        write(urls, urls[0])


def test_damage_is_counted_and_the_sound_samples_are_kept(tmp_path, pool):
    urls, _ = pool
    whole = write(urls, tmp_path / "whole")["samples"]
    size = os.path.getsize(urls[2])
    with open(urls[2], "r+b") as file:
        file.truncate(size // 2)
    figures = write(urls, tmp_path / "out")
    assert figures["damage"]["shards"] == 1
    assert list(figures["damage"]["first"]) == [urls[2]]
    assert figures["damage"]["by_reason"]
    assert whole - 40 < figures["samples"] < whole
    assert len(open_source("out", str(tmp_path), ("txt",))) == figures["samples"]


def test_indexes_without_a_manifest(tmp_path, pool):
    urls, _ = pool
    figures = index_shards(urls, ("txt",), storage=open_storage(urls, RemoteConfig()))
    assert all(os.path.exists(f"{url}.clipjax-index.npz") for url in urls)
    assert not open_index(urls[0]).has_checksums
    assert figures["samples"] == write(urls, tmp_path / "out")["samples"]
    storage = open_storage(urls, RemoteConfig())
    index_shards(urls, ("txt",), storage=storage, checksums=True)
    assert open_index(urls[0]).has_checksums


def test_an_empty_shard_among_others(tmp_path, make_tar):
    urls = [str(make_tar(tmp_path / "0.tar", {})),
            str(make_tar(tmp_path / "1.tar", {"a": {"jpg": b"x", "txt": b"dog"}}))]  # fmt: skip
    options = {**CASES["everything"][0], "filters": (), "top_shares": ()}
    assert write(urls, tmp_path / "out", Curation(**options))["samples"] == 1
    assert Manifest.load(tmp_path / "out").rows(0).tolist() == []


class _Ranges(http.server.BaseHTTPRequestHandler):
    """Serves files of `server.folder`, ranges too."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.server.folder / self.path.lstrip("/")
        if not path.exists():
            self.send_error(404)
            return
        content = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2]) + 1) if found else (0, len(content))
        part = content[start:end]
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Accept-Ranges", "bytes")
        if found:
            last = start + len(part) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ranges)
    served.folder = tmp_path / "pool"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def test_shards_on_a_server_give_the_same_samples_and_carry_their_indexes(
    tmp_path, pool, server, monkeypatch
):
    urls, _ = pool
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = RemoteConfig(cache_dir=str(tmp_path / "blocks"), retry_seconds=5.0)
    away = [f"{server}/{os.path.basename(url)}" for url in urls]
    curation = Curation(**CASES["everything"][0])
    here = write(urls, tmp_path / "here", curation)
    there = write(away, tmp_path / "there", curation, remote=remote)
    assert there["digest"] == here["digest"]
    assert len(os.listdir(tmp_path / "there" / "indexes")) == len(urls)
    assert not os.path.exists(tmp_path / "cache" / "clipjax" / "indexes")
    ours = open_source("here", str(tmp_path), ("txt",))
    theirs = open_source("there", str(tmp_path), ("txt",), remote=remote)
    try:
        assert list(map(dict, ours)) == list(map(dict, theirs))
    finally:
        ours.close()
        theirs.close()
