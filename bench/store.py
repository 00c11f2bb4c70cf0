#!/usr/bin/env python3
"""Start-up time and memory with many routes and certificates, from each store.

    cargo build --release -p headgate
    bench/store.py --headgate target/release/headgate
    bench/store.py --headgate target/release/headgate --routes 10000 --certificates 1000 --runs 5

It needs openssl, and etcd for the etcd rows (etcd-server of Debian, or --etcd PATH). Everything is on
loopback and in a temporary folder. Started means: the listener accepts and the last route answers.
Memory is what /proc says three seconds later: RSS, and of that what is private to the process.
"Above base" compares with the same start without resources.
"""

import argparse
import base64
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PREFIX = "/apisix"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Node:
    """Answers every connection with one byte."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            client, _ = self.socket.accept()
            try:
                client.sendall(b"x")
            except OSError:
                pass
            client.close()


def certificates(folder, count):
    """`count` ssl objects: a key and certificate of its own for each."""
    made = folder / "certificates.json"
    objects = []
    for n in range(count):
        key, cert = folder / "k.pem", folder / "c.pem"
        run = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
               "-keyout", key, "-out", cert, "-days", "30", "-subj", f"/CN=h{n}.bench.test"]
        subprocess.run(run, check=True, capture_output=True)
        objects.append({"id": f"c{n}", "sni": f"h{n}.bench.test", "cert": cert.read_text(), "key": key.read_text()})
    made.write_text(json.dumps(objects))
    return objects


def routes(count, port, node):
    """All of one port, each for another client address; the last one is for 127.0.0.1."""
    for n in range(count):
        address = "127.0.0.1" if n == count - 1 else f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
        yield {"id": f"r{n}", "desc": f"route number {n} of the start-up bench", "remote_addr": address,
               "server_port": port, "upstream": {"type": "roundrobin", "nodes": {f"127.0.0.1:{node}": 1}}}


class Etcd:
    def __init__(self, program, folder):
        self.client, peer = free_port(), free_port()
        url = f"http://127.0.0.1:{self.client}"
        self.command = [program, "--data-dir", str(folder / "etcd"), "--listen-client-urls", url,
                        "--advertise-client-urls", url, "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                        "--log-level", "error"]
        self.log = open(folder / "etcd.log", "a")
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        for _ in range(200):
            try:
                if self.call("/v3/kv/range", {"key": base64.b64encode(b"x").decode()}):
                    return
            except OSError:
                time.sleep(0.05)
        sys.exit("etcd does not answer; see its log")

    def call(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.client, timeout=30)
        connection.request("POST", path, json.dumps(body))
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def fill(self, document):
        encode = lambda text: base64.b64encode(text.encode()).decode()
        puts = [{"requestPut": {"key": encode(f"{PREFIX}/{kind}/{it['id']}"), "value": encode(json.dumps(it))}}
                for kind, items in document.items() for it in items]
        for at in range(0, len(puts), 100):
            answer = self.call("/v3/kv/txn", {"success": puts[at:at + 100]})
            if not answer.get("succeeded"):
                sys.exit(f"etcd refused: {answer}")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def memory(pid):
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split(":")
        values[name] = int(amount.split()[0]) / 1024
    return values["Rss"], values["Private_Dirty"] + values["Private_Clean"]


def start(program, home, port, wants_answer):
    """Starts a gateway; seconds until it serves, RSS and private MiB afterwards."""
    log = open(home / "log", "w")
    began = time.perf_counter()
    process = subprocess.Popen([program, "run", "-c", home / "conf/config.yaml"], stdout=log, stderr=log)
    try:
        while True:
            if process.poll() is not None or time.perf_counter() - began > 120:
                sys.exit(f"headgate does not serve:\n{(home / 'log').read_text()[-2000:]}")
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as client:
                    client.settimeout(5)
                    if not wants_answer or client.recv(1) == b"x":
                        break
            except OSError:
                pass
            time.sleep(0.002)
        took = time.perf_counter() - began
        time.sleep(3)
        return took, *memory(process.pid)
    finally:
        process.terminate()
        process.wait()


def configuration(home, port, rest):
    (home / "conf").mkdir(parents=True, exist_ok=True)
    text = f"""apisix:
  proxy_mode: stream
  enable_control: false
  stream_proxy:
    tcp:
      - 127.0.0.1:{port}
