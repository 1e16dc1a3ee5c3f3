import functools
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.core.mesh import batch_sharding, local_rows, put_rows
from clipjax.data import pipeline
from clipjax.data.order import shuffled
from clipjax.data.pipeline import Batches, DeviceBatches, one_by_one

SPEC = {"x": ((3,), np.dtype(np.int64)), "y": ((), np.dtype(np.float32))}
PATIENCE = 60  # seconds until a call counts as hanging


def fill(sample, row):
    row["x"][...] = [sample, sample**2, -sample]
    row["y"][...] = sample / 2


def expected(samples):
    return {
        "x": np.stack([samples, samples**2, -samples], 1).astype(np.int64),
        "y": (samples / 2).astype(np.float32),
    }


def order(global_batch_size=40):
    return shuffled(num_examples=1000, global_batch_size=global_batch_size, seed=0)


def take(loader, count):
    """Copies of the next batches."""
    try:
        return [{k: v.copy() for k, v in next(loader).items()} for _ in range(count)]
    finally:
        loader.close()


def same(batch, other):
    return batch.keys() == other.keys() and all((batch[k] == other[k]).all() for k in batch)


@pytest.mark.parametrize("first_step", [0, 7])
@pytest.mark.parametrize("threads", [1, 3, 0])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batch_k_is_the_same_wherever_and_with_whatever_iteration_began(first_step, threads, ahead):
    """40 rows: two whole tasks of a thread and a half one."""
    samples_of = order().samples
    loader = Batches(
        samples_of, one_by_one(fill), SPEC, first_step=first_step, threads=threads, ahead=ahead
    )
    for step, batch in enumerate(take(loader, 8), first_step):
        assert same(batch, expected(samples_of(step)))
        assert {k: v.dtype for k, v in batch.items()} == {k: d for k, (_, d) in SPEC.items()}


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("interleaved", [False, True])
def test_any_number_of_hosts_makes_the_same_global_batch(hosts, interleaved):
    rows = np.arange(40).reshape((-1, hosts)).T if interleaved else np.arange(40).reshape(hosts, -1)
    parts = [
        take(
            Batches(
                functools.partial(lambda r, step: order().samples(step, r), r),
                one_by_one(fill),
                SPEC,
            ),
            5,
        )
        for r in rows
    ]
    for step in range(5):
        whole = {k: np.zeros((40, *s), d) for k, (s, d) in SPEC.items()}
        for r, part in zip(rows, parts, strict=True):
            for name, array in part[step].items():
                whole[name][r] = array
        assert same(whole, expected(order().samples(step)))


def test_buffers_are_allocated_once():
    loader = Batches(order().samples, one_by_one(fill), SPEC, ahead=2)
    kept = [next(loader)["x"] for _ in range(12)]  # kept, so that no address is used again
    loader.close()
    assert len({array.ctypes.data for array in kept}) == 3


def test_a_returned_batch_stays_until_the_next_is_asked_for():
    """All batches ahead are filled while this one is looked at."""
    done = threading.Semaphore(0)

    def counted(sample, row):
        fill(sample, row)
        done.release()

    loader = Batches(order().samples, one_by_one(counted), SPEC, ahead=2)
    batch = next(loader)
    for _ in range(3 * 40):
        assert done.acquire(timeout=PATIENCE)
    assert same(batch, expected(order().samples(0)))
    loader.close()


class DecodeError(Exception):
    pass


def failing_at(sample_number):
    def fill_row(sample, row):
        if sample == sample_number:
            raise DecodeError(f"sample {sample} does not decode")
        fill(sample, row)

    return fill_row


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_in_a_thread_is_raised_by_next_at_its_batch(threads):
    loader = Batches(order().samples, one_by_one(failing_at(95)), SPEC, threads=threads)
    for step in range(2):
        assert same(next(loader), expected(order().samples(step)))
    with pytest.raises(DecodeError, match="sample 95 does not decode"):
        next(loader)
    loader.close()
    loader.close()


