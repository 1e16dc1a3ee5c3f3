"""Pools of shards that are made where they are asked for, so that large ones take no room."""

import io
import tarfile
import zlib

import numpy as np
import pytest

from clipjax.data.curation import Curation
from clipjax.data.make_manifest import write_manifest
from clipjax.data.storage import open_storage


class Layout:
    """What the shards of a pool have in common: a tar with `count` samples."""

    def __init__(self, count, image_bytes, seed=0):
        rng = np.random.default_rng(seed)
        noise = rng.bytes(2 * image_bytes)
        out = io.BytesIO()
        self.images, self.ends = [], []
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(count):
                size = int(image_bytes * rng.uniform(0.7, 1.3))
                start = int(rng.integers(0, 2 * image_bytes - size))
                for suffix, data in (("jpg", noise[start : start + size]), ("txt", b"text")):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                    if suffix == "jpg":
                        end = out.tell() - (-size % 512) - size
                        self.images.append((end, size))
                self.ends.append(out.tell())
        self.tar = out.getvalue()


class Shard:
    """The first `count` samples of a layout; each image begins with its number in the pool.

    A slice of it is made when it is asked for.
    """

    def __init__(self, layout, first, count):
        self._layout, self._first, self._count = layout, first, count
        self._end = layout.ends[count - 1] if count else 0
        self.etag = f"{first}-{count}"

    def __len__(self):
        return self._end + 1024

    def __getitem__(self, wanted):
        start, stop, _ = wanted.indices(len(self))
        part = bytearray(self._layout.tar[start : min(stop, self._end)].ljust(stop - start, b"\0"))
        for row, (offset, _) in enumerate(self._layout.images[: self._count]):
            if offset < stop and offset + 8 > start:
                number = (self._first + row).to_bytes(8, "little")
                low, high = max(offset, start), min(offset + 8, stop)
                part[low - start : high - start] = number[low - offset : high - offset]
        return bytes(part)

    def image(self, row):
        offset, size = self._layout.images[row]
        return self[offset : offset + size]


class Pool:
    """Shards on a server, their manifest, and the CRC of every image by its number."""

    def __init__(self, server, folder, layout, counts, config):
        self.server, self.manifest = server, folder
        firsts = np.cumsum(counts) - counts
        self.shards = [
            Shard(layout, int(first), int(count))
            for first, count in zip(firsts, counts, strict=True)
        ]
        self.urls = [server.add(f"{i:05d}.tar", shard) for i, shard in enumerate(self.shards)]
        self.counts = np.asarray(counts)
        storage = open_storage(self.urls, config)
        write_manifest(
            self.urls, folder, ["txt"], Curation(), storage=storage, made_by={}, threads=2
        )
        storage.close()
        self.crcs = np.array(
            [
                zlib.crc32(shard.image(row))
                for shard, count in zip(self.shards, counts, strict=True)
                for row in range(count)
            ]
        )

    def __len__(self):
        return len(self.crcs)


@pytest.fixture(scope="session")
def make_pool():
    """make(server, folder, counts, image_bytes, config): a `Pool` of shards on a server."""

    def make(server, folder, counts, image_bytes, config):
        return Pool(server, folder, Layout(max(counts), image_bytes), counts, config)

    return make
