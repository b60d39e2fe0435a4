#!/usr/bin/env bash
# run-tests.sh [PYTEST ARGUMENTS]: the tests in two runs side by side, because those on Kafka mostly wait for brokers.
# The output of the shorter run follows that of the other; fails when either does. Arguments that choose tests make it one run.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONHASHSEED=0
if [ $# -gt 0 ]; then exec .venv/bin/pytest "$@"; fi
beside=$(mktemp)
trap 'kill "$kafka" 2>/dev/null; rm -f "$beside"' EXIT
.venv/bin/pytest -p no:cacheprovider tests/kafka tests/log >"$beside" 2>&1 &
kafka=$!
.venv/bin/pytest --ignore=tests/kafka --ignore=tests/log
rest=$?
printf '\n› on Kafka, meanwhile\n'
wait "$kafka"
kafka_result=$?
kafka=
cat "$beside"
exit $((rest > kafka_result ? rest : kafka_result))
