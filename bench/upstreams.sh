#!/usr/bin/env bash
# What upstreams cost, in three parts: the pick of every balancer among 1,000 nodes (budget 200 ns), 1,000 active
# checks at 1 s (budget 5 % of a core), and connections through every balancer against roundrobin (budget 5 %).
#
#   bench/upstreams.sh                        everything, ten minutes or so
#   PARTS=checks bench/upstreams.sh           one of: pick checks churn
#   BIN=... LOADGEN=... bench/upstreams.sh    other binaries; ROUNDS and SCALE as in run.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=${PARTS:-pick checks churn}
manifest=$here/../Cargo.toml
if [[ $parts == *pick* ]]; then
  cargo bench --manifest-path "$manifest" -p headgate-upstream
fi
if [[ $parts == *checks* || $parts == *churn* ]] && [[ -z ${BIN:-} ]]; then
  cargo build --release --manifest-path "$manifest" --bin headgate
  BIN=$here/../target/release/headgate
fi
if [[ $parts == *checks* ]]; then
  python3 "$here/upstreams.py" checks "$BIN"
fi
if [[ $parts == *churn* ]]; then
  if [[ -z ${LOADGEN:-} ]]; then
    cargo build --release --locked --manifest-path "$here/loadgen/Cargo.toml"
    LOADGEN=$here/loadgen/target/release/loadgen
  fi
  python3 "$here/upstreams.py" churn "$BIN" "$LOADGEN" -n "${ROUNDS:-5}" -s "${SCALE:-0.5}" "$@"
fi
