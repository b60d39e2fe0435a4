#!/usr/bin/env bash
# run-tests.sh [PYTEST ARGUMENTS]: the tests in three runs side by side, because those on Kafka and those in pods mostly wait.
# What a cluster needs is built meanwhile, once and at the lowest priority. The output of the runs beside follows that of the
# first; fails when any does. Arguments that choose tests make it one run.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONHASHSEED=0
if [ $# -gt 0 ]; then exec .venv/bin/pytest "$@"; fi

kafka() { exec .venv/bin/pytest -p no:cacheprovider -m "not pods and not extended" tests/kafka tests/log tests/kubernetes; }
compiled() { # the live path once more, as it is when compiled; the build is small beside the tests
  if ! command -v gcc >/dev/null; then
    printf '\n› skipped: the tests of the compiled live path need a C compiler (gcc)\n'
    return 0
  fi
  printf '\n› the live path, compiled\n'
  (bash deploy/compiled.sh && cd build/compiled && ../../.venv/bin/pytest -p no:cacheprovider -m "not interpreted" \
    tests/unit/gateway tests/unit/policy tests/behaviour/test_gateway_*.py tests/behaviour/test_http_corpus.py)
}
pods() {
  trap 'exit 130' INT
  .venv/bin/python -m loadtests.kubernetes.cluster prepare
  .venv/bin/pytest -p no:cacheprovider -m "pods and not extended" tests/kubernetes tests/backends
}

folder=$(mktemp -d)
# Process groups of their own, which can be interrupted as a whole: tests then end what they started.
set -m
kafka >"$folder/kafka" 2>&1 &
runs=($!)
pods >"$folder/pods" 2>&1 &
runs+=($!)
set +m
trap 'for one in "${runs[@]}"; do kill -INT -- "-$one" 2>/dev/null; done; wait "${runs[@]}"; rm -rf "$folder"' EXIT
interrupted=
trap 'interrupted=1' INT
.venv/bin/pytest -m "not pods" --ignore=tests/kafka --ignore=tests/log --ignore=tests/kubernetes
result=$?
if [ -z "$interrupted" ]; then compiled || result=1; fi
[ -z "$interrupted" ] || exit 130
trap - INT
beside() { # NAME WORDS: what the next run has said, once it has ended
  wait "${runs[0]}"
  local ended=$?
  runs=("${runs[@]:1}")
  printf '\n› %s, meanwhile\n' "$2"
  cat "$folder/$1"
  result=$((ended > result ? ended : result))
}
beside kafka "on Kafka, and what needs Kubernetes' API server alone"
beside pods "on a Kubernetes with pods"
exit "$result"
