#!/usr/bin/env bash
# run-tests.sh [PYTEST ARGUMENTS]: the tests in two runs side by side, because those on Kafka and Kubernetes mostly wait.
# What a cluster needs is built meanwhile, once and at the lowest priority. The output of the run beside follows that of the
# other; fails when either does. Arguments that choose tests make it one run.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONHASHSEED=0
if [ $# -gt 0 ]; then exec .venv/bin/pytest "$@"; fi

beside() {
  trap 'exit 130' INT
  .venv/bin/python -m loadtests.kubernetes.cluster prepare &
  local building=$! kafka kubernetes
  .venv/bin/pytest -p no:cacheprovider tests/kafka tests/log
  kafka=$?
  wait "$building"
  .venv/bin/pytest -p no:cacheprovider -m "not extended" tests/kubernetes
  kubernetes=$?
  return $((kafka > kubernetes ? kafka : kubernetes))
}

output=$(mktemp)
# A process group of its own, which can be interrupted as a whole: tests then end what they started.
set -m
beside >"$output" 2>&1 &
other=$!
set +m
trap '[ -z "$other" ] || { kill -INT -- "-$other" 2>/dev/null; wait "$other"; }; rm -f "$output"' EXIT
interrupted=
trap 'interrupted=1' INT
.venv/bin/pytest --ignore=tests/kafka --ignore=tests/log --ignore=tests/kubernetes
rest=$?
[ -z "$interrupted" ] || exit 130
trap - INT
printf '\n› on Kafka and Kubernetes, meanwhile\n'
wait "$other"
result=$?
other=
cat "$output"
exit $((rest > result ? rest : result))
