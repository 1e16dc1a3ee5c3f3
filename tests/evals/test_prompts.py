import json
import re

import pytest

from clipjax.config import UserError
from clipjax.evals.prompts import PromptFiles, make_prompts


def test_a_template_may_repeat_the_name_and_hold_braces():
    found = make_prompts("x", ["cat"], ["{c}, a {c}", "{{{c}}}"], "f")
    assert found.of_class("cat") == ["cat, a cat", "{cat}"]


@pytest.mark.parametrize(
    ("names", "templates", "said"),
    [
        ([], ["{c}"], "no class names in f"),
        (["a", "", "b"], ["{c}"], "line 2 of the class names (f) is blank"),
        (["a"], [], "no templates in f"),
        (["a"], ["{c}", "a photo"], "template 2 of f, 'a photo', has no {c}"),
        (["a"], ["{c} {d}"], "has braces that are not {c} ('d')"),
        (["a"], ["{}"], "has braces that are not {c}"),
        (["a"], ["{c"], "has braces that are not {c}"),
        (["a"], ["{{c}}"], "has no {c}"),
        (["a", "b"], {"a": ["x"]}, "no prompts for class 'b' in f"),
        (["a"], {"a": []}, "no prompts for class 'a' in f"),
        (["a"], {"a": "a photo"}, "prompts of class 'a' in f are 'a photo'; expected a list"),
        (["a"], "a {c}", "templates in f are 'a {c}'; expected a list of texts"),
        (["a"], ["{c.name}"], "has braces that are not {c}"),
    ],
)
def test_mistakes_are_named(names, templates, said):
    with pytest.raises(UserError, match=re.escape(said)):
        make_prompts("task", names, templates, "f")


def test_the_hash_is_of_names_and_templates_in_order():
    one = make_prompts("x", ["a", "b"], ["{c}", "a {c}"], "f")
    hashes = {
        one.sha256(),
        make_prompts("x", ["b", "a"], ["{c}", "a {c}"], "f").sha256(),
        make_prompts("x", ["a", "b"], ["a {c}", "{c}"], "f").sha256(),
        make_prompts("x", ["a", "b"], {"a": ["1"], "b": ["2"]}, "f").sha256(),
    }
    assert len(hashes) == 4
    assert one.sha256() == make_prompts("y", ["a", "b"], ["{c}", "a {c}"], "g").sha256()


def test_files_of_the_user(tmp_path):
    names, templates = tmp_path / "names.txt", tmp_path / "cupl.json"
    names.write_text("one\ntwo\n")
    templates.write_text(json.dumps({"vtab/dtd": {"one": ["1."], "two": ["2."]}, "pets": ["{c}"]}))
    files = PromptFiles(str(names), str(templates))
    assert files.class_names("any") == ["one", "two"]
    assert files.templates("vtab/dtd", ["one"]) == {"one": ["1."], "two": ["2."]}
    assert files.templates("vtab/pets", ["one"]) == ["{c}"]  # by the last part of the name
    assert files.templates("vtab/svhn", ["one"]) is None
    assert PromptFiles().class_names("any") is None


def test_prompts_by_class_without_a_task(tmp_path):
    """As the files of CuPL are published."""
    path = tmp_path / "cupl.json"
    path.write_text(json.dumps({"one": ["1."], "two": ["2."]}))
    files = PromptFiles(templates=str(path))
    assert files.templates("imagenet1k", ["one", "two"]) == {"one": ["1."], "two": ["2."]}
    assert files.templates("vtab/pets", ["cat"]) is None
    with pytest.raises(UserError, match="no prompts for class 'three'"):
        make_prompts("x", ["one", "three"], files.templates("x", ["one", "three"]), "f")


def test_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\n")
    assert PromptFiles(class_names=str(path)).class_names("x") == ["one", "two"]
    path.write_text("\none\ntwo\n")
    names = PromptFiles(class_names=str(path)).class_names("x") or []
    assert names == ["", "one", "two"]
    with pytest.raises(UserError, match="line 1 of the class names"):
        make_prompts("x", names, ["{c}"], "f")
    path = tmp_path / "names.json"
    for found, said in ((5, "are 5; expected a list"), (["a", 1], "hold 1; expected texts")):
        path.write_text(json.dumps({"x": found}))
        with pytest.raises(UserError, match=f"class names in .* {said}"):
            PromptFiles(class_names=str(path)).class_names("x")


@pytest.mark.parametrize("content", ["{", '"text"', "3"])
def test_files_that_hold_something_else(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match="--templates="):
        PromptFiles(templates=str(path))
    with pytest.raises(UserError, match="--classnames="):
        PromptFiles(class_names=str(tmp_path / "missing.txt"))
