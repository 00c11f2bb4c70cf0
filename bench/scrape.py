#!/usr/bin/env python3
"""What a scrape of 10,000 routes costs, and whether it holds up a data core.

    cargo build --release -p headgate
    bench/scrape.py --headgate target/release/headgate
    bench/scrape.py --placement shared --nice 5

Every route has the plugin prometheus and has served a session, so that all series exist. One client plays
ping-pong through the gateway some hundred times a second; another brings the first session of one more route every 10 ms, because
that is when a core and a scrape touch the same table. Then as many windows without a scrape as with one are watched
from outside of the client:

- wait: run delay of the core (second field of /proc/PID/task/TID/schedstat), that is time in which it had work and no
  CPU. Its growth within one window is an upper bound of the longest single delay there.
- turns: headgate_core_turn_seconds, the time from events being ready to the loop being done with them. Waiting for
  a lock, or for memory, would be in there. The longest one is that of the last minute, so a phase lasts longer.

- calls: with strace, what the cores ask of the kernel while as many scrapes run once more, and in as many windows
  without: futex(2), which a core calls when it waits for a lock (not when it waits for events, and not for a lock that
  is free), and madvise, mmap, munmap, mremap, mprotect, by which one thread may clean up after another. These numbers
  have no noise.

--placement apart (the default) gives CPU 0 to the only core and CPU 1 to everything else: control threads, clients,
node, this script. What is left then is what the scrape does to the core inside the process. On a machine that
others use as well, --fifo lets the cores run before everything else on their CPUs (SCHED_FIFO, as root), so that
nobody else's work is taken for the scrape's; inside the process nothing gets faster by that. --placement shared has
one core for each CPU and lets the scheduler place everything: what a full machine does. --nice N gives the threads
that are no cores that niceness.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPARE = 4_000  # routes whose first session comes while it is measured


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def address(n):
    n += 256
    return f"127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}"


def node(listener):
    """Answers every byte with itself."""
    import selectors
    known = selectors.DefaultSelector()
    listener.setblocking(False)
    known.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in known.select():
            if key.fileobj is listener:
                try:
                    client, _ = listener.accept()
                except BlockingIOError:
                    continue
                known.register(client, selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(4096)
                if data:
                    key.fileobj.send(data)
            except OSError:
                data = b""
            if not data:
                known.unregister(key.fileobj)
                key.fileobj.close()


def visit(port, n):
    """One session from the address of route n."""
    with socket.socket() as client:
        client.settimeout(10)
        client.bind((address(n), 0))
        client.connect(("127.0.0.1", port))
        client.send(b"x")
        if client.recv(1) != b"x":
            sys.exit(f"route {n} does not serve")


def ping_pong(port):
    client = socket.socket()
    client.bind((address(0), 0))
    client.connect(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        client.send(b"x")
        client.recv(1)
        time.sleep(0.001)  # every time that the core is woken costs it some microseconds of waiting


def newcomers(port, first, count):
    for n in range(first, first + count):
        visit(port, n)
        time.sleep(0.01)


class Gateway:
    def __init__(self, program, home, routes, target, workers):
        self.port, self.metrics = free_port(), free_port()
        (home / "conf").mkdir(parents=True)
        config = {"apisix": {"proxy_mode": "stream", "enable_control": False,
                             "stream_proxy": {"tcp": [f"127.0.0.1:{self.port}"]}},
                  "stream_plugins": ["prometheus"],
                  "nginx_config": {"worker_processes": workers, "enable_cpu_affinity": True,
                                   "error_log_level": "warn"},
                  "plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": self.metrics}}},
                  "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "json"}}}
        (home / "conf/config.yaml").write_text(json.dumps(config))  # JSON is YAML
        all_routes = [{"id": f"route-{n}", "remote_addr": address(n), "server_port": self.port,
                       "plugins": {"prometheus": {}},
                       "upstream": {"type": "roundrobin", "nodes": {f"127.0.0.1:{target}": 1}}}
                      for n in range(routes)]
        (home / "conf/apisix.json").write_text(json.dumps({"stream_routes": all_routes}))
        self.process = subprocess.Popen([program, "run", "-c", home / "conf/config.yaml"])
        for _ in range(400):
            try:
                visit(self.port, 0)
                break
            except OSError:
                if self.process.poll() is not None:
                    sys.exit("the gateway ended")
                time.sleep(0.05)
        else:
            sys.exit("the gateway does not serve")

    def threads(self):
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            yield int(task.name), (task / "comm").read_text().strip()

    def cores(self):
        return [tid for tid, name in self.threads() if name.startswith("core-")]

    def scrape(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=30)
        connection.request("GET", "/apisix/prometheus/metrics")
        text = connection.getresponse().read()
        connection.close()
        return text

    def longest_turn(self):
        """Longest turn of a core within a minute, milliseconds."""
        lines = self.scrape().decode().splitlines()
        named = [line for line in lines if line.startswith("headgate_core_longest_turn_seconds{")]
        return max(float(line.rsplit(" ", 1)[1]) for line in named) * 1000

    def turns(self):
        """Turns so far, by upper bound in seconds."""
        bounds = {0.000512: 0, 0.001024: 0, float("inf"): 0}
        for line in self.scrape().decode().splitlines():
            if line.startswith("headgate_core_turn_seconds_bucket"):
                name, value = line.rsplit(" ", 1)
                bound = float(name.split('le="')[1].split('"')[0].replace("+Inf", "inf"))
                bounds[bound] = bounds.get(bound, 0) + int(value)
        return bounds


def waited(pid, cores):
    """Run delay of each core, milliseconds."""
    return [int(Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[1]) / 1e6 for tid in cores]


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))]


def windows(gateway, cores, count, work, pause):
    """Durations, and the largest wait of a core in each window, milliseconds."""
    times, waits = [], []
    for _ in range(count):
        before = waited(gateway.process.pid, cores)
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
        after = waited(gateway.process.pid, cores)
        waits.append(max(a - b for a, b in zip(after, before)))
        time.sleep(pause)
    return times, waits


def lock_waits(gateway, cores, count, newcomer, work):
    """Times that the cores waited for a lock, and calls about memory, while `work` was done `count` times."""
    with tempfile.TemporaryDirectory() as folder:
        traces = []
        for tid in cores:
            out = Path(folder) / str(tid)
            command = ["strace", "-qq", "-e", "trace=futex,madvise,mmap,munmap,mremap,mprotect", "-o", out, "-p", str(tid)]
            traces.append((out, subprocess.Popen(command)))
        time.sleep(1)
        newcomer.start()
        for _ in range(count):
            work()
        newcomer.terminate()
        for _, trace in traces:
            trace.send_signal(signal.SIGINT)
            trace.wait()
        text = "".join(out.read_text() for out, _ in traces)
        about_memory = ("madvise(", "mmap(", "munmap(", "mremap(", "mprotect(")
        return text.count("FUTEX_WAIT"), sum(text.count(name) for name in about_memory)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--headgate", default="target/release/headgate")
    arguments.add_argument("--routes", type=int, default=10_000)
    arguments.add_argument("--scrapes", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--pause", type=float, default=0.3, help="seconds between windows")
    arguments.add_argument("--placement", choices=["apart", "shared"], default="apart")
    arguments.add_argument("--nice", type=int, default=0)
    arguments.add_argument("--fifo", action="store_true")
    given = arguments.parse_args()
    if os.cpu_count() < 2:
        sys.exit("this needs two CPUs")
    apart = given.placement == "apart"
    if apart:
        os.sched_setaffinity(0, {1})
    home = Path(tempfile.mkdtemp(prefix="headgate-scrape-bench-"))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    helpers = [multiprocessing.Process(target=node, args=(listener,), daemon=True)]
    helpers[0].start()
    gateway = Gateway(str(Path(given.headgate).resolve()), home, given.routes + SPARE, listener.getsockname()[1],
                      1 if apart else 2)
    try:
        cores = gateway.cores()
        for tid, name in gateway.threads():
            if tid in cores:
                continue
            os.setpriority(os.PRIO_PROCESS, tid, given.nice)
            if apart:
                os.sched_setaffinity(tid, {1})
        for tid in cores:
            if apart:
                os.sched_setaffinity(tid, {0})
            if given.fifo:
                os.sched_setscheduler(tid, os.SCHED_FIFO, os.sched_param(10))
        for n in range(given.routes):
            visit(gateway.port, n)
        size = gateway.scrape()
        lines = size.splitlines()
        series = sum(line.startswith(b"apisix_stream_connection_total{") for line in lines)
        print(f"{given.routes} routes, {series} of them with series; {len(lines)} lines, {len(size) / 1e6:.1f} MB; "
              f"placement {given.placement}, nice {given.nice}")
        helpers.append(multiprocessing.Process(target=ping_pong, args=(gateway.port,), daemon=True))
        helpers[1].start()
        print("| round | windows | scrape ms: median, p99, longest | wait of a core in one window, ms: median, p90, "
              "p99, longest | longest turn, ms | turns | longer than 0.512 ms | longer than 1.024 ms |")
        print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
        spare, lasting = given.routes, None
        share = SPARE // (2 * given.rounds + 2)
        newcomer = lambda: multiprocessing.Process(target=newcomers, args=(gateway.port, spare, share), daemon=True)
        for turn in range(given.rounds):
            for kind in ("scrape", "none"):
                new = newcomer()
                spare += share
                before = gateway.turns()
                new.start()
                helpers.append(new)
                # A window without a scrape lasts as long as one with it.
                work = gateway.scrape if kind == "scrape" else lambda: time.sleep(lasting / 1000)
                times, waits = windows(gateway, cores, given.scrapes, work, given.pause)
                lasting = lasting or percentile(times, 0.5)
                longest = gateway.longest_turn()
                after = gateway.turns()
                new.terminate()
                ended = {bound: after[bound] - before[bound] for bound in after}
                above = lambda bound: ended[float("inf")] - ended[bound]
                shown = ", ".join(f"{percentile(times, part):.1f}" for part in (0.5, 0.99, 1)) if kind == "scrape" else "-"
                delays = ", ".join(f"{percentile(waits, part):.3f}" for part in (0.5, 0.9, 0.99, 1))
                print(f"| {turn + 1} | {given.scrapes}, {kind} | {shown} | {delays} | {longest:.3f} | {ended[float('inf')]} "
                      f"| {above(0.000512)} | {above(0.001024)} |", flush=True)
        if shutil.which("strace"):
            for scrapes in (True, False):
                # The same number of sessions with a new series begin in both.
                work = gateway.scrape if scrapes else lambda: time.sleep(0.1)
                waits, calls = lock_waits(gateway, cores, given.scrapes, newcomer(), work)
                spare += share
                what = "more scrapes" if scrapes else "windows without"
                print(f"{given.scrapes} {what}: cores waited for a lock {waits} times, and made {calls} memory calls")
    finally:
        for helper in helpers:
            helper.terminate()
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
