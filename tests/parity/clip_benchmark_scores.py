"""Evaluates the open_clip model of a folder with CLIP_benchmark: FOLDER; see the test beside it."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np

import clipjax


def main(folder: Path) -> None:
    import torch

    rivals = Path(clipjax.__file__).parent / "cli" / "rivals"
    runpy.run_path(str(rivals / "open_clip_step.py"))["import_torchvision"](torch)
    import open_clip
    from clip_benchmark.datasets.builder import build_dataset, image_captions_collate_fn
    from clip_benchmark.metrics import zeroshot_classification as zsc
    from clip_benchmark.metrics import zeroshot_retrieval as zsr

    from clipjax.inference.load import load

    # From NumPy 2.4 on an array of one number is no number, which `accuracy` takes it for.
    zsc.float = lambda array: float(np.asarray(array).item())

    tokenizer = load(folder / "run").tokenizer

    def tokenize(texts):
        return torch.from_numpy(np.stack([tokenizer(text) for text in texts])).long()

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder / 'torch'}")
    model.eval()

    def loader(name, collate=None):
        dataset = build_dataset(
            dataset_name=f"wds/{name}",
            root=str(folder / "bench" / f"wds_{name}"),
            transform=transform,
            split="test",
            download=False,
            task="zeroshot_retrieval" if collate else "zeroshot_classification",
        )
        batched = dataset.batched(64, collation_fn=collate) if collate else dataset.batched(64)
        batched.classes = dataset.classes
        batched.templates = dataset.templates
        return torch.utils.data.DataLoader(batched, batch_size=None, shuffle=False)

    batches = loader("numbers")
    prompts = (batches.dataset.classes, batches.dataset.templates)
    classifier = zsc.zero_shot_classifier(model, tokenize, *prompts, "cpu", amp=False)
    logits, target = zsc.run_classification(model, classifier, batches, "cpu", amp=False)
    scores = zsc.evaluate(model, batches, tokenize, *prompts, "cpu", amp=False)
    pairs = loader("pairs", image_captions_collate_fn)
    retrieval = zsr.evaluate(model, pairs, tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    np.savez(folder / "theirs.npz", logits=logits.numpy(), target=target.numpy())
    (folder / "theirs.json").write_text(json.dumps([scores, retrieval]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
