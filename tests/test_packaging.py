"""The wheel works outside the checkout, and importing stays cheap."""

import email
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Returns the standard output of an interpreter that does not see the checkout by itself."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, built by pip with the build backend from the package index."""
    if not (ROOT / "README.md").exists():
        pytest.skip("the tree has no README.md, which the package's metadata quotes")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no pip beside this interpreter")
    done = subprocess.run(
        [*command, "wheel", "--no-deps", "--retries", "1", "--wheel-dir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # pip asks the index for the backend before anything of ours runs.
    if done.returncode and re.search(r"No matching distribution found for hatchling", done.stderr):
        pytest.skip("the build backend hatchling cannot be had: no package index")
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("clipjax-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into."""
    target = tmp_path_factory.mktemp("target")
    command = ["-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    python(*command, "--target", str(target), str(wheel), cwd=target)
    return target


@pytest.mark.slow
def test_wheel_has_the_package_and_the_license_only(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clipjax"}
    assert not [name for name in names if "test" in name or "__pycache__" in name]
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    in_tree = {p.relative_to(ROOT).as_posix() for p in (ROOT / "clipjax").rglob("*.py")}
    assert in_tree <= set(names)


@pytest.mark.slow
def test_metadata_names_license_and_extras(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras >= {"cuda12", "cuda13", "tpu", "digits", "test", "parity"}
    always = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert not [r for r in always if re.match(r"(torch|tensorflow)\b(?!-datasets)", r)]


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path):
    where = "import clipjax; print(clipjax.__file__, clipjax.__version__)"
    file, version = python("-c", where, cwd=tmp_path, path=installed).split()
    assert Path(file).is_relative_to(installed)
    shown = python("-m", "clipjax.cli.main", "--version", cwd=tmp_path, path=installed)
    assert shown == f"clipjax {version}\n"
    shown = python("-m", "clipjax.cli.main", "--help", cwd=tmp_path, path=installed)
    assert "exit statuses" in shown
    # The lists of suites and the embedded pictures come with it.
    listed = python("-m", "clipjax.cli.main", "evaluate", "--list", cwd=tmp_path, path=installed)
    assert "datacomp (38 tasks)" in listed
    code = (
        "from clipjax.data.resize import EvaluationTransform\n"
        "from clipjax.evals.embedded import QUICK, open_embedded\n"
        "print(len(open_embedded(QUICK['quick/emoji'], EvaluationTransform()).keys))"
    )
    assert python("-c", code, cwd=tmp_path, path=installed) == "64\n"
    # A config of one's own, in a file outside the package.
    config = tmp_path / "mine.py"
    config.write_text((ROOT / "configs/quickstart.py").read_text())
    code = (
        "from clipjax.cli.configs import load_config\n"
        "print(load_config('mine.py', ['--config.num_steps=7']).num_steps)"
    )
    assert python("-c", code, cwd=tmp_path, path=installed) == "7\n"


@pytest.mark.slow
def test_console_command_is_installed(installed: Path):
    assert (installed / "bin" / "clipjax").exists()


def test_import_loads_neither_jax_nor_numpy(tmp_path: Path):
    code = (
        "import sys, clipjax\n"
        "print(*sorted({'jax', 'numpy', 'flax', 'tensorflow', 'torch'} & set(sys.modules)))"
    )
    assert python("-c", code, cwd=tmp_path, path=ROOT) == "\n"


def test_import_takes_less_than_300_ms(tmp_path: Path):
    # Measured inside, since the start of the interpreter is not ours.
    code = "import time; t = time.perf_counter(); import clipjax; print(time.perf_counter() - t)"
    assert min(float(python("-c", code, cwd=tmp_path, path=ROOT)) for _ in range(3)) < 0.3


def test_help_takes_less_than_one_second(tmp_path: Path):
    def seconds() -> float:
        start = time.perf_counter()
        python("-m", "clipjax.cli.main", "--help", cwd=tmp_path, path=ROOT)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0
