#!/usr/bin/env bash
# A run on the hosts of a TPU slice, or of several, without Kubernetes.
#
#   launch/tpu_vm.sh create | state | install | mount | train ARGUMENT ... | stop | delete
#
# Read from the environment: NAME, ZONE, ACCELERATOR_TYPE and RUNTIME_VERSION of the slice; SLICES
# (1); SPOT (empty; 1 asks for capacity that may be taken away); SOURCE (what pip installs); SHARE
# (HOST:/PATH of an NFS share that every host can reach, mounted at /mnt/runs). DRY_RUN=1 prints the
# commands instead of running them.
set -eu

NAME=${NAME:-alignjax}
ZONE=${ZONE:-us-west4-a}
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-16}
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
SLICES=${SLICES:-1}
SPOT=${SPOT:-}
SOURCE=${SOURCE:-alignjax[tpu,hf]}
SHARE=${SHARE:-}

run() {
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# One command line on every host of every slice.
everywhere() {
  if [ "$SLICES" -gt 1 ]; then
    run gcloud alpha compute tpus queued-resources ssh "$NAME" --zone="$ZONE" \
      --node=all --worker=all --command="$1"
  else
    run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
  fi
}

create() {
  local nodes=(--node-id="$NAME")
  if [ "$SLICES" -gt 1 ]; then nodes=(--node-count="$SLICES" --node-prefix="$NAME"); fi
  if [ -n "$SPOT" ]; then nodes+=(--spot); fi
  run gcloud compute tpus queued-resources create "$NAME" --zone="$ZONE" "${nodes[@]}" \
    --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION"
}

# Every host runs the same command in a loop of its own; JAX finds the others by the metadata of the
# slices. What a host says is in ~/alignjax.log.
train() {
  local words
  words=$(printf '%q ' alignjax train --coordinator=auto "$@")
  everywhere "nohup ~/restart.sh --failures 3 -- $words >> ~/alignjax.log 2>&1 < /dev/null & \
echo \$! > ~/alignjax.pid"
}

install() {
  local script
  script=$(base64 < "$(dirname "$0")/restart.sh" | tr -d '\n')
  everywhere "pip install $(printf '%q' "$SOURCE") && \
echo $script | base64 -d > ~/restart.sh && chmod +x ~/restart.sh"
}

mount_share() {
  : "${SHARE:?SHARE must be HOST:/PATH of an NFS share}"
  everywhere "sudo mkdir -p /mnt/runs && sudo mount -t nfs $(printf '%q' "$SHARE") /mnt/runs"
}

[ "$#" -gt 0 ] || set -- help
action=$1
shift
case "$action" in
  create) create ;;
  state) run gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" ;;
  install) install ;;
  mount) mount_share ;;
  train) train "$@" ;;
  # Every process saves and ends with 143; the loops do not start it again.
  stop) everywhere "kill -TERM \$(cat ~/alignjax.pid)" ;;
  delete) run gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force ;;
  *)
    echo "usage: tpu_vm.sh create | state | install | mount | train ARGUMENT ... | stop | delete" >&2
    exit 2
    ;;
esac
