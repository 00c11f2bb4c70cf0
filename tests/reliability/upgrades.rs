//! New versions of the program, and some that are broken, under load.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use headgate_testkit::process::need;
use headgate_testkit::proof::{Scenario, sized};
use headgate_testkit::upgrade::is_alive;
use headgate_testkit::{SOON, client, wait};
use serde_json::json;

use crate::binary;
use crate::load::{Load, Site};

/// A new version that does not make it: how its start is to fail, seconds to give it, and what the
/// command says then.
type Broken = (&'static str, &'static str, &'static str);

const EXITS: Broken = ("exit 3", "60", "ended early with exit status: 3");
const HANGS: Broken = ("exec sleep 600", "1", "has not read its configuration in time");
/// It has the sockets, and the store is the first thing that it locks.
const CRASHES: Broken = (
    "exec STRACE -D -f -q -o /dev/null -e trace=flock -e inject=flock:signal=ABRT:when=1 PROGRAM \"$@\"",
    "60",
    "ended early with signal: 6",
);
/// The same, but it stops there, while the store is nobody's.
const STALLS: Broken = (
    "exec STRACE -D -f -q -o /dev/null -e trace=flock -e inject=flock:signal=STOP:when=1 PROGRAM \"$@\"",
    "3",
    "was not ready to serve in time",
);

fn script(folder: &Path, text: &str) -> String {
    let strace = need("strace", "strace").unwrap_or_else(|| PathBuf::from("strace"));
    let text = text.replace("STRACE", &strace.to_string_lossy()).replace("PROGRAM", &binary());
    let path = folder.join("broken");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("rights");
    path.to_string_lossy().into_owned()
}

#[test]
fn upgrades_under_load() {
    let upgrades = sized("HEADGATE_UPGRADES", 2, 20);
    Scenario {
        name: "upgrades_under_load",
        fault: "upgrades, and new versions that exit, hang, crash or stall with the sockets and the \
                store in hand, under 64 busy and 200 idle TCP, 8 TLS and 50 UDP clients",
        promise: "0 refused, 0 reset, 0 wrong bytes, 0 unanswered; counters go on; the old \
                  processes end with their last session",
    }
    .prove(|| {
        let site = Site::with(|builder| {
            builder.metrics().nginx("worker_shutdown_timeout: 900s").log_level("warn")
        });
        // Flows end soon after the traffic, and with them the processes that have them.
        let udp = json!({"server_port": site.gateway.udp_port(0),
                         "upstream": {"nodes": {site.datagrams.node(): 1},
                                      "timeout": {"connect": 4, "send": 4, "read": 4}}});
        site.gateway.put("stream_routes/udp", &udp).expect(200);
        let load = Load::start(&site);
        let mut run = Run { site, processes: Vec::new(), accepted: 0.0, changes: 0 };
        let mut broken = [EXITS, HANGS, CRASHES, STALLS].into_iter();
        let every = (upgrades / 4).max(1);
        for n in 0..upgrades {
            if n % every == 0
                && let Some(kind) = broken.next()
            {
                run.fail(kind);
            }
            run.upgrade();
            run.look();
        }
        for kind in broken {
            run.fail(kind);
            run.look();
        }
        load.wait_for_work(1);
        let Run { site, processes, .. } = run;
        let opened = load.opened();
        let figure = load.finish();
        wait::until_true("the counters of all processes add up", SOON, || {
            let accepted = site.gateway.scrape().get("headgate_tcp_accepted_total");
            accepted.is_some_and(|accepted| accepted as u64 >= opened)
        });
        wait::until_true("the old processes have ended", SOON * 3, || {
            !processes.iter().any(|id| is_alive(*id))
        });
        format!("{upgrades} upgrades, 4 that failed: {figure}; no old process left")
    });
}

struct Run {
    site: Site,
    /// Those that were replaced.
    processes: Vec<u32>,
    /// What the counter showed last.
    accepted: f64,
    changes: u64,
}

impl Run {
    fn upgrade(&mut self) {
        let before = self.serving();
        let said = self.site.gateway.upgrade(&binary(), &[]).success();
        assert_ne!(before, self.serving(), "{}", said.output());
        self.processes.push(before);
    }

    fn fail(&self, (start, seconds, reason): Broken) {
        let before = self.serving();
        let path = script(self.site.gateway.folder(), start);
        let more = ["--binary", &path, "--timeout", seconds];
        let said = self.site.gateway.upgrade(&binary(), &more);
        assert_eq!(said.code(), Some(1), "{}", said.output());
        assert!(said.stderr.contains(reason), "no `{reason}` in {}", said.output());
        assert_eq!(before, self.serving());
    }

    fn serving(&self) -> u32 {
        self.site.gateway.serving_id().expect("a pid file")
    }

    /// What nobody's traffic shows: the store, new flows through all processes, the counters.
    fn look(&mut self) {
        self.site.change(self.changes);
        self.changes += 1;
        let socket = client::udp(self.site.gateway.udp(0));
        assert_eq!(client::ask(&socket, b"new"), b"new");
        let now = self.site.gateway.scrape().get("headgate_tcp_accepted_total");
        let now = now.expect("a counter");
        assert!(now >= self.accepted, "the counter fell from {} to {now}", self.accepted);
        self.accepted = now;
    }
}
