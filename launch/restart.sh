#!/usr/bin/env bash
# Runs a command again for as long as it ends with 143: stopped by a signal, with its state saved.
#
#   launch/restart.sh [--failures N] [--pause SECONDS] -- alignjax train --workdir=RUN ...
#
# 0 is the end; 1 (failure), 2 (usage, data, configuration) and 3 (non-finite losses) stop the loop
# with that code, for the same command would fail again. --failures N forgives codes 1 and 134 N
# times: where a machine vanishes without a signal the processes on the others end with 1, or JAX
# aborts them, which is 134. A signal to this script goes to the command, and nothing is started
# again: the machine is being taken away.
set -u

usage() {
  echo "usage: restart.sh [--failures N] [--pause SECONDS] -- COMMAND [ARGUMENT ...]" >&2
  exit 2
}

is_count() {
  case "$1" in "" | *[!0-9]*) return 1 ;; esac
}

failures=0 pause=10
while [ "$#" -gt 0 ]; do
  case "$1" in
    --failures | --pause)
      is_count "${2:-}" || usage
      if [ "$1" = --failures ]; then failures=$2; else pause=$2; fi
      shift 2
      ;;
    --)
      shift
      break
      ;;
    *) usage ;;
  esac
done
[ "$#" -gt 0 ] || usage

child=0 stopped=0
forward() {
  stopped=1
  if [ "$child" -gt 0 ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap forward TERM INT

# Runs a command to its end and keeps its exit code. A signal to this script interrupts `wait`, not
# the child; one that came before the child had a number is passed on now.
settle() {
  "$@" &
  child=$!
  if [ "$stopped" -eq 1 ]; then kill -TERM "$child" 2>/dev/null; fi
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
  done
  child=0
}

while :; do
  settle "$@"
  if [ "$code" -eq 0 ] || [ "$stopped" -eq 1 ]; then exit "$code"; fi
  if { [ "$code" -eq 1 ] || [ "$code" -eq 134 ]; } && [ "$failures" -gt 0 ]; then
    failures=$((failures - 1))
  elif [ "$code" -ne 143 ]; then
    echo "restart.sh: exit code $code; not started again" >&2
    exit "$code"
  fi
  echo "restart.sh: exit code $code; again in $pause s" >&2
  settle sleep "$pause"
  if [ "$stopped" -eq 1 ]; then exit 143; fi
done
