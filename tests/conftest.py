"""Eight simulated devices, a compilation cache, no network, and a tiny run that tests share."""

import collections
import dataclasses
import gc
import importlib.metadata
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

_CACHE = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(
        os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "clipjax", "jax-cache"
    ),
)
os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_COMPILATION_CACHE_DIR=_CACHE,
    # To write a smaller program costs as much as to compile it.
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.03",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="0",
    HF_HUB_OFFLINE="1",
)
# Compiling is most of the time of these tests: at level 0, in one piece and with the older emitters
# of machine code it takes a quarter. XLA's own passes are the same.
_QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _QUICK_COMPILE += " --xla_cpu_use_fusion_emitters=false"  # unknown flags abort newer ones
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {_QUICK_COMPILE} {os.environ.get('XLA_FLAGS', '')}"
)

# A shell that starts the tests in the background has them ignore Ctrl-C, and so their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items):
    """Brings files with many slow tests first, so that no worker ends with a long one alone.

    Then come those of training and of models, last those of the command line.
    """
    slow = collections.Counter(i.path for i in items if i.get_closest_marker("slow"))
    place = {path: n for n, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (-slow[item.path], -place[item.path]))


def pytest_collection_finish():
    """Python looks for garbage too often where hundreds of modules and traces are alive.

    Left to itself it takes 8 % of the time of these tests.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Refuses every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else "local"
        if self.family in (socket.AF_INET, socket.AF_INET6) and not (
            host.startswith("127.") or host in ("::1", "localhost")
        ):
            raise AssertionError(f"a test tried to connect to {address}")
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


@pytest.fixture(scope="session")
def mesh():
    """Eight devices on the axis `data`."""
    from clipjax.config import MeshConfig
    from clipjax.core.mesh import make_mesh

    return make_mesh(MeshConfig(fsdp=1))


@pytest.fixture(scope="session")
def mesh_222():
    """Two devices on each of `data`, `fsdp` and `tensor`."""
    from clipjax.config import MeshConfig
    from clipjax.core.mesh import make_mesh

    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """Writes samples {key: {suffix: content}} as a plain tar."""
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def make_tar():
    """The function `write_tar`."""
    return write_tar


def png(pixels: np.ndarray) -> bytes:
    """Encodes pixels."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def make_png():
    """The function `png`."""
    return png


COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "purple": (150, 50, 180),
    "white": (240, 240, 240),
    "black": (15, 15, 15),
    "orange": (240, 140, 20),
}
PLACES = ("top left", "top right", "bottom left", "bottom right", "middle", "left", "right", "top")
_CORNERS = ((2, 2), (2, 18), (18, 2), (18, 18), (10, 10), (10, 2), (10, 18), (2, 10))


