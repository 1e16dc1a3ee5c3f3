"""The worker of `clipjax bench tokenizer` that runs open_clip's tokenizer; started by its path.

No part of the library, for the reason that `open_clip_step.py` gives.
"""

import runpy
from pathlib import Path
from typing import Any

from clipjax.cli.bench_captions import tokenizer_orders
from clipjax.cli.bench_turns import Orders, serve


def prepare(options: dict[str, Any]) -> Orders:
    """Makes open_clip's `SimpleTokenizer`, which takes whole batches here."""
    import torch

    # Beside some CPU builds of torch a plain import of open_clip fails; the step's worker knows.
    runpy.run_path(str(Path(__file__).parent / "open_clip_step.py"))["import_torchvision"](torch)
    import open_clip

    torch.set_num_threads(options["threads"])
    tokenizer = open_clip.SimpleTokenizer(context_length=options["context_length"])
    return tokenizer_orders(
        lambda captions: tokenizer(captions).numpy(),
        options,
        f"open_clip {open_clip.__version__}",
    )


if __name__ == "__main__":
    serve(prepare)
