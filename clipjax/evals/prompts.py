"""Class names and templates: where they come from and what is asked of them."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.config import UserError

_SLOT = "{c}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """What stands for each class in words.

    Attributes:
        class_names: one a class.
        templates: each with `{c}` for the class name; or by class name the prompts of the class
            (Pratt et al. 2023, "What does a platypus look like?", https://arxiv.org/abs/2209.03320).
        source: the files, for the record.
    """

    class_names: Sequence[str]
    templates: Sequence[str] | Mapping[str, Sequence[str]]
    source: str

    def of_class(self, name: str) -> list[str]:
        """Returns the prompts of a class.

        >>> Prompts(class_names=["cat"], templates=["a {c}.", "{c}"], source="").of_class("cat")
        ['a cat.', 'cat']
        """
        if isinstance(self.templates, Mapping):
            return list(self.templates[name])
        return [template.format(c=name) for template in self.templates]

    def distinct(self) -> list[str]:
        """Returns all prompts, those that several classes share once."""
        return list(dict.fromkeys(t for name in self.class_names for t in self.of_class(name)))

    def sha256(self) -> str:
        """Returns a hash of the names and templates, in order."""
        templates: Any = self.templates
        templates = dict(templates) if isinstance(templates, Mapping) else list(templates)
        text = json.dumps([list(self.class_names), templates], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def make_prompts(
    where: str,
    class_names: Sequence[str],
    templates: Sequence[str] | Mapping[str, Sequence[str]],
    source: str,
) -> Prompts:
    """Returns prompts after checking them.

    Args:
        where: the task, for messages.
        class_names: one a class.
        templates: see `Prompts`.
        source: the files.

    Raises:
        UserError: if a class has no name or no prompt, or a template has no slot for it.
    """
    if not class_names:
        raise UserError(f"{where}: no class names in {source}; expected one a line.")
    _check_texts(where, "class names", class_names, source)
    if "" in class_names:
        raise UserError(
            f"{where}: line {list(class_names).index('') + 1} of the class names ({source}) is "
            "blank, so the labels behind it would be off by one. Name the class."
        )
    if isinstance(templates, Mapping):
        missing = [name for name in class_names if not templates.get(name)]
        if missing:
            raise UserError(f"{where}: no prompts for class {missing[0]!r} in {source}.")
        for name in class_names:
            _check_texts(where, f"prompts of class {name!r}", templates[name], source)
        return Prompts(class_names=class_names, templates=templates, source=source)
    if not templates:
        raise UserError(f"{where}: no templates in {source}; expected one a line with {_SLOT}.")
    _check_texts(where, "templates", templates, source)
    for number, template in enumerate(templates):
        try:
            filled = template.format(c="\0")
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}: template {number + 1} of {source}, {template!r}, has braces that are "
                f"not {_SLOT} ({error}); write {{{{ and }}}} for braces."
            ) from error
        if "\0" not in filled:
            raise UserError(
                f"{where}: template {number + 1} of {source}, {template!r}, has no {_SLOT} for "
                "the class name."
            )
    return Prompts(class_names=class_names, templates=templates, source=source)


def _check_texts(where: str, what: str, texts: Any, source: str) -> None:
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        raise UserError(f"{where}: {what} in {source} are {texts!r:.60}; expected a list of texts.")
    odd = [text for text in texts if not isinstance(text, str)]
    if odd:
        raise UserError(f"{where}: {what} in {source} hold {odd[0]!r:.60}; expected texts.")


class PromptFiles:
    """Class names and templates that the user names instead of those of the data sets.

    A text file holds one entry a line, for every task that is run. A JSON file maps names of tasks,
    or its last part, to a list; templates also to lists by class name. One that maps the names of
    classes themselves to their prompts, as files of CuPL do, is for every task that has them.

    Args:
        class_names: path; "" for those of the data.
        templates: path; "" for those of the data.

    Raises:
        UserError: if a file cannot be read.
    """

    def __init__(self, class_names: str = "", templates: str = ""):
        self._names = _read("--classnames", class_names) if class_names else None
        self._templates = _read("--templates", templates) if templates else None
        self.paths = (class_names, templates)

    def class_names(self, task: str) -> list[str] | None:
        """Returns the class names of a task; None for those of the data.

        Raises:
            UserError: if they are no list of texts.
        """
        found = _of_task(self._names, task)
        if found is not None:
            _check_texts(task, "class names", found, self.paths[0])
        return found

    def templates(self, task: str, class_names: Sequence[str]) -> Any:
        """Returns the templates of a task with these classes; None for those of the data."""
        found = _of_task(self._templates, task)
        if found is None and isinstance(self._templates, Mapping):
            return self._templates if any(n in self._templates for n in class_names) else None
        return found


def _of_task(found: Any, task: str) -> Any:
    if isinstance(found, Mapping):
        return found.get(task, found.get(task.rpartition("/")[2]))
    return found


def _read(flag: str, path: str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.endswith(".json") else text.rstrip("\n").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}={path}: cannot be read ({error}).") from error
    if isinstance(found, list):
        return [line.strip() if isinstance(line, str) else line for line in found]
    if not isinstance(found, Mapping):
        raise UserError(f"{flag}={path}: expected lists by the name of a task.")
    return found
