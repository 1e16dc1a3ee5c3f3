"""Two processes evaluate a suite: the scores of one, written once, and not done again."""

import json

import numpy as np
import pytest

from clipjax.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.serial]

# `launch` gives the flags of `clipjax train`; those of the cluster are passed on.
_SCRIPT = """
import sys

own, passed = {}, []
for flag in sys.argv[1:]:
    name, _, value = flag.removeprefix("--").partition("=")
    if name in ("model", "data", "workdir"):
        own[name] = value
    elif name != "config":
        passed.append(flag)

from clipjax.cli.main import main

suite = "--suite=folder:colours,folder:pairs,quick/digits,mnist"
flags = [f"--model={own['model']}", f"--data={own['data']}", f"--out={own['workdir']}/out", suite]
main(["evaluate", *flags, "--probe=knn", "--batch_size=8", *passed])
"""


def test_two_processes_score_what_one_does(trained, benchmark_root, launch, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    flags = (f"--model={trained[0]}", f"--data={benchmark_root}")
    for turn in range(2):
        run = launch(tmp_path / "run", *flags, num_processes=2, script=script)
        assert run.wait() == [0, 0], run.text(0) + run.text(1)
        assert ("done already" in run.text(0)) == bool(turn)
        assert "done already" not in run.text(1)  # process 0 speaks
    two = tmp_path / "run" / "out"
    suite = "--suite=folder:colours,folder:pairs,quick/digits,mnist"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *flags, suite, f"--out={tmp_path / 'one'}", "--probe=knn"])
    assert ended.value.code == 0
    capsys.readouterr()
    found = [json.loads((path / "results.json").read_text()) for path in (tmp_path / "one", two)]
    assert list(found[1]["failed"]) == ["mnist"]
    for name, record in found[0]["tasks"].items():
        for metric, score in record["metrics"].items():
            assert found[1]["tasks"][name]["metrics"][metric] == score, (name, metric)
    for task, array in (("colours", "predicted"), ("pairs", "text_rank")):
        arrays = [np.load(path / "tasks" / f"{task}.npz") for path in (tmp_path / "one", two)]
        np.testing.assert_array_equal(arrays[0][array], arrays[1][array])
        for one in arrays:
            one.close()
    assert not (two / "features").exists()
