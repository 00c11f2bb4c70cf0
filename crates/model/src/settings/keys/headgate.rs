//! Keys below `headgate`, which the reference does not have: draining, bounds, and the watchdog.

use super::Shape::{self, Int, Scalar, Words};
use super::{Key, read, section};

const MODES: Shape = Words(&["immediate", "graceful", "gradual"]);

pub(super) const KEYS: &[Key] = &[
    section("headgate.drain", "How sessions end that have to."),
    section(
        "headgate.drain.stop",
        "Sessions at a graceful stop (`headgate quit`, `SIGQUIT`), and in the old process of an upgrade.",
    ),
    read(
        "headgate.drain.stop.mode",
        MODES,
        "\"graceful\"",
        "`immediate`: sessions end at once. `graceful`: they may go on until `timeout`. `gradual`: they end one by one, each at a random moment of `period`.",
    ),
    read(
        "headgate.drain.stop.timeout",
        Scalar,
        "",
        "Longest wait. Default: `nginx_config.worker_shutdown_timeout`.",
    ),
    read(
        "headgate.drain.stop.period",
        Scalar,
        "",
        "Over how long `gradual` spreads the ends. Default `30s`.",
    ),
    section("headgate.drain.listener", "Sessions of a listener that was removed."),
    read(
        "headgate.drain.listener.mode",
        MODES,
        "\"graceful\"",
        "`immediate`: sessions end at once. `graceful`: they may go on until `timeout`. `gradual`: they end one by one, each at a random moment of `period`.",
    ),
    read(
        "headgate.drain.listener.timeout",
        Scalar,
        "",
        "When they end; `0`: never. Default: `nginx_config.worker_shutdown_timeout`.",
    ),
    read(
        "headgate.drain.listener.period",
        Scalar,
        "",
        "Over how long `gradual` spreads the ends. Default `30s`.",
    ),
    section("headgate.drain.node", "Sessions of a node that was removed from its upstream."),
    read(
        "headgate.drain.node.mode",
        MODES,
        "\"graceful\"",
        "`immediate`: sessions end at once. `graceful`: they may go on until `timeout`. `gradual`: they end one by one, each at a random moment of `period`.",
    ),
    read("headgate.drain.node.timeout", Scalar, "", "When they end; `0`: never. Default `0`."),
    read(
        "headgate.drain.node.period",
        Scalar,
        "",
        "Over how long `gradual` spreads the ends. Default `30s`.",
    ),
    section("headgate.limits", "Bounds."),
    read(
        "headgate.limits.pending_handshakes",
        Int(1, i64::MAX),
        "10000",
        "Most connections at once, all workers together, that wait for a PROXY header, a TLS handshake or bytes that a plugin reads. Beyond it the oldest one is cut (`HB`).",
    ),
    read(
        "headgate.limits.connections",
        Int(1, i64::MAX),
        "",
        "Most TCP connections at once, all listeners and workers together. Default: what open files and `worker_connections` allow.",
    ),
    read(
        "headgate.limits.when_full",
        Words(&["wait", "refuse"]),
        "\"wait\"",
        "What happens to connections beyond `connections`. `wait`: they stay in the kernel's queue until others end. `refuse`: they are closed at once (`GL`).",
    ),
    read(
        "headgate.limits.memory",
        Scalar,
        "",
        "Most memory: `512m`, `2g`, or a number of bytes. At nine tenths of it nobody new is accepted; beyond it sessions are closed (`OM`). `auto` (default): nine tenths of the limit of the process's cgroup, if it has one; `off`: no bound.",
    ),
    section("headgate.watchdog", "Looks whether the data threads go on."),
    read(
        "headgate.watchdog.threshold",
        Scalar,
        "",
        "A core that is busy with one turn of its event loop for longer than this is reported; `0`: off. Default `5s`.",
    ),
];