nginx_config:
  error_log_level: warn
plugin_attr:
  prometheus:
    enable_export_server: false
"""
    (home / "conf/config.yaml").write_text(text + rest)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--headgate", default="target/release/headgate")
    arguments.add_argument("--etcd", default="etcd")
    arguments.add_argument("--routes", type=int, default=10_000)
    arguments.add_argument("--certificates", type=int, default=1_000)
    arguments.add_argument("--runs", type=int, default=5)
    given = arguments.parse_args()
    program = str(Path(given.headgate).resolve())
    folder = Path(tempfile.mkdtemp(prefix="headgate-store-bench-"))
    node = Node()
    port = free_port()
    only_routes = {"stream_routes": list(routes(given.routes, port, node.port))}
    both = {**only_routes, "ssls": certificates(folder, given.certificates)}
    rows = []

    def measure(name, home, wants_answer=True, before=lambda: None):
        results = []
        for _ in range(given.runs):
            before()
            results.append(start(program, home, port, wants_answer))
        rows.append((name, *(statistics.median(column) for column in zip(*results))))
        print(f"  {name}: {rows[-1][1] * 1000:.0f} ms, {rows[-1][2]:.1f} MiB", file=sys.stderr)

    def from_file(name, document):
        home = folder / name.replace(" ", "-")
        configuration(home, port, "deployment:\n  role: data_plane\n  role_data_plane:\n    config_provider: json\n")
        (home / "conf/apisix.json").write_text(json.dumps(document))
        measure(name, home, wants_answer=bool(document))

    def embedded(name, document):
        home = folder / name.replace(" ", "-")
        configuration(home, port, f"deployment:\n  admin:\n    admin_listen:\n      port: {free_port()}\n")
        source = home / "all.json"
        source.write_text(json.dumps(document))
        subprocess.run([program, "config", "import", "-c", home / "conf/config.yaml", source], check=True,
                       capture_output=True)
        measure(name, home, wants_answer=bool(document))

    try:
        from_file("file, nothing", {})
        from_file("file, routes", only_routes)
        from_file("file, routes and certificates", both)
        embedded("embedded, nothing", {})
        embedded("embedded, routes", only_routes)
        embedded("embedded, routes and certificates", both)
        if shutil.which(given.etcd):
            etcd = Etcd(given.etcd, folder)
            home = folder / "etcd-home"
            configuration(home, port, f"""deployment:
  role: data_plane
  role_data_plane:
    config_provider: etcd
  etcd:
    host:
      - "http://127.0.0.1:{etcd.client}"
""")
            copy = home / "data"
            measure("etcd, nothing", home, False, lambda: shutil.rmtree(copy, ignore_errors=True))
            etcd.fill(only_routes)
            measure("etcd, routes", home, True, lambda: shutil.rmtree(copy, ignore_errors=True))
            etcd.fill({"ssls": both["ssls"]})
            measure("etcd, routes and certificates", home, True, lambda: shutil.rmtree(copy, ignore_errors=True))
            etcd.stop()
            measure("local copy, etcd away", home)
        else:
            print(f"no {given.etcd} here: rows with etcd are left out", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    base = {row[0].split(",")[0]: row for row in rows if row[0].endswith("nothing")}
    print(f"{given.routes} routes, {given.certificates} certificates, median of {given.runs}")
    print("| resources from | start, ms | RSS, MiB | private, MiB | RSS above base, MiB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, took, rss, private in rows:
        above = rss - base.get(name.split(",")[0], base.get("etcd", rows[0]))[2]
        print(f"| {name} | {took * 1000:.0f} | {rss:.1f} | {private:.1f} | {above:.1f} |")


if __name__ == "__main__":
    os.umask(0o077)
    main()
