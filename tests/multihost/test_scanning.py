"""Two processes scan what one does, and go on where they were when one of them died."""

import time

import numpy as np
import pytest

from clipjax.interpret.scan_files import Scan

pytestmark = [pytest.mark.slow, pytest.mark.serial]

_SCRIPT = """
import sys
from clipjax.cli.main import main
flags = [flag for flag in sys.argv[1:] if not flag.startswith(("--config", "--workdir"))]
main(["neurons", "scan", *flags])
"""


@pytest.fixture
def scan(trained, shards_root, launch, tmp_path):
    """Scans the tiny model in some processes; returns their run."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)

    def start(out, num_processes, *flags):
        return launch(
            out,
            f"--model={trained[0]}",
            f"--stimuli={shards_root}/eval/*.tar",
            f"--out={out}",
            "--concept_column=cls",
            "--facets=photo,caption",
            "--units=image/*/mlp_act,text/*/mlp_act,shared/embed",
            "--batch_size=3",
            "--pilot=12",
            "--k=4",
            "--control=untrained",
            *flags,
            num_processes=num_processes,
            script=script,
        )

    return start


def test_two_processes_scan_what_one_does_though_one_of_them_dies(scan, tmp_path):
    run = scan(tmp_path / "2", 2)
    end = time.monotonic() + 120
    while not (tmp_path / "2" / "summaries" / "photo.npz").exists():
        assert time.monotonic() < end, run.text(0)
        time.sleep(0.002)
    run.signal(1)
    assert run.wait()[0] != 0  # it does not wait for one that is gone
    again = scan(tmp_path / "2", 2)
    assert again.wait() == [0, 0], again.text(0) + again.text(1)
    alone = scan(tmp_path / "1", 1)
    assert alone.wait() == [0], alone.text(0)
    for part in ("", "controls/untrained"):
        one, two = (Scan(tmp_path / count / part) for count in ("1", "2"))
        assert one.record.devices == two.record.devices == "4 x cpu"
        assert one.facets == two.facets == ("photo", "caption")
        for name in one.facets:
            for path in one.record.facets[name]:
                np.testing.assert_allclose(
                    two.activations(name, path), one.activations(name, path), atol=1e-6
                )
                a, b = one.summary(name, path), two.summary(name, path)
                np.testing.assert_array_equal(a.top_rows, b.top_rows)
                np.testing.assert_array_equal(a.counts, b.counts)
