//! Changes of the configuration under load.

use std::time::{Duration, Instant};

use headgate_testkit::proof::{Scenario, scale};
use headgate_testkit::{Port, SOON, wait};

use crate::load::{Load, Site};

#[test]
fn api_writes_and_reloads_under_load() {
    let (writes, reloads) = scale((200, 20), (1_000, 200));
    Scenario {
        name: "api_writes_and_reloads_under_load",
        fault: "Admin API writes, and reloads that open and close a listener, under 64 busy and 200 \
                idle TCP, 8 TLS and 50 UDP clients",
        promise: "0 refused, 0 reset, 0 wrong bytes, 0 unanswered",
    }
    .prove(|| {
        let site = Site::start();
        let load = Load::start(&site);
        let extra = Port::take();
        let old = site.gateway.config();
        let own = format!("- {}\n", site.gateway.tcp_port(0));
        let more = old.replace(&own, &format!("{own}      - {}\n", extra.number()));
        assert_ne!(old, more);
        for n in 0..writes {
            site.change(n);
            if n % (writes / reloads) == 0 {
                let is_more = (n / (writes / reloads)) % 2 == 0;
                site.gateway.write_config(if is_more { &more } else { &old });
                let mark = site.gateway.mark();
                site.gateway.signal("HUP");
                let said = site.gateway.wait_for_log_after(mark, "reloaded config.yaml");
                let counts = if is_more { "opened=1 closed=0" } else { "opened=0 closed=1" };
                assert!(said.contains(counts), "{said}");
            }
        }
        load.wait_for_work(1);
        format!("{writes} writes, {reloads} reloads: {}", load.finish())
    });
}

#[test]
fn hangups_under_load() {
    let time = Duration::from_secs(scale(3, 60));
    Scenario {
        name: "hangups_under_load",
        fault: "SIGHUP every 250 ms under the same load",
        promise: "0 refused, 0 reset, 0 wrong bytes, 0 unanswered",
    }
    .prove(|| {
        let site = Site::start();
        let load = Load::start(&site);
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < time {
            let mark = site.gateway.mark();
            site.gateway.signal("HUP");
            site.gateway.wait_for_log_after(mark, "reloaded config.yaml");
            count += 1;
            let next = Duration::from_millis(250) * count;
            let _ = wait::try_until(next.saturating_sub(began.elapsed()), || None::<()>);
        }
        load.wait_for_work(1);
        format!("{count} reloads in {:.0?}: {}", began.elapsed(), load.finish())
    });
}

/// The process ends in the middle of everything, and the next one serves what the last one promised.
#[test]
fn killed_and_started_again() {
    let rounds = scale(3, 50);
    Scenario {
        name: "killed_and_started_again",
        fault: "kill -9 under load, and a new start on the same ports and store",
        promise: "every start serves the last acknowledged configuration",
    }
    .prove(|| {
        let mut site = Site::start();
        let mut worst = Duration::ZERO;
        for round in 0..rounds {
            site.change(4 * round + 1);
            let mut open: Vec<_> =
                (0..20).map(|_| headgate_testkit::client::connect(site.gateway.tcp(0))).collect();
            open.iter_mut().for_each(headgate_testkit::client::assert_alive);
            site.gateway.kill();
            let began = Instant::now();
            site.gateway.launch();
            worst = worst.max(began.elapsed());
            let upstream = site.gateway.get("upstreams/u").expect(200).json();
            assert_eq!(upstream["value"]["desc"], (4 * round + 1).to_string());
            let mut stream = headgate_testkit::client::connect(site.gateway.tcp(0));
            headgate_testkit::client::assert_alive(&mut stream);
        }
        assert!(worst < SOON, "{worst:?}");
        format!("{rounds} of {rounds} starts, ready within {worst:.0?}")
    });
}
