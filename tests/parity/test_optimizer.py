import numpy as np
import pytest

pytestmark = pytest.mark.parity

STEPS, WARMUP, PEAK, DECAY, EPS, CLIP = 20, 5, 1e-2, 0.2, 1e-3, 1.0


def test_stored_trajectory_is_that_of_torch(torch, open_clip, reference):
    """AdamW under open_clip's schedule, with clipping: 20 steps on given gradients, float64.

    Their norms run from 0.02 to 50, so that some are clipped; eps is large enough to be seen.
    """
    from open_clip_train.scheduler import cosine_lr

    rng = np.random.RandomState(2)
    start = {"kernel": rng.standard_normal((4, 3)), "bias": rng.standard_normal(3)}
    norms = np.geomspace(0.02, 50, STEPS)[rng.permutation(STEPS)]
    grads = {name: rng.standard_normal((STEPS, *value.shape)) for name, value in start.items()}
    length = np.sqrt(sum((g.reshape(STEPS, -1) ** 2).sum(axis=1) for g in grads.values()))
    arrays = {}
    for name in start:
        size = (norms / length).reshape(-1, *[1] * start[name].ndim)
        arrays[f"start_{name}"] = start[name].astype(np.float32)
        arrays[f"grads_{name}"] = (grads[name] * size).astype(np.float32)

    params = {
        name: torch.nn.Parameter(torch.tensor(np.float64(arrays[f"start_{name}"])))
        for name in start
    }
    optimizer = torch.optim.AdamW(
        [
            {"params": [params["kernel"]], "weight_decay": DECAY},
            {"params": [params["bias"]], "weight_decay": 0.0},
        ],
        lr=PEAK,
        betas=(0.9, 0.98),
        eps=EPS,
    )
    schedule = cosine_lr(optimizer, PEAK, WARMUP, STEPS)
    rates, paths = [], {name: [] for name in params}
    for step in range(STEPS):
        rates.append(schedule(step))
        for name, param in params.items():
            param.grad = torch.tensor(np.float64(arrays[f"grads_{name}"][step]))
        torch.nn.utils.clip_grad_norm_(params.values(), CLIP, norm_type=2.0)
        optimizer.step()
        for name, param in params.items():
            paths[name].append(param.detach().numpy().copy())
    arrays |= {f"path_{name}": np.stack(path) for name, path in paths.items()}
    settings = {"steps": STEPS, "warmup": WARMUP, "peak": PEAK, "decay": DECAY, "eps": EPS}
    arrays |= {name: np.float64(value) for name, value in settings.items()}
    reference("adamw", arrays | {"clip": np.float64(CLIP), "rates": np.float64(rates)})
