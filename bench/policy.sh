#!/usr/bin/env bash
# What policy costs a connection: ip-restriction with 100,000 networks + limit-conn + prometheus + access log, against
# the bare path of the same binary, interleaved in one run. The last column is the ratio; the budget is 1.10.
#
#   bench/policy.sh                       some minutes, with the release build
#   BIN=/path/to/headgate ROUNDS=9 SCALE=1 WORKLOADS=churn,churn256 bench/policy.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -z ${BIN:-} ]]; then
  cargo build --release --manifest-path "$here/../Cargo.toml" --bin headgate
  BIN=$here/../target/release/headgate
fi
cargo build --release --locked --manifest-path "$here/loadgen/Cargo.toml"
rows=$(mktemp --suffix .json)
trap 'rm -f "$rows"' EXIT
row() { # name, options of headgate.py
  printf '{"name":"%s","cmd":"python3 %s/headgate.py %s %s {dir} {tcp_echo}:{b_echo} {tcp_bulk}:{b_bulk}","caps":["tcp"]}' \
    "$1" "$here" "$2" "$(realpath "$BIN")"
}
printf '[%s,%s]\n' "$(row bare '')" "$(row policy --policy)" >"$rows"
python3 "$here/bench.py" -f "$rows" -p bare,policy --ref bare -w "${WORKLOADS:-churn,churn256}" -n "${ROUNDS:-9}" \
  -s "${SCALE:-0.5}" --loadgen "$here/loadgen/target/release/loadgen" "$@"
