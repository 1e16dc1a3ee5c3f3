"""Where a suite keeps the embeddings of its tasks while they are made, and afterwards if asked."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from clipjax.inference.feature_files import FeatureFile

_PROMPTS = "prompts-"

FileOrNone = contextlib.AbstractContextManager[FeatureFile | None]


class SuiteFeatures:
    """The feature files of one model below one folder.

    Args:
        folder: of the files; made when it is needed.
        dim: numbers of an embedding.
        identify: returns another text for other work, from plain values that tell it apart.
        writes: whether this process is the one that writes; the others get None for every file.
    """

    def __init__(self, folder: Path, dim: int, identify: Callable[..., str], *, writes: bool):
        self._folder, self._dim, self._identify, self._writes = folder, dim, identify, writes

    def path(self, name: str) -> Path:
        """Returns where the embeddings of a name are."""
        return self._folder / f"{name}.npy"

    def rows(self, name: str, count: int, data: str) -> FileOrNone:
        """Returns the file of the items of a data set.

        Args:
            name: of the file.
            count: of the items.
            data: hash of the data set.
        """
        return self._open(self.path(name), count, self._identify(data=data))

    def prompt_rows(self, count: int, prompts: str) -> FileOrNone:
        """Returns the file of prompts, which all tasks with the same prompts share.

        Args:
            count: of the distinct prompts.
            prompts: hash of names and templates.
        """
        mark = self._identify(prompts=prompts)
        return self._open(self.path(f"{_PROMPTS}{mark[:16]}"), count, mark)

    def remove(self, name: str) -> None:
        """Removes the embeddings of a name, also those that were begun."""
        path = self.path(name)
        for file in (path.name, f".{path.name}.progress", f".{path.name}.part"):
            path.with_name(file).unlink(missing_ok=True)

    def clean(self) -> None:
        """Removes the embeddings of prompts, and the folder if nothing is left in it."""
        if not self._folder.is_dir():
            return
        for path in self._folder.glob(f"{_PROMPTS}*.npy"):
            self.remove(path.stem)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _open(self, path: Path, count: int, mark: str) -> FileOrNone:
        if not self._writes:
            return contextlib.nullcontext()
        path.parent.mkdir(exist_ok=True)
        return FeatureFile(path, self._dim, count, mark)
