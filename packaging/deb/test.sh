#!/usr/bin/env bash
# Installs, starts, upgrades, removes and purges the package on this machine. As root; on a machine
# without systemd it starts the program itself.
#
#   packaging/deb/test.sh BINARY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
binary=${1:?usage: $0 BINARY}
[[ $(id -u) == 0 ]] || { echo "test.sh: needs root" >&2; exit 2; }
! dpkg-query -W headgate >/dev/null 2>&1 || { echo "test.sh: headgate is installed here already" >&2; exit 2; }
work=$(mktemp -d)
gateway="" echo_pid=""
finish() {
  [[ -z $gateway ]] || kill "$gateway" 2>/dev/null || true
  [[ -z $echo_pid ]] || kill "$echo_pid" 2>/dev/null || true
  dpkg --purge headgate >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT
say() { echo "ok: $*"; }
fail() {
  echo "FAILED: $*" >&2
  cat "$work/log" >&2 2>/dev/null || true
  exit 1
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
admin=$(free_port) listen=$(free_port) node=$(free_port)

start() {
  headgate run -c /etc/headgate/config.yaml 2>"$work/log" &
  gateway=$!
  for _ in $(seq 100); do
    curl -fsS -o /dev/null "http://127.0.0.1:$admin/apisix/admin" -I 2>/dev/null && return 0
    kill -0 "$gateway" 2>/dev/null || break
    sleep 0.1
  done
  fail "the gateway does not start"
}
stop() {
  headgate quit -c /etc/headgate/config.yaml
  wait "$gateway" || true
  gateway=""
}
# Nothing may start by itself: the ports are not chosen yet.
[[ -d /run/systemd/system ]] && systemctl mask --runtime headgate.service >/dev/null

packaging/deb/build.sh "$binary" 0.1.0~test1 "$work" >/dev/null
packaging/deb/build.sh "$binary" 0.1.0~test2 "$work" >/dev/null
dpkg -i "$work"/headgate_0.1.0~test1_*.deb >/dev/null
[[ $(stat -c '%a %U %G' /etc/headgate/config.yaml) == '640 root headgate' ]] || fail "rights of config.yaml"
[[ $(stat -c '%a %U' /var/lib/headgate) == '700 headgate' ]] || fail "rights of /var/lib/headgate"
headgate test -c /etc/headgate/config.yaml >/dev/null || fail "the shipped configuration has problems"
man --locale=C -l /usr/share/man/man1/headgate.1.gz >/dev/null 2>&1 || zcat /usr/share/man/man1/headgate.1.gz | grep -q '^\.TH' || fail "no manual page"
bash -n /usr/share/bash-completion/completions/headgate || fail "completions"
if command -v systemd-analyze >/dev/null; then
  systemd-analyze verify /lib/systemd/system/headgate.service || fail "the unit has errors"
fi
dpkg --verify headgate | grep -v ' c ' && fail "files differ from the package"
say "installed"

sed -i "s/port: 9180/port: $admin/; s/  enable_admin: true/  enable_admin: true\n  enable_control: false\n  stream_proxy: {tcp: [\"127.0.0.1:$listen\"]}/" /etc/headgate/config.yaml
echo 'plugin_attr: {prometheus: {enable_export_server: false}}' >>/etc/headgate/config.yaml
python3 - "$node" <<'PYTHON' &
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
PYTHON
echo_pid=$!
through() {
  python3 -c '
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5); s.settimeout(5)
s.sendall(b"hello"); sys.exit(s.recv(5) != b"hello")' "$listen" || fail "no bytes pass"
}

start
[[ $(awk '/^Uid:/ {print $2}' "/proc/$gateway/status") == "$(id -u headgate)" ]] || fail "it runs as another user"
[[ $(awk '/^CapEff:/ {print $2}' "/proc/$gateway/status") == 0000000000000400 ]] || fail "it keeps capabilities"
key=$(cat /var/lib/headgate/admin.key)
curl -fsS -o /dev/null -X PUT -H "X-API-KEY: $key" "http://127.0.0.1:$admin/apisix/admin/stream_routes/1" \
  -d "{\"upstream\": {\"nodes\": {\"127.0.0.1:$node\": 1}}}" || fail "no route can be made"
through
say "started as headgate, and serves"

dpkg --force-confold -i "$work"/headgate_0.1.0~test2_*.deb >/dev/null
grep -q "port: $admin" /etc/headgate/config.yaml || fail "the upgrade replaced the configuration"
through
stop
start
through
say "upgraded; configuration, key and route are there"
stop

dpkg --remove headgate >/dev/null 2>&1
[[ ! -e /usr/bin/headgate && -e /etc/headgate/config.yaml && -e /var/lib/headgate/store.redb ]] || fail "remove"
say "removed; configuration and data stay"
dpkg --purge headgate >/dev/null 2>&1
for path in /etc/headgate /etc/logrotate.d/headgate /var/lib/headgate /var/log/headgate /run/headgate /lib/systemd/system/headgate.service; do
  [[ ! -e $path ]] || fail "$path is left"
done
say "purged; nothing is left but the user headgate"
