#!/usr/bin/env bash
# run-tests.sh [PYTEST ARGUMENTS]: the tests in five runs side by side, because most of them mostly wait.
# What a cluster needs is built meanwhile, once and at the lowest priority. The output of the runs beside follows that of the
# first; fails when any does. Arguments that choose tests make it one run.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONHASHSEED=0
if [ $# -gt 0 ]; then exec .venv/bin/pytest "$@"; fi

beside() { .venv/bin/pytest -p no:cacheprovider "$@"; }
whole() { nice -n 5 .venv/bin/pytest -p no:cacheprovider -m "not pods and not extended" tests/behaviour; }
kafka() { beside -m "not extended" tests/kafka tests/log; }
pods() {
  .venv/bin/python -m loadtests.kubernetes.cluster prepare
  beside -m "pods and not extended" tests/kubernetes tests/backends
}
compiled() { # the live path once more, as it is when compiled; the build is small beside the tests
  if ! command -v gcc >/dev/null; then
    printf '\n› skipped: the tests of the compiled live path need a C compiler (gcc)\n'
    return 0
  fi
  printf "\n› the live path, compiled\n"
  (nice -n 10 bash deploy/compiled.sh quickly && cd build/compiled && ../../.venv/bin/pytest -p no:cacheprovider -m "not interpreted" \
    tests/unit/gateway tests/unit/policy tests/unit/mirror tests/behaviour/test_gateway_*.py tests/behaviour/test_http_corpus.py tests/behaviour/test_mirror_*.py)
}
api_server() {
  beside -m "not pods and not extended" tests/kubernetes
  local result=$?
  compiled && return "$result"
}

names=(whole kafka api_server pods)
declare -A about=([whole]="whole roles and processes" [kafka]="on Kafka" [api_server]="what needs Kubernetes' API server alone, then the live path compiled"
  [pods]="on a Kubernetes with pods")
folder=$(mktemp -d)
TIMEFORMAT='took %0R s, and %0U + %0S s of CPU'
runs=()
# Process groups of their own, which can be interrupted as a whole: tests then end what they started.
set -m
for name in "${names[@]}"; do
  (trap 'exit 130' INT; time "$name") >"$folder/$name" 2>&1 &
  runs+=($!)
done
set +m
trap 'for one in "${runs[@]}"; do kill -INT -- "-$one" 2>/dev/null; done; wait "${runs[@]}"; rm -rf "$folder"' EXIT
interrupted=
trap 'interrupted=1' INT
# What computes and waits for nobody gives way to what waits and is the longest.
time nice -n 10 .venv/bin/pytest -m "not pods" --ignore=tests/behaviour --ignore=tests/kafka --ignore=tests/log --ignore=tests/kubernetes
result=$?
[ -z "$interrupted" ] || exit 130
trap - INT
for name in "${names[@]}"; do
  wait "${runs[0]}"
  ended=$?
  runs=("${runs[@]:1}")
  printf '\n› %s, meanwhile\n' "${about[$name]}"
  cat "$folder/$name"
  result=$((ended > result ? ended : result))
done
exit "$result"
