"""The devices of a run, as a grid with named axes."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1 (one axis at most) takes what is left.

    The batch is split over `replica`, `data` and `fsdp`. By default large machines shard the
    parameters over 8 to 16 neighbouring devices and keep copies beyond that (hybrid sharding): over
    hundreds of devices the shards would be a few rows each, and XLA would then sum activations
    instead of gathering weights.

    Attributes:
        replica: copies of the parameters on both sides of a slow network: slices of TPU pods. Only
            gradients cross it. None for the number of slices.
        data: copies of the parameters.
        fsdp: the parameters are split, and gathered where they are used. None for a divisor of what
            is left that is at least 8 and at most 16, the larger ones on TPUs, the smaller ones
            elsewhere, where 8 devices are a host; for 1 if there is none. With `data` given None
            takes what is left.
        tensor: heads and hidden units are split; the batch is not.

    Source: Zhao et al. 2023, "PyTorch FSDP", section 3.2.2 (hybrid sharding),
        https://arxiv.org/abs/2304.11277.
    """

    replica: int | None = None
    data: int = -1
    fsdp: int | None = None
    tensor: int = 1

    def __post_init__(self):
        sizes = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        if list(sizes.values()).count(-1) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
            told = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(f"{told}: must be positive; one of them may be -1")
