//! Memory reaches its budget.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use headgate_testkit::client::{assert_alive, connect, send};
use headgate_testkit::proof::{Scenario, scale};
use headgate_testkit::{SOON, wait};
use serde_json::Value;

use crate::load::Site;

/// Most of a ClientHello of 60,000 bytes, in three records (RFC 8446, sections 4 and 5.1).
fn half_a_long_hello() -> Vec<u8> {
    let mut message = vec![1, 0x00, 0xea, 0x60, 3, 3];
    message.resize(3 * 16_000, 0);
    let record = |part: &[u8]| [&[22, 3, 1, 0x3e, 0x80], part].concat();
    message.chunks(16_000).flat_map(record).collect()
}

fn counter(site: &Site, name: &str) -> u64 {
    let counters = site.gateway.control("/v1/counters", &[]).expect(200).json();
    counters.get(name).and_then(Value::as_u64).expect("a number")
}

/// Changes the budget of the running gateway.
fn set_budget(site: &Site, bytes: u64) {
    let config = site.gateway.config();
    let line = |line: &str| line.trim_start().starts_with("memory: ");
    let changed: Vec<String> = config
        .lines()
        .map(|it| if line(it) { format!("    memory: {bytes}") } else { it.to_owned() })
        .collect();
    let mark = site.gateway.mark();
    site.gateway.write_config(&(changed.join("\n") + "\n"));
    site.gateway.signal("HUP");
    let _ = site.gateway.wait_for_log_after(mark, "reloaded config.yaml");
    wait::until_true("the budget is in force", SOON, || {
        counter(site, "memory_budget_now") == bytes
    });
}

#[test]
fn memory_over_its_budget() {
    const MIB: u64 = 1 << 20;
    let (clients, room) = scale((500, 8 * MIB), (4_000, 64 * MIB));
    Scenario {
        name: "memory_over_its_budget",
        fault: "`headgate.limits.memory`, and clients that send 48 KB of a ClientHello each and then \
                nothing, three times what fits",
        promise: "they are cut, the newest first; sessions go on, the Admin API answers, memory \
                  falls below the budget, and new clients are served again",
    }
    .prove(|| {
        let site = Site::with(|builder| {
            let limits = "headgate:\n  limits:\n    memory: 64g";
            builder.workers(2).control().top(limits)
        });
        let gateway = &site.gateway;
        let mut sessions: Vec<TcpStream> = (0..20).map(|_| connect(gateway.tcp(0))).collect();
        sessions.iter_mut().for_each(assert_alive);
        let used = || counter(&site, "memory_used_now");
        let before = wait::until("a first look", SOON, || Some(used()).filter(|it| *it > 0));
        let mut silent: Vec<TcpStream> = (0..clients).map(|_| connect(gateway.tcp(1))).collect();
        wait::until_true("all are accepted", SOON, || {
            counter(&site, "sessions_now") >= clients as u64
        });
        let budget = before + room;
        set_budget(&site, budget);
        let hello = half_a_long_hello();
        for client in &mut silent {
            // Some are cut already.
            let _ = std::io::Write::write_all(client, &hello);
        }
        gateway.wait_for_log("memory is over its budget", SOON);
        gateway.get("stream_routes/plain").expect(200);
        let most = wait::until("memory is below its budget", SOON * 3, || {
            std::thread::sleep(Duration::from_millis(100));
            (used() < budget && counter(&site, "closed_OM") > 0).then(|| counter(&site, "closed_OM"))
        });
        let began = Instant::now();
        sessions.iter_mut().for_each(assert_alive);
        assert!(most < clients as u64, "all of {clients} were cut");
        drop(silent);
        assert_alive(&mut connect(gateway.tcp(0)));
        let served = began.elapsed();
        wait::until_true("nothing is short any more", SOON, || {
            counter(&site, "memory_tight_now") == 0
        });
        wait_and_go_on(&site, &mut sessions);
        let fell = used() / MIB;
        format!(
            "{most} of {clients} cut at a budget of {} MiB, {fell} MiB afterwards; 20 of 20 sessions \
             went on, a new one was served after {} ms",
            budget / MIB,
            served.as_millis()
        )
    });
}

/// Between the marks nobody is sent away, and nobody new comes in.
fn wait_and_go_on(site: &Site, sessions: &mut [TcpStream]) {
    let gateway = &site.gateway;
    let mark = gateway.mark();
    // What the allocator still keeps goes within a second; then it stays as it is.
    wait::until_true("memory stays between the marks", SOON * 3, || {
        set_budget(site, counter(site, "memory_used_now") * 100 / 95);
        std::thread::sleep(Duration::from_millis(1_500));
        counter(site, "memory_tight_now") == 1
    });
    let _ = gateway.wait_for_log_after(mark, "memory is near its budget");
    let mark = gateway.mark();
    let mut waiting = connect(gateway.tcp(0));
    let _ = gateway.wait_for_log_after(mark, "accepting is paused");
    let problems = gateway.control("/v1/problems", &[]).expect(200).body;
    assert!(problems.contains("headgate.limits.memory"), "{problems}");
    gateway.get("stream_routes/plain").expect(200);
    sessions.iter_mut().for_each(assert_alive);
    let mark = gateway.mark();
    set_budget(site, 64 << 30);
    let _ = gateway.wait_for_log_after(mark, "memory is below its budget again");
    assert_alive(&mut waiting);
    send(&mut waiting, b"bye");
}