def finishes(function):
    """Runs a function in a thread; returns whether it ended in time."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


def copies(batch):
    return {k: v.copy() for k, v in batch.items()}


@pytest.mark.parametrize("consumed", [0, 1, 5])
@pytest.mark.parametrize("ahead", [1, 3])
def test_close_ends_all_threads_wherever_the_consumer_stopped(consumed, ahead):
    before = set(threading.enumerate())
    device = DeviceBatches(Batches(order().samples, one_by_one(fill), SPEC), copies, ahead=ahead)
    for step in range(consumed):
        assert same(next(device), expected(order().samples(step)))
    assert finishes(device.close)
    assert finishes(device.close)
    assert set(threading.enumerate()) <= before


def a_put_that_fails():
    calls = []

    def put(batch):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("out of memory on the device")
        return copies(batch)

    return put


@pytest.mark.parametrize("where", ["decode", "put"])
def test_an_error_of_decoding_or_transfer_is_raised_at_its_batch_and_ever_after(where):
    decodes = where == "put"
    fill_row, put = (fill, a_put_that_fails()) if decodes else (failing_at(95), copies)
    error = MemoryError if decodes else DecodeError
    device = DeviceBatches(Batches(order().samples, one_by_one(fill_row), SPEC), put)
    for step in range(2):
        assert same(next(device), expected(order().samples(step)))

    def fails_again():
        with pytest.raises(error):
            next(device)

    for _ in range(3):
        assert finishes(fails_again)
    assert finishes(device.close)


@pytest.mark.parametrize("consumed", [0, 1])
def test_close_does_not_hang_when_put_or_decoding_fails_unseen(consumed):
    for fill_row, put in ((failing_at(45), copies), (fill, a_put_that_fails())):
        device = DeviceBatches(Batches(order().samples, one_by_one(fill_row), SPEC), put, ahead=1)
        for _ in range(consumed):
            next(device)
        assert finishes(device.close)


def test_a_batch_asked_for_after_close_is_an_error_and_no_wait():
    device = DeviceBatches(Batches(order().samples, one_by_one(fill), SPEC), copies)
    next(device)
    device.close()

    def ask():
        with pytest.raises(RuntimeError, match="closed"):
            next(device)

    assert finishes(ask)


def test_waiting_for_input_is_counted_and_computing_is_not():
    gate = threading.Event()

    def gated(sample, row):
        assert gate.wait(PATIENCE)
        fill(sample, row)

    device = DeviceBatches(Batches(order().samples, one_by_one(gated), SPEC), copies)
    opener = threading.Timer(0.3, gate.set)
    opener.start()
    start = time.perf_counter()
    next(device)
    elapsed = time.perf_counter() - start
    opener.join()
    assert 0.15 < device.wait_seconds <= elapsed
    device.close()


def aligned_zeros(shape, dtype):
    """Zeros at a multiple of 64 bytes: what JAX takes over on CPU instead of copying it."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(dtype).reshape(shape)


ROWS, WIDTH, STEPS = 32, 64, 200
ALIGNED_SPEC = {"x": ((WIDTH,), np.dtype(np.int32))}


def fill_row(sample, row):
    row["x"][...] = np.arange(WIDTH) + 1000 * sample


@pytest.fixture
def aligned_batches(monkeypatch):
    """Batches over aligned buffers, decoded as fast as the threads can."""
    monkeypatch.setattr(pipeline, "np", types.SimpleNamespace(zeros=aligned_zeros))
    loader = Batches(order(ROWS).samples, one_by_one(fill_row), ALIGNED_SPEC, ahead=2)
    yield loader
    loader.close()


def safe_put(mesh):
    rows = local_rows(mesh, ROWS)
    return lambda batch: {k: put_rows(v, rows, ROWS, mesh) for k, v in batch.items()}


def aliasing_put(mesh):
    return lambda batch: {k: jax.device_put(v, batch_sharding(mesh)) for k, v in batch.items()}


def wrong_batches(batches, put):
    """Runs 200 steps without waiting for any; returns how many saw another batch than theirs.

    A step reads its batch 100 times, so that it is still reading when the loader is ahead.
    """

    @jax.jit
    def step(x):
        def once(_, carry):
            return (carry * 31 + x.sum(axis=1)) % 1_000_003

        return jax.lax.fori_loop(0, 100, once, jnp.zeros(len(x), jnp.int32))

    device = DeviceBatches(batches, put)
    try:
        results = [step(next(device)["x"]) for _ in range(STEPS)]
    finally:
        device.close()
    wrong = 0
    for number, result in enumerate(results):
        samples = order(ROWS).samples(number)
        x = np.arange(WIDTH, dtype=np.int32) + 1000 * samples[:, None].astype(np.int32)
        wrong += bool((np.asarray(result) != np.asarray(step(jnp.array(x, copy=True)))).any())
    return wrong


def test_every_unsynchronised_step_sees_its_own_batch_though_buffers_are_aligned(
    aligned_batches, mesh
):
    assert wrong_batches(aligned_batches, safe_put(mesh)) == 0


def test_the_buffers_of_that_test_are_ones_that_jax_would_alias(aligned_batches, mesh):
    """Without the copy in `put_rows` a batch changes with its buffer: the test above can fail."""
    batch = next(aligned_batches)
    aliased, copied = aliasing_put(mesh)(batch)["x"], safe_put(mesh)(batch)["x"]
    jax.block_until_ready((aliased, copied))
    before = np.array(batch["x"])
    batch["x"][...] = -1
    np.testing.assert_array_equal(np.asarray(copied), before)
    if (np.asarray(aliased) == before).all():
        pytest.skip("this jax copies aligned buffers on CPU: nothing to guard against")
    assert (np.asarray(aliased) == -1).any()


def test_without_the_copy_unsynchronised_steps_see_other_batches(aligned_batches, mesh):
    batch = aligned_zeros((ROWS, WIDTH), np.int32)
    probe = jax.block_until_ready(aliasing_put(mesh)({"x": batch})["x"])
    batch[...] = -1
    if not (np.asarray(probe) == -1).any():
        pytest.skip("this jax copies aligned buffers on CPU: nothing to guard against")
    assert wrong_batches(aligned_batches, aliasing_put(mesh)) > 0
