"""The worker of `clipjax bench evaluate` that makes class embeddings with open_clip.

No part of the library, for the reason that `open_clip_step.py` gives.
"""

import sys
from pathlib import Path
from typing import Any

from clipjax.cli.bench_evaluate_data import CLASS_NAMES, TEMPLATES
from clipjax.cli.bench_turns import Orders, serve


def prepare(options: dict[str, Any]) -> Orders:
    """Makes open_clip's model and writes its weights for us to read."""
    model, versions = make_model(options)
    import open_clip

    tokenizer = open_clip.get_tokenizer(options["preset"])
    templates = [template.replace("{c}", "{}") for template in TEMPLATES]

    names = CLASS_NAMES[: options["classes"]]

    def classes() -> Any:
        return open_clip.build_zero_shot_classifier(model, tokenizer, names, templates)

    return {
        "classes": lambda: {"images": classes().shape[1]},
        "embeds": lambda: {"classes": classes().T.tolist()},
        "report": lambda: {"version": versions},
    }


def make_model(options: dict[str, Any]) -> tuple[Any, str]:
    """Returns the model with initial weights, which are written into the folder, and versions."""
    import torch

    # Of the neighbour, which is found beside this file.
    sys.path.insert(0, str(Path(__file__).parent))
    from open_clip_step import import_torchvision  # type: ignore[import-not-found]

    import_torchvision(torch)
    import open_clip
    from safetensors.torch import save_file

    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    model = open_clip.create_model(options["preset"], precision="fp32").eval()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, Path(options["folder"]) / "weights.safetensors")
    return model, f"open_clip {open_clip.__version__}, torch {torch.__version__}"


if __name__ == "__main__":
    serve(prepare)
