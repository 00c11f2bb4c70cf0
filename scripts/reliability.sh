#!/usr/bin/env bash
# Runs the proof kit and writes docs/internals/reliability.md from its result lines.
#
#   scripts/reliability.sh           the short forms, as CI runs them
#   scripts/reliability.sh long      the long forms: some 90 minutes, best with nothing else running
#   scripts/reliability.sh table     only the table, from the lines of the last run
#
# HEADGATE_BIN=PATH              the program to test, such as target/release/headgate
# HEADGATE_PROOFS=FILE           where the lines go (docs/internals/reliability.jsonl)
# HEADGATE_SOAK_SECONDS, HEADGATE_IDLE_SECONDS, HEADGATE_BULK_MIB, HEADGATE_UDP_RATE,
# HEADGATE_MUTATIONS, HEADGATE_KILL_ROUNDS, HEADGATE_RELAY_SCRIPTS, HEADGATE_UPGRADES, HEADGATE_SEED
#                                size of single scenarios, in either form
# ONLY=NAME                      one scenario (a nextest filter on the test's name)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
form=${1:-short}
lines=${HEADGATE_PROOFS:-$PWD/docs/internals/reliability.jsonl}
export HEADGATE_PROOFS=$lines
tests=(--test reliability --test durability --test exhaustion --test tls_hostile --test relay_scripts)

case $form in
  short) ;;
  long)
    export HEADGATE_LONG=1
    export HEADGATE_KILL_ROUNDS=${HEADGATE_KILL_ROUNDS:-500}
    ;;
  table)
    exec python3 scripts/reliability.py "$lines"
    ;;
  *)
    echo "usage: $0 [short | long | table]" >&2
    exit 2
    ;;
esac

: >"$lines.new"
export HEADGATE_PROOFS=$lines.new
filter='binary(reliability) or test(/^(kill_9_|a_limit_that_is_known|two_thousand_slow|random_scripts)/)'
[[ -z ${ONLY:-} ]] || filter="test(/$ONLY/)"
status=0
# One at a time: the figures are those of one scenario, not of a crowd of them.
cargo nextest run --workspace "${tests[@]}" --profile "$([[ $form == long ]] && echo long || echo default)" \
  --test-threads 1 --no-fail-fast -E "$filter" || status=$?
python3 scripts/reliability.py "$lines" "$lines.new"
rm -f "$lines.new"
exit "$status"
