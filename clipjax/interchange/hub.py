"""The Hugging Face Hub: the one place that uses the network, through `huggingface_hub`.

HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean here what they mean there.
"""

import re
import sys
from pathlib import Path
from typing import Any

from clipjax.config import UserError
from clipjax.interchange.formats import FORMATS
from clipjax.interchange.weights_file import INDEX_SUFFIX, PICKLE_SUFFIXES, pickle_refusal

PREFIX = "hf:"
_SPEC = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
_SMALL = (".json", ".txt", ".model", ".md")
_SECRET = re.compile(r"\bhf_\w+|(?i:bearer\s+\S+)|//[^/\s@]+@")


def parse(spec: str) -> tuple[str, str | None]:
    """Returns the repository and the revision of "hf:org/name@revision".

    Raises:
        UserError: if it is spelt otherwise.

    >>> parse("hf:org/name@v2")
    ('org/name', 'v2')
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec}: expected hf:ORG/NAME or hf:ORG/NAME@REVISION.")
    return match[1], match[2]


def download(spec: str) -> Path:
    """Returns a folder with the files of a model: from the cache, or fetched into it.

    Only what is needed is fetched: configs, the tokenizer, and one set of weights.

    Raises:
        UserError: if there is no such model, its weights are pickles, or it cannot be fetched.
    """
    repo, revision = parse(spec)
    hub = _package()
    try:
        if hub.constants.HF_HUB_OFFLINE:
            if (cached := _cached(hub, repo, revision)) is not None:
                return cached
            raise UserError(f"{spec}: is not in the cache, and HF_HUB_OFFLINE forbids fetching it.")
        info = hub.HfApi().model_info(repo, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        wanted = needed_files(spec, names)
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except UserError:
        raise
    except Exception as error:  # of several HTTP libraries
        cached = _cached(hub, repo, revision) if _no_answer(error) else None
        if cached is not None:
            print(
                f"warning: {spec}: the hub cannot be reached; the cached copy is used.",
                file=sys.stderr,
            )
            return cached
        raise UserError(f"{spec}: cannot be fetched: {_reason(error)}") from None


def _no_answer(error: Exception) -> bool:
    return getattr(error, "response", None) is None


def _cached(hub: Any, repo: str, revision: str | None) -> Path | None:
    """Returns the folder of a model that was fetched before; the package wants whole ones only."""
    for kind in FORMATS.values():
        for weights in kind.weights:
            for name in (weights, weights.removesuffix(".safetensors") + INDEX_SUFFIX):
                found = hub.try_to_load_from_cache(repo, name, revision=revision)
                folder = Path(found).parent if isinstance(found, str) else None
                if folder and (not kind.config_file or (folder / kind.config_file).is_file()):
                    return folder
    return None


def needed_files(spec: str, names: list[str]) -> list[str]:
    """Returns the files that make up the model among those of a repository.

    Raises:
        UserError: if there are no weights, or only pickles.
    """
    there = set(names)
    small = [n for n in names if "/" not in n and n.endswith(_SMALL)]
    for kind in FORMATS.values():
        if kind.config_file and kind.config_file not in there:
            continue
        for name in kind.weights:
            stem = name.removesuffix(".safetensors")
            if name in there:
                return [*small, name]
            if stem + INDEX_SUFFIX in there:
                return [*small, *(n for n in names if re.fullmatch(rf"{stem}-\d+-of-\d+.*", n))]
    if any(name.startswith("checkpoints/") for name in names):
        newest = max(n.split("/")[1] for n in names if n.startswith("checkpoints/"))
        return [*small, *(n for n in names if n.startswith(f"checkpoints/{newest}/"))]
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise UserError(pickle_refusal(f"{spec}: {pickles[0]}"))
    known = ", ".join(f"{k.config_file} with {k.weights[0]}" for k in FORMATS.values())
    raise UserError(f"{spec}: no model that is known among its {len(names)} files: {known}.")


def push(directory: Path, spec: str, *, private: bool = False, message: str = "") -> str:
    """Uploads a folder and returns the address of the commit; the repository is made if need be.

    Raises:
        UserError: if the folder holds pickles or no model, or it cannot be sent.
    """
    repo, revision = parse(spec)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder. Give one that clipjax convert wrote.")
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    for file in files:
        if file.suffix in PICKLE_SUFFIXES:
            raise UserError(pickle_refusal(str(file)))
    hub = _package()
    try:
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=str(directory),
            revision=revision,
            commit_message=message or "Weights written by clipjax",
            ignore_patterns=[".*", "**/.*", "*.tmp"],
        )
    except Exception as error:  # of several HTTP libraries
        raise UserError(f"{spec}: cannot be sent: {_reason(error)}") from None
    return str(getattr(done, "commit_url", done))


def _package() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError as error:
        raise UserError(
            "hf: needs the package huggingface_hub: pip install 'clipjax[hub]'."
        ) from error
    return huggingface_hub


def _reason(error: Exception) -> str:
    """Returns the first line of an error, without tokens and passwords."""
    kind = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    status = getattr(getattr(error, "response", None), "status_code", None)
    text = _SECRET.sub("[hidden]", lines[0] if lines else kind)[:300]
    known = {401: "log in with `hf auth login`", 403: "the token may not do this"}
    advice = {"RepositoryNotFoundError": "no such repository, or it is private"}.get(
        kind, known.get(status or 0, "")
    )
    return f"{kind}: {text}{f' ({advice})' if advice else ''}"
