#!/usr/bin/env bash
# Compares headgate with nginx and HAProxy on loopback, all in one interleaved run, and prints Markdown
# tables. Installs the peers when root, builds headgate and the load generator.
#
#   bench/run.sh                        everything: 20 minutes or so
#   WORKLOADS=quick bench/run.sh        a few minutes
#   WORKLOADS=churn,udp100 ROUNDS=9 SCALE=0.3 PEERS=nginx bench/run.sh
#   BIN=/path/to/headgate bench/run.sh  another binary
#   HEADGATE_ARGS='--routes 10000' or '--plugins'   what bench/headgate.py offers
#   JSON=samples.json                   keeps the samples
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if ! command -v nginx >/dev/null || ! command -v haproxy >/dev/null; then
  policy=/usr/sbin/policy-rc.d own_policy=0
  if [[ ! -e $policy ]]; then # nothing may start by being installed
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && own_policy=1
  fi
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qqy install --no-install-recommends \
    nginx-light libnginx-mod-stream haproxy openssl iproute2 strace >/dev/null
  ((own_policy)) && rm -f "$policy"
fi
if [[ -z ${BIN:-} ]]; then
  cargo build --release --manifest-path "$here/../Cargo.toml" --bin headgate
  BIN=$here/../target/release/headgate
fi
cargo build --release --locked --manifest-path "$here/loadgen/Cargo.toml"
product="python3 $here/headgate.py ${HEADGATE_ARGS:-} $(realpath "$BIN") {dir}"
product+=" {tcp_echo}:{b_echo} {tcp_bulk}:{b_bulk} udp/{udp_echo}:{b_udp_echo} udp/{udp_sink}:{b_udp_sink}"
# Both TLS names are `*`: the workloads with an RSA certificate have a run of their own.
case ${WORKLOADS:-all} in
  *rsa*) product+=" tls/{tls_rsa}:{b_echo}:{rsa_crt}:{rsa_key}" ;;
  *) product+=" tls/{tls_ec}:{b_echo}:{ec_crt}:{ec_key} tls/{tls_bulk}:{b_bulk}:{ec_crt}:{ec_key}" ;;
esac
args=(-w "${WORKLOADS:-all}" -n "${ROUNDS:-5}" -s "${SCALE:-0.5}" -p "${PEERS:-nginx,haproxy}")
args+=(--loadgen "$here/loadgen/target/release/loadgen" --product "$product" --product-caps tcp,udp,tls)
[[ -n ${JSON:-} ]] && args+=(--json "$JSON")
exec python3 "$here/bench.py" "${args[@]}" "$@"
