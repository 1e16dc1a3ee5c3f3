"""Can this model learn at all? Overfits one batch, the shortest test of a training set-up."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from clipjax.config import (
    AugmentConfig,
    ConvNetConfig,
    DataConfig,
    DistillConfig,
    DualEncoderConfig,
    MeshConfig,
    OptimConfig,
    TextConfig,
    TokenizerConfig,
    TrainConfig,
)
from clipjax.core.mesh import batch_sharding, make_mesh, put_rows
from clipjax.core.partition import tree_shardings
from clipjax.data.tokenizers.byte import VOCAB_SIZE, ByteTokenizer
from clipjax.losses import make_loss
from clipjax.models import param_axes
from clipjax.train.setup import open_data, open_source
from clipjax.train.state import init_state, optimizer_of
from clipjax.train.step import compile_step, make_train_step

NUM_PAIRS = 64
_COLOURS = ("red", "green", "blue", "white", "yellow", "cyan", "purple", "black")
_RGB = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (0, 0, 0))


def tiny_config() -> TrainConfig:
    """Returns a run whose model learns 64 pairs of two colours in seconds on a CPU."""
    return TrainConfig(
        model=DualEncoderConfig(
            image=ConvNetConfig(image_size=16, widths=(16, 32), depths=(1, 1)),
            text=TextConfig(
                vocab_size=VOCAB_SIZE,
                context_length=24,
                width=32,
                depth=1,
                num_heads=2,
                mlp_dim=64,
            ),
            embed_dim=32,
        ),
        tokenizer=TokenizerConfig(kind="byte"),
    )


def two_colours(config: TrainConfig) -> dict[str, np.ndarray]:
    """Returns 64 made-up pairs: a picture of two halves and the names of their colours."""
    side, length = config.model.image.image_size, config.model.text.context_length
    tokenize = ByteTokenizer(context_length=length, lowercase=True)
    images = np.empty((NUM_PAIRS, side, side, 3), np.uint8)
    tokens = np.empty((NUM_PAIRS, length), np.int32)
    for pair in range(NUM_PAIRS):
        left, right = divmod(pair, len(_COLOURS))
        images[pair, :, : side // 2] = np.array(_RGB[left]) * 255
        images[pair, :, side // 2 :] = np.array(_RGB[right]) * 255
        tokens[pair] = tokenize(f"{_COLOURS[left]} and {_COLOURS[right]}")
    return {"images": images, "tokens": tokens}


def first_pairs(config: TrainConfig) -> dict[str, np.ndarray]:
    """Returns the first 64 pairs of a run, as the run itself would see them.

    Raises:
        UserError: if the data cannot be read.
    """
    data = open_data(_small(config, 1), open_source(config), None)
    batch = {k: np.zeros((NUM_PAIRS, *shape), d) for k, (shape, d) in data.pairs.row_spec.items()}
    for row in range(NUM_PAIRS):
        data.pairs(row, {name: array[row] for name, array in batch.items()})
    return batch


def overfit(
    config: TrainConfig, batch: Mapping[str, np.ndarray], num_steps: int
) -> Iterator[tuple[int, float]]:
    """Yields (step, loss) while one batch of 64 pairs is learnt by heart.

    The model, the loss and the precision are those of `config`; the optimizer is a short, hot
    AdamW without decay, on one device. With softmax the loss starts near log(64) = 4.16; if it
    stays there, the pairs are mixed up, or no gradient reaches a tower.

    Args:
        config: of the run to be checked.
        batch: 64 pairs.
        num_steps: at most.
    """
    config = _small(config, num_steps)
    mesh = make_mesh(config.mesh, num_devices=1)
    optimizer = optimizer_of(config)
    shapes = jax.eval_shape(lambda: init_state(config, optimizer))
    places = tree_shardings(shapes, param_axes(config.model), mesh)
    state = jax.jit(lambda: init_state(config, optimizer), out_shardings=places)()
    step_fn = compile_step(
        make_train_step(config, optimizer, make_loss(config.loss, mesh)),
        state,
        {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=batch_sharding(mesh))
            for name, array in batch.items()
        },
    )
    rows = np.arange(NUM_PAIRS)
    on_device = {name: put_rows(array, rows, NUM_PAIRS, mesh) for name, array in batch.items()}
    with jax.set_mesh(mesh):
        for step in range(num_steps):
            state, metrics = step_fn(state, on_device)
            loss = metrics.get("train/contrastive_loss", metrics["train/loss"])
            yield step + 1, float(loss)


def starting_loss(config: TrainConfig) -> float:
    """Returns the loss of a model that knows nothing: log(64) nats with softmax."""
    if config.loss.kind == "softmax":
        return math.log(NUM_PAIRS)
    bias = config.model.init_logit_bias or 0.0
    return math.log1p(math.exp(-bias)) + (NUM_PAIRS - 1) * math.log1p(math.exp(bias))


def _small(config: TrainConfig, num_steps: int) -> TrainConfig:
    return dataclasses.replace(
        config,
        num_steps=num_steps,
        stages={},
        data=_replace_data(config.data),
        augment=AugmentConfig(),
        mesh=MeshConfig(data=1),
        loss=dataclasses.replace(config.loss, contrastive_weight=1.0),
        distill=DistillConfig(),
        optim=OptimConfig(
            peak_learning_rate=1e-3,
            warmup_steps=min(10, num_steps),
            schedule="constant",
            weight_decay=0.0,
        ),
    )


def _replace_data(data: DataConfig) -> DataConfig:
    return dataclasses.replace(
        data, global_batch_size=NUM_PAIRS, crop_scale=(1.0, 1.0), text_buckets=()
    )
