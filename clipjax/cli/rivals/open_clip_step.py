"""The worker of `clipjax bench step` that runs open_clip's train step; started by its path.

The library must not import torch, and this is no part of it: the folder has no `__init__.py`, so
that no module of clipjax can reach it by name and the import contracts have nothing to overlook.
It is a program that shares with the library only how orders are taken (`clipjax.cli.bench_turns`).
"""

import math
import sys
from typing import Any

from clipjax.cli.bench_turns import Orders, random_batch, serve, timed


def prepare(options: dict[str, Any]) -> Orders:
    """Makes open_clip's model, loss and optimizer as its own trainer does, without a scheduler.

    On a GPU the model is compiled (--torchcompile); bfloat16 is its --precision amp_bf16.
    """
    import torch

    import_torchvision(torch)
    import open_clip

    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    on_gpu = options["device"] == "gpu"
    device, half = "cuda" if on_gpu else "cpu", options["compute"]["dtype"] == "bfloat16"
    model = open_clip.create_model(options["preset"], precision="fp32", device=device)
    model.train()
    loss_fn = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(
        parameter_groups(model), lr=options["learning_rate"], betas=(0.9, 0.98), eps=1e-6
    )
    run = torch.compile(model) if on_gpu else model
    batch = random_batch(options["batch_size"], model.visual.image_size[0], model.context_length)
    # open_clip's loader normalises before the step; ours within it. The rival gets it for nothing.
    mean, std = (
        torch.tensor(numbers)[:, None, None]
        for numbers in (model.visual.image_mean, model.visual.image_std)
    )
    images = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2).float().div(255)
    images = ((images - mean) / std).contiguous()
    texts = torch.from_numpy(batch["tokens"]).long().to(device)
    images = images.to(device)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            image_features, text_features, logit_scale = run(images, texts)
            loss = loss_fn(image_features, text_features, logit_scale)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=2.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return float(loss)

    def report() -> dict[str, Any]:
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "version": f"open_clip {open_clip.__version__}, torch {torch.__version__}",
            "threads": torch.get_num_threads(),
        }

    return {"step": lambda: timed(step), "report": report}


def parameter_groups(model: Any) -> list[dict[str, Any]]:
    """Returns the decayed parameters and the others, chosen as open_clip's trainer does."""
    rest, never = [], []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or any(w in name for w in ("bn", "ln", "bias", "logit_scale"))
        (never if plain else rest).append(parameter)
    return [{"params": never, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]


def import_torchvision(torch: Any) -> None:
    """Imports torchvision, also where its compiled operators do not fit the build of torch.

    They fail to load beside some CPU builds; nothing here calls them, so that a declaration does.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        # It forgets what it declared when it is collected.
        torch.clipjax_torchvision_library = library
        import torchvision  # noqa: F401


if __name__ == "__main__":
    serve(prepare)
