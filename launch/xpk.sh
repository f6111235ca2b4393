#!/usr/bin/env bash
# The run of jobset.yaml by XPK, which writes the JobSet itself.
#
#   launch/xpk.sh ARGUMENT ...        the arguments of alignjax train
#
# Read from the environment: CLUSTER, ZONE, PROJECT, NAME, IMAGE, TPU_TYPE, SLICES, RESTARTS, and
# COMMAND, which is train where it is not set.
# DRY_RUN=1 prints the command. XPK restarts a workload whatever its exit code, so the loop inside
# stops what must not be tried again: the workload then ends with 0 and its log tells the code.
set -eu

: "${CLUSTER:?CLUSTER must name a cluster that xpk made}"
: "${PROJECT:?PROJECT must name the project}"
: "${IMAGE:?IMAGE must name the image of launch/Dockerfile}"

words=$(printf '%q ' alignjax "${COMMAND:-train}" --coordinator=auto "$@")
line="launch/restart.sh -- $words; code=\$?; case \$code in 2|3) echo ended with \$code; exit 0;; esac; exit \$code"
command=(xpk workload create
  --cluster="$CLUSTER" --project="$PROJECT" --zone="${ZONE:-us-west4-a}"
  --workload="${NAME:-alignjax}" --docker-image="$IMAGE"
  --tpu-type="${TPU_TYPE:-v5litepod-16}" --num-slices="${SLICES:-1}"
  --max-restarts="${RESTARTS:-50}" --command="$line")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}"
  echo
else
  "${command[@]}"
fi
