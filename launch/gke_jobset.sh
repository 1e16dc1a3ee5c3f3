#!/usr/bin/env bash
# Trains on Google Kubernetes Engine as a JobSet, on TPU slices or on GPU nodes.
#
#   IMAGE=REGION-docker.pkg.dev/P/R/clipjax:1 TPU=tpu-v5-lite-podslice TOPOLOGY=4x4 NODES=4 \
#     launch/gke_jobset.sh configs/clip.py --workdir=/data/run --config.num_steps=100
#   IMAGE=... GPU=nvidia-h100-80gb NODES=2 launch/gke_jobset.sh configs/clip.py --workdir=/data/run
#   DRY_RUN=1 ... launch/gke_jobset.sh ...    # print the manifest and the commands, run nothing
#
# Checks the run, has the cluster check the manifest, then applies it. Pods that are preempted, die
# or end with 75 (saved) have all restarted, and the run resumes from its last checkpoint; a mistake
# (status 1 or 2) ends it. The JobSet controller makes the headless service by which pods find each
# other. An equivalent command of xpk is printed for those who use it.
#
#   IMAGE=           with this commit in its working directory and `python -m clipjax.cli.main`
#   TPU=, TOPOLOGY=  node labels cloud.google.com/gke-tpu-accelerator and gke-tpu-topology; or
#   GPU=             node label cloud.google.com/gke-accelerator
#   NODES=           pods, one per node (of each slice)            CHIPS=   of each (TPU 4, GPU 8)
#   SLICES=          TPU slices (default 1)                        NAME=    (default clipjax)
#   CLAIM=, MOUNT=   persistent volume claim of all pods (default clipjax) and where they see it
#                    (default /data); --workdir must be in it
#   MAX_RESTARTS=    (default 100)     SPOT=1  on spot nodes
#   CLIPJAX_VENV=    environment here, for the check     CHECK=0   do not check
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
# shellcheck source=launch/training.sh
source launch/training.sh

case ${1:-} in
  -h | --help)
    print_header launch/gke_jobset.sh
    exit 0
    ;;
esac
read_arguments "$@"
no_options
find_clipjax
set_commit

name=${NAME:-clipjax} mount=${MOUNT:-/data} slices=${SLICES:-1} restarts=${MAX_RESTARTS:-100}
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  usage "NAME=$name: expected at most 40 small letters, digits and hyphens"
[[ -n ${IMAGE:-} ]] || usage "no IMAGE="
[[ -n ${TPU:-} || -n ${GPU:-} ]] || usage "neither TPU= nor GPU="
[[ -z ${TPU:-} || -z ${GPU:-} ]] || usage "both TPU= and GPU="
[[ -z ${TPU:-} || -n ${TOPOLOGY:-} ]] || usage "TPU= without TOPOLOGY="
[[ -z ${GPU:-} || $slices == 1 ]] || usage "SLICES=$slices are of TPUs"
nodes=${NODES:-1} chips=${CHIPS:-${TPU:+4}}
chips=${chips:-8}
for setting in "NODES $nodes" "CHIPS $chips" "SLICES $slices" "MAX_RESTARTS $restarts"; do
  positive "${setting% *}" "${setting#* }"
done
absolute_workdir "the volume of CLAIM="
[[ $WORKDIR == "$mount"/* ]] || usage "--workdir=$WORKDIR: expected a folder in MOUNT=$mount"

# JSON strings are YAML. Kubernetes would expand $(NAME), and takes $$ for $.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  printf '"%s"' "$text"
}

manifest() {
  local argument resource=google.com/tpu
  [[ -z ${GPU:-} ]] || resource=nvidia.com/gpu
  cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    clipjax/commit: $(quoted "$COMMIT$CHANGES")
END
  # Each job of the set on a slice of its own.
  [[ -z ${TPU:-} ]] ||
    printf '    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool\n'
  cat <<END
spec:
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
    subdomain: $name
  failurePolicy:
    maxRestarts: $restarts
    rules:
    - name: mistake
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: workers
    replicas: $slices
    template:
      spec:
        parallelism: $nodes
        completions: $nodes
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: train
              operator: In
              values: [1, 2]
        template:
          spec:
            restartPolicy: Never
            # For the last checkpoint after SIGTERM.
            terminationGracePeriodSeconds: 120
            nodeSelector:
END
  if [[ -n ${TPU:-} ]]; then
    printf '              %s: %s\n' cloud.google.com/gke-tpu-accelerator "$(quoted "$TPU")" \
      cloud.google.com/gke-tpu-topology "$(quoted "$TOPOLOGY")"
  else
    printf '              %s: %s\n' cloud.google.com/gke-accelerator "$(quoted "$GPU")"
  fi
  if [[ ${SPOT:-0} != 0 ]]; then
    printf '              cloud.google.com/gke-spot: "true"\n'
    printf '            tolerations:\n            - %s\n' \
      '{key: cloud.google.com/gke-spot, operator: Exists, effect: NoSchedule}'
  fi
  cat <<END
            containers:
            - name: train
              image: $(quoted "$IMAGE")
              command: [python, -m, clipjax.cli.train]
              args:
END
  for argument in "${ARGUMENTS[@]}"; do
    printf '              - %s\n' "$(quoted "${argument//\$/\$\$}")"
  done
  if [[ -n ${TPU:-} ]]; then
    printf '              - --coordinator=auto\n'
  else
    # JAX's own detection would need the right to list pods.
    printf '              - %s\n' "--coordinator=$name-workers-0-0.$name:1234" \
      "--num_processes=$nodes" "--process_id=\$(PROCESS_ID)"
  fi
  cat <<END
              env:
              - name: PROCESS_ID
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
              resources:
                limits: {$resource: $chips}
              volumeMounts:
              - {name: data, mountPath: $(quoted "$mount")}
              - {name: memory, mountPath: /dev/shm}
            volumes:
            - name: data
              persistentVolumeClaim: {claimName: $(quoted "${CLAIM:-clipjax}")}
            - name: memory
              emptyDir: {medium: Memory}
END
}

needs kubectl "Install the Google Cloud CLI with it and fetch the cluster's credentials."
say "commit $COMMIT$CHANGES; the image must hold the same: $IMAGE"
check_run $((slices * nodes * chips))
printf -v inner '%q ' python -m clipjax.cli.train "${ARGUMENTS[@]}" --coordinator=auto
if [[ -n ${TPU:-} ]]; then
  say "with xpk: $(DRY_RUN=1 run xpk workload create --cluster=CLUSTER "--workload=$name" \
    "--docker-image=$IMAGE" --tpu-type=TYPE "--num-slices=$slices" \
    "--max-restarts=$restarts" "--command=${inner% }")"
fi
if dry_run; then
  manifest
  printf '# %s\n' "kubectl apply --dry-run=server -f -" "kubectl apply -f -"
  exit 0
fi
text=$(manifest)
kubectl apply --dry-run=server -f - <<<"$text"
kubectl apply -f - <<<"$text"
say "follow it: kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$name"
