import numpy as np

from clipjax.inference.suite_features import SuiteFeatures


def identify(**parts):
    return repr(sorted(parts.items()))


def test_files_are_kept_known_again_and_cleaned(tmp_path):
    files = SuiteFeatures(tmp_path / "features", 4, identify, writes=True)
    with files.rows("dtd", 3, "data") as rows:
        rows.append(np.ones((3, 4), np.float32))
    with files.rows("dtd", 3, "data") as rows:
        assert rows.done == 3
    with files.rows("dtd", 3, "other data") as rows:
        assert rows.done == 0
    with files.prompt_rows(2, "p") as rows:
        rows.append(np.ones((2, 4), np.float32))
    with files.prompt_rows(2, "p") as rows:
        assert rows.done == 2
    with files.prompt_rows(2, "q") as rows:
        assert rows.done == 0
    files.clean()
    assert [path.name for path in (tmp_path / "features").iterdir()]  # those of dtd were begun
    files.remove("dtd")
    files.clean()
    assert not list((tmp_path / "features").glob("*.npy"))


def test_other_processes_keep_nothing(tmp_path):
    files = SuiteFeatures(tmp_path / "features", 4, identify, writes=False)
    with files.rows("dtd", 3, "data") as rows, files.prompt_rows(2, "p") as prompts:
        assert rows is prompts is None
    files.clean()
    assert not (tmp_path / "features").exists()
