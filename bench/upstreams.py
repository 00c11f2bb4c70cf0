#!/usr/bin/env python3
"""What upstreams cost: active checks, and choosing a node. See upstreams.sh, which builds what this needs.

    upstreams.py checks BIN [--nodes 1000] [--seconds 20]   CPU of health checks, in percent of one core
    upstreams.py churn BIN LOADGEN [--nodes 1000] [bench.py options]   connections per balancer, against roundrobin

`checks` starts headgate twice, with and without `checks` on an upstream of N nodes with an interval of 1 s, and counts
the run time of all its threads. The budget is 5 % of one core for 1,000 nodes. `churn` hands bench.py a row for each
balancer; the column "x roundrobin" should be within 0.95 and 1.05 for least_conn and chash.
"""
import argparse, json, os, shutil, socket, subprocess, sys, tempfile, threading, time, urllib.request

import bench
import headgate

HERE = os.path.dirname(os.path.abspath(__file__))


def in_namespace():
    """Own ports, and nothing leaves loopback."""
    if os.environ.get("BENCH_NETNS") != "1":
        os.environ["BENCH_NETNS"] = "1"
        os.execvp("unshare", ["unshare", "-n", sys.executable] + sys.argv)
    subprocess.run("ip link set lo up", shell=True, check=True)


def node():
    """Takes every connection on every address and closes it, as cheaply as can be; counts them."""
    listener = socket.create_server(("0.0.0.0", 0), backlog=4096)
    seen = [0]

    def serve():
        while True:
            connection, _ = listener.accept()
            seen[0] += 1
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], seen


def checks(args):
    in_namespace()
    bench.nofile()
    port, seen = node()
    result = {}
    for name in ("without checks", "with checks"):
        work = tempfile.mkdtemp(prefix="bench.")
        admin, control = headgate.free_port(), headgate.free_port()
        config = {"apisix": {"proxy_mode": "http&stream", "node_listen": [], "stream_proxy": {"tcp": ["127.0.0.1:7000"]},
                             "control": {"ip": "127.0.0.1", "port": control}},
                  "nginx_config": {"worker_processes": 2, "error_log_level": "warn"},
                  "deployment": {"role": "traditional", "role_traditional": {"config_provider": "embedded"},
                                 "embedded": {"path": os.path.join(work, "data")},
                                 "admin": {"admin_key": [{"name": "admin", "key": headgate.KEY, "role": "admin"}],
                                           "admin_listen": {"ip": "127.0.0.1", "port": admin}}}}
        path = os.path.join(work, "config.yaml")
        with open(path, "w") as f:
            json.dump(config, f)
        upstream = {"nodes": {f"{headgate.address(n)}:{port}": 1 for n in range(args.nodes)}}
        if name == "with checks":
            upstream["checks"] = {"active": {"type": "tcp", "concurrency": 100, "healthy": {"interval": 1},
                                             "unhealthy": {"interval": 1}}}
        log = open(os.path.join(work, "log"), "w")
        child = subprocess.Popen([args.bin, "run", "-c", path], stdout=log, stderr=log)
        try:
            request = urllib.request.Request(
                f"http://127.0.0.1:{admin}/apisix/admin/stream_routes/1", json.dumps({"upstream": upstream}).encode(),
                {"X-API-KEY": headgate.KEY, "Content-Type": "application/json"}, method="PUT")
            for attempt in range(100):
                try:
                    urllib.request.urlopen(request, timeout=10).read()
                    break
                except OSError:
                    if child.poll() is not None or attempt == 99:
                        sys.exit(f"headgate did not start: see {work}/log")
                    time.sleep(0.1)
            time.sleep(3)  # the first round is spread over an interval
            before, count, began = bench.cpu(child.pid), seen[0], time.monotonic()
            time.sleep(args.seconds)
            spent, took = bench.cpu(child.pid) - before, time.monotonic() - began
            result[name] = 100 * spent / took
            probes = seen[0] - count
            each = f", {1e6 * spent / probes:.0f} µs each" if probes else ""
            print(f"{name}: {result[name]:.2f} % of one core, {probes / took:.0f} probes/s{each}", flush=True)
        finally:
            child.terminate()
            child.wait()
        shutil.rmtree(work, ignore_errors=True)
    print(f"{args.nodes} active checks at 1 s: {result['with checks'] - result['without checks']:.2f} % of one core (budget: 5 for 1,000)")


def churn(args, rest):
    rows = []
    for name in args.balancers.split(","):
        command = f"python3 {HERE}/headgate.py --balancer {name} --nodes {args.nodes} {os.path.realpath(args.bin)} {{dir}} {{tcp_echo}}:{{b_echo}}"
        rows.append({"name": name, "cmd": command, "caps": ["tcp"]})
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as f:
        json.dump(rows, f)
    peers = ",".join(row["name"] for row in rows)
    os.execv(sys.executable, [sys.executable, os.path.join(HERE, "bench.py"), "-w", "churn", "-f", f.name, "-p", peers,
                              "--ref", "roundrobin", "--loadgen", args.loadgen, *rest])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["checks", "churn"])
    ap.add_argument("bin")
    ap.add_argument("loadgen", nargs="?")
    ap.add_argument("--nodes", type=int, default=1000)
    ap.add_argument("--seconds", type=float, default=20)
    ap.add_argument("--balancers", default="roundrobin,least_conn,chash,ewma,random,maglev")
    args, rest = ap.parse_known_args()
    if args.what == "checks":
        checks(args)
    else:
        churn(args, rest)


if __name__ == "__main__":
    main()
