"""The hub, played by a server on this machine; every client in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipjax.config import UserError
from clipjax.interchange.hub import _reason, needed_files, parse, push

SERVER = Path(__file__).with_name("hub_server.py")


class Hub:
    def __init__(self, root, cache, env):
        self.root = root
        self.log = root.parent / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([sys.executable, SERVER, root], stdout=log, stderr=log)
        while not (port := self.log.read_text().partition("\n")[0]):
            assert self.process.poll() is None
        self.env = {
            **{name: value for name, value in env.items() if name != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(cache),
            "HF_TOKEN": "hf_veryverysecret",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }

    def clipjax(self, *args, **env):
        return subprocess.run(
            [sys.executable, "-m", "clipjax.cli.main", *map(str, args)],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    def requests(self):
        return self.log.read_text().splitlines()[1:]


@pytest.fixture
def hub(tmp_path, make_child_env):
    pytest.importorskip("huggingface_hub")
    (tmp_path / "root").mkdir()
    served = Hub(tmp_path / "root", tmp_path / "cache", make_child_env(1))
    yield served
    served.process.kill()
    served.process.wait()


@pytest.mark.slow
def test_a_model_is_fetched_converted_pushed_and_fetched_again(hub, open_clip_folder, tmp_path):
    (hub.root / "org").mkdir()
    model = open_clip_folder(hub.root / "org" / "model")
    (model / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x02 never fetched")
    done = hub.clipjax("convert", "hf:org/model", tmp_path / "ours", "--to", "open_clip")
    assert done.returncode == 0, done.stderr
    assert not [line for line in hub.requests() if ".bin" in line]
    weights = "open_clip_model.safetensors"
    assert (tmp_path / "ours" / weights).read_bytes() == (model / weights).read_bytes()

    done = hub.clipjax("push", tmp_path / "ours", "hf:me/mine", "--private", "--message", "hello")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/me/mine/commit/0123456789abcdef0123456789abcdef01234567")
    pushed = hub.root / "me" / "mine"
    for file in (tmp_path / "ours").iterdir():
        assert (pushed / file.name).read_bytes() == file.read_bytes()
    # Weights go by Git LFS, as on the hub.
    assert any(line.startswith("PUT /lfs/") for line in hub.requests())
    assert (pushed / ".private").read_text() == "True"
    assert (pushed / ".message").read_text() == "hello"
    assert "secret" not in done.stdout + done.stderr

    done = hub.clipjax("convert", "hf:me/mine", tmp_path / "again", "--to", "clipjax")
    assert done.returncode == 0, done.stderr
    # What was fetched once is there without the hub too, whether or not it is known to be away.
    hub.process.kill()
    hub.process.wait()
    for number, env in enumerate(({"HF_HUB_OFFLINE": "1"}, {})):
        target = tmp_path / f"offline-{number}"
        done = hub.clipjax("convert", "hf:me/mine", target, "--to", "open_clip", **env)
        assert done.returncode == 0, done.stderr
        assert ("cannot be reached" in done.stderr) == (number == 1)


@pytest.mark.slow
def test_what_cannot_be_fetched_or_sent_is_one_line_without_secrets(hub, tmp_path):
    (hub.root / "org" / "pickles").mkdir(parents=True)
    (hub.root / "org" / "pickles" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    for args, why in (
        (("convert", "hf:org/nothing", "x", "--to", "clipjax"), "RepositoryNotFoundError"),
        (("convert", "hf:org/pickles", "x", "--to", "clipjax"), "is a pickle"),
        (("convert", "hf:org", "x", "--to", "clipjax"), "expected hf:ORG/NAME"),
        (("push", tmp_path / "mine", "hf:forbidden/x"), "403"),
    ):
        done = hub.clipjax(*args)
        assert done.returncode == 1, done
        assert why in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "secret" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_specification_is_org_and_name():
    assert parse("hf:laion/CLIP-ViT.B_32") == ("laion/CLIP-ViT.B_32", None)
    assert parse("hf:a/b@refs/pr/3") == ("a/b", "refs/pr/3")
    for wrong in ("hf:a", "hf:a/b/c", "hf:", "hf:a/b@", "hf:../x", "hf:a/ b"):
        with pytest.raises(UserError, match="expected hf:ORG/NAME"):
            parse(wrong)


def test_only_one_set_of_weights_is_fetched():
    names = [
        "README.md",
        "config.json",
        "open_clip_config.json",
        "tokenizer.json",
        "open_clip_model.safetensors",
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/model.onnx",
    ]
    assert set(needed_files("hf:a/b", names)) == {*names[:5]}
    shards = [f"open_clip_model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    index = "open_clip_model.safetensors.index.json"
    found = needed_files("hf:a/b", ["open_clip_config.json", index, *shards, "x-1-of-2.bin"])
    assert set(found) == {"open_clip_config.json", index, *shards}
    run = [f"checkpoints/{step:08d}/{name}" for step in (8, 12) for name in ("a", "state/b")]
    assert set(needed_files("hf:a/b", run)) == set(run[2:])
    with pytest.raises(UserError, match=r"is a pickle.*weights\.pt"):
        needed_files("hf:a/b", ["weights.pt", "config.yaml"])
    with pytest.raises(UserError, match="no model that is known among its 1 files"):
        needed_files("hf:a/b", ["README.md"])


def test_pickles_are_not_sent(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        push(tmp_path / "nothing", "hf:a/b")
    (tmp_path / "old.bin").touch()
    with pytest.raises(UserError, match="is a pickle"):
        push(tmp_path, "hf:a/b")


@pytest.mark.parametrize(
    "text",
    [
        "401 for hf_abcdefSECRET",
        "header Authorization: Bearer SECRET was refused",
        "cannot reach http://me:SECRET@host/x",
    ],
)
def test_no_token_gets_into_a_message(text):
    assert "SECRET" not in _reason(ValueError(text))


def test_nothing_of_the_network_is_imported_before_it_is_used():
    code = (
        "import sys, clipjax.interchange.hub\n"
        "print(*sorted({'huggingface_hub', 'httpx', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"
