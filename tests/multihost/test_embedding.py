"""Two processes embed what one does, keep it once, and agree on what is there already."""

import json

import numpy as np
import pytest

import clipjax
from clipjax.data.sources.tar_shards import TarShards

pytestmark = [pytest.mark.slow, pytest.mark.serial]

_SCRIPT = """
import argparse, sys
import numpy as np
from clipjax.cli.configs import add_cluster_flags, cluster_from
from clipjax.cli.parser import Parser

parser = Parser()
add_cluster_flags(parser)
for flag in ("config", "workdir", "model", "shards"):
    parser.add_argument(f"--{flag}")
args = parser.parse_args()

from clipjax.core.distributed import joined

with joined(cluster_from(args)):
    import jax
    from clipjax.cli import embed
    from clipjax.data.opening import Sources
    from clipjax.data.sources.tar_shards import TarShards
    from clipjax.inference.feature_files import FeatureFile
    from clipjax.inference.load import load

    model = load(args.model, all_devices=True, batch_size=8)
    given = Parser()
    embed.configure(given)
    flags = [f"--model={args.model}", f"--shards={args.shards}", f"--out={args.workdir}"]
    given = given.parse_args(flags)
    source = Sources({"": TarShards([f"{args.shards}/00000.tar", f"{args.shards}/00001.tar"])})
    job = embed._Embedding(given, model, source)
    job.run()

    here, rows = jax.process_index(), None
    if here == 0:
        rows = FeatureFile(f"{args.workdir}/kept.npy", 16, len(source), "a")
        rows.append(np.full((10, 16), 7, np.float32))
    found = model.encoder.images(model.params, job._pictures, rows)
    np.save(f"{args.workdir}/found-{here}.npy", found)
    np.save(f"{args.workdir}/texts-{here}.npy", model.encode_text(["a", "b" * 40, "c"]))
"""


@pytest.fixture
def shards(shards_root, make_tar, tmp_path):
    """The shards of the tiny run, and one picture among them that does not decode."""
    source = TarShards(
        [str(shards_root / "eval" / f"0000{n}.tar") for n in (0, 1)], needs=("txt", "cls")
    )
    samples = [dict(source[index]) for index in range(26)]
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        part = {}
        for index in range(13 * shard, 13 * shard + 13):
            sample = samples[index]
            image = sample["image"] if index != 20 else b"<html>"
            part[f"{index:05d}"] = {"png": image, "txt": sample["txt"], "cls": sample["cls"]}
        make_tar(folder / f"{shard:05d}.tar", part)
    return folder, samples


def test_two_processes_embed_what_one_does(trained, shards, launch, tmp_path):
    folder, samples = shards
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(_SCRIPT)
    run = launch(
        out,
        f"--model={trained[0]}",
        f"--shards={folder}",
        num_processes=2,
        script=script,
    )
    assert run.wait() == [0, 0], run.text(0) + run.text(1)
    model = clipjax.load(trained[0])
    good = [index for index in range(26) if index != 20]
    expected = np.zeros((26, 16), np.float32)
    expected[good] = model.encode_image([samples[index]["image"] for index in good])
    np.testing.assert_allclose(np.load(out / "image_features.npy"), expected, atol=1e-5)
    texts = model.encode_text([sample["txt"].decode() for sample in samples])
    np.testing.assert_allclose(np.load(out / "text_features.npy"), texts, atol=1e-5)
    record = json.loads((out / "embed.json").read_text())
    assert record["bad"]["images"]["count"] == 1
    assert len((out / "keys.txt").read_text().splitlines()) == 26

    of_both = [np.load(out / f"found-{process}.npy") for process in (0, 1)]
    np.testing.assert_array_equal(*of_both)
    assert (of_both[1][:10] == 7).all()
    np.testing.assert_allclose(of_both[1][10:], expected[10:], atol=1e-5)
    np.testing.assert_array_equal(np.load(out / "kept.npy"), of_both[0])
    of_both = [np.load(out / f"texts-{process}.npy") for process in (0, 1)]
    np.testing.assert_array_equal(*of_both)