@pytest.fixture(scope="session")
def shards_root(tmp_path_factory):
    """64 pairs: a coloured square at one of eight places, in two shards; and an evaluation split.

    train/*.tar (png, txt, json, cls), eval/*.tar (the same pairs), classnames.txt, templates.txt.
    """
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    samples = {}
    for c, (colour, rgb) in enumerate(COLOURS.items()):
        for place, (y, x) in zip(PLACES, _CORNERS, strict=True):
            pixels = rng.integers(100, 140, (32, 32, 3)).astype(np.uint8)
            pixels[y : y + 12, x : x + 12] = rgb
            text = f"a {colour} square at the {place}"
            samples[f"{len(samples):09d}"] = {
                "png": png(pixels),
                "txt": text.encode(),
                "json": json.dumps({"captions": [text, f"{colour}, {place}"]}).encode(),
                "cls": str(c).encode(),
            }
    keys = list(samples)
    for split in ("train", "eval"):
        (root / split).mkdir()
        for shard in range(2):
            part = {key: samples[key] for key in keys[shard::2]}
            write_tar(root / split / f"{shard:05d}.tar", part)
    (root / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    (root / "templates.txt").write_text("a {c} square\n{c}\n")
    return root


@pytest.fixture(scope="session")
def benchmark_root(tmp_path_factory, shards_root):
    """Small data sets in every layout that `clipjax evaluate` reads, of 16 coloured squares.

    wds_colours and wds_tags and wds_pairs (CLIP_benchmark's), wds_wilds-fmow_test (with groups),
    kinds (a folder a class), listed.csv, and tables of the names that benchmarks have.
    """
    root = tmp_path_factory.mktemp("benchmarks")
    with tarfile.open(shards_root / "train" / "00000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    keys = sorted({name.partition(".")[0] for name in files})[::2]
    images = [files[f"{key}.png"] for key in keys]
    labels = [int(files[f"{key}.cls"]) for key in keys]
    captions = [files[f"{key}.txt"].decode() for key in keys]

    def array(values):
        out = io.BytesIO()
        np.save(out, np.asarray(values))
        return out.getvalue()

    def layout(name, kind, suffixes):
        folder = root / name
        (folder / "test").mkdir(parents=True)
        for shard in range(2):
            part = range(shard * 8, shard * 8 + 8)
            samples = {
                keys[i]: {"png": images[i], **{end: make(i) for end, make in suffixes.items()}}
                for i in part
            }
            write_tar(folder / "test" / f"{shard}.tar", samples)
        (folder / "test" / "nshards.txt").write_text("2\n")
        if kind:
            (folder / "dataset_type.txt").write_text(f"{kind}\n")
        if kind != "retrieval":
            (folder / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
            templates = folder / "zeroshot_classification_templates.txt"
            templates.write_text("a {c} square\n{c}\n")
        return folder

    label = {"cls": lambda i: str(labels[i]).encode()}
    layout("wds_colours", "", label)
    tags = {"npy": lambda i: array([c == labels[i] or c == i % 8 for c in range(8)])}
    layout("wds_tags", "multilabel", tags)
    texts = {"txt": lambda i: f"{captions[i]}\nsquare {i}\n".encode()}
    layout("wds_pairs", "retrieval", texts)
    regions = {**label, "npy": lambda i: array([i % 3 if i else 5, i % 2, labels[i]])}
    layout("wds_wilds-fmow_test", "", regions)
    train = root / "wds_colours" / "train"
    train.mkdir()
    for shard in range(2):
        shutil.copy(shards_root / "train" / f"{shard:05d}.tar", train / f"{shard}.tar")
    (train / "nshards.txt").write_text("2\n")
    for i, image in enumerate(images):
        folder = root / "kinds" / "test" / list(COLOURS)[labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(image)
    templates = (root / "wds_colours" / "zeroshot_classification_templates.txt").read_text()
    (root / "kinds" / "zeroshot_classification_templates.txt").write_text(templates)
    (root / "images").mkdir()
    for i, image in enumerate(images):
        (root / "images" / f"{i}.png").write_bytes(image)
    rows = [f"images/{i}.png,{label}" for i, label in enumerate(labels)]
    (root / "listed.csv").write_text("\n".join(["filepath,label", *rows]))
    _write_tables(root, images, captions)
    return root


def _write_tables(root, images, captions):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def picture(i):
        return {"bytes": images[i], "path": f"{i}.png"}

    def table(folder, rows, name="test-00000-of-00001.parquet"):
        (root / folder).mkdir(exist_ok=True)
        path = root / folder / name
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)

    table(
        "flickr30k",
        [{"image": picture(i), "caption": [captions[i], f"no. {i}"]} for i in range(8)],
    )
    table(
        "winoground",
        [
            {
                "id": i,
                "image_0": picture(i),
                "image_1": picture(i + 1),
                "caption_0": captions[i],
                "caption_1": captions[i + 1],
            }
            for i in range(4)
        ],
    )
    cues = [(["a", "b", "c", "d", "e"], ["b", "d"]), (["f", "g", "h"], ["h"])]
    table(
        "winogavil",
        [
            {
                "cue": cue,
                "candidates": names,
                "candidate_images": [picture(i) for i in range(len(names))],
                "associations": right,
            }
            for cue, (names, right) in zip(["Owl", "tree"], cues, strict=True)
        ],
    )
    (root / "sugar_crepe").mkdir()
    (root / "sugar_crepe" / "val2017").mkdir()
    pairs = {}
    for i in range(3):
        (root / "sugar_crepe" / "val2017" / f"{i}.png").write_bytes(images[i])
        pairs[str(7 * i)] = {
            "filename": f"{i}.png",
            "caption": captions[i],
            "negative_caption": captions[i + 1],
        }
    (root / "sugar_crepe" / "add_att.json").write_text(json.dumps(pairs))
    (root / "crossmodal3600" / "images").mkdir(parents=True)
    for i in range(2):
        (root / "crossmodal3600" / "images" / f"{i}.png").write_bytes(images[i])
    told = {"image_paths": ["elsewhere/0.png", "elsewhere/1.png"], "annotations": ["eins", "zwei"]}
    path = root / "crossmodal3600" / "crossmodal3600_captions-de.json"
    path.write_text(json.dumps(told))


@pytest.fixture(scope="session")
def tiny_config(shards_root):
    """A whole run that takes seconds: 0.1 M parameters, batch 16, 12 steps, two tasks."""
    from clipjax.config import (
        CheckpointConfig,
        DataConfig,
        DualEncoderConfig,
        EvalsConfig,
        LogConfig,
        OptimConfig,
        TaskConfig,
        TextConfig,
        TokenizerConfig,
        TrainConfig,
        ViTConfig,
    )

    return TrainConfig(
        num_steps=12,
        model=DualEncoderConfig(
            image=ViTConfig(
                image_size=16, patch_size=8, width=32, depth=1, num_heads=2, mlp_dim=64
            ),
            text=TextConfig(
                vocab_size=300, context_length=16, width=32, depth=1, num_heads=2, mlp_dim=64
            ),
            embed_dim=16,
        ),
        tokenizer=TokenizerConfig(kind="bpe"),
        data=DataConfig(root=str(shards_root), shards="train/*.tar", global_batch_size=16),
        optim=OptimConfig(peak_learning_rate=1e-3, warmup_steps=2, ema_decay=0.9),
        checkpoint=CheckpointConfig(every_steps=4),
        evals=EvalsConfig(
            batch_size=16,
            bootstrap_resamples=200,
            tasks={
                "pairs": TaskConfig(kind="retrieval", shards="eval/*.tar"),
                "colours": TaskConfig(
                    kind="zeroshot",
                    shards="eval/*.tar",
                    classnames="classnames.txt",
                    templates="templates.txt",
                ),
            },
        ),
        log=LogConfig(every_steps=2, tensorboard=False),
    )


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, tiny_config):
    """`tiny_config` as a file for --config."""
    from clipjax.config import to_json_dict

    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(to_json_dict(tiny_config)))
    return path


@pytest.fixture(scope="session")
def clipjax_command():
    """Runs `clipjax ARGS` in a process of its own; returns the finished process with its text.

    Keywords: devices (simulated, 1 by default), cwd, env, timeout.
    """

    def run(*args, devices=1, cwd=None, env=None, timeout=300):
        return subprocess.run(
            [sys.executable, "-m", "clipjax.cli.main", *map(str, args)],
            cwd=cwd or ROOT,
            env={**child_env(devices), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def child_env(devices: int = 1) -> dict[str, str]:
    """Environment of a child process with its own number of simulated devices."""
    return {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {_QUICK_COMPILE}",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def make_child_env():
    """The function `child_env`."""
    return child_env


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_config):
    """(workdir, figures) of `tiny_config`, run once in this process on eight devices."""
    from clipjax.core.distributed import Cluster, joined
    from clipjax.train.run import run

    workdir = tmp_path_factory.mktemp("trained")
    with joined(Cluster()) as lifeline:
        figures = run(tiny_config, workdir, lifeline)
    return workdir, figures


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, and a function that gives it another size in kB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size, *options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}k", *options])]
        return subprocess.run([*command, "none", disk], capture_output=True, check=False)

    if mount(100_000).returncode:
        pytest.skip("a disk of its own can be mounted by root only")
    yield disk, lambda size: mount(size, "remount")
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="session")
def replace_in():
    """`dataclasses.replace` for a dotted path: replace_in(config, "data.shards", "x")."""

    def replace(config, path, value):
        name, _, rest = path.partition(".")
        if rest:
            value = replace(getattr(config, name), rest, value)
        return dataclasses.replace(config, **{name: value})

    return replace
