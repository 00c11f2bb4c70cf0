//! Real servers, started on a free port with a folder of their own, killed when dropped.
//!
//! `start` returns `None` when the program is missing and `HEADGATE_SKIP_MISSING=1`, and panics with
//! the name of the package otherwise.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Finished, Process, need, need_library, run};
use crate::{SOON, client, wait};

fn runs_as_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[track_caller]
pub(crate) fn wait_ready(what: &str, process: &mut Process, mut probe: impl FnMut() -> bool) {
    let ready = wait::try_until(SOON * 3, || {
        if probe() { Some(true) } else { process.ended().map(|_| false) }
    });
    assert!(
        ready == Some(true),
        "{what} does not start; it printed:\n{}\n{}",
        process.stdout.text(),
        process.stderr.text()
    );
}

/// A MariaDB server with the account `gate` (password [`MariaDb::PASSWORD`]) and database `shop`.
#[derive(Debug)]
pub struct MariaDb {
    addr: SocketAddr,
    server: PathBuf,
    client: PathBuf,
    arguments: Vec<String>,
    process: Option<Process>,
    folder: TempDir,
    _port: Port,
}

impl MariaDb {
    /// Account that may connect over TCP.
    pub const USER: &str = "gate";
    /// Its password.
    pub const PASSWORD: &str = "open-sesame";

    /// Starts a server.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&["--skip-log-bin"])
    }

    /// Starts a server with further arguments.
    #[track_caller]
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Option<Self> {
        let server = need("mariadbd", "mariadb-server")?;
        let install = need("mariadb-install-db", "mariadb-server")?;
        let client = need("mariadb", "mariadb-client")?;
        let folder = TempDir::with_prefix("headgate-mariadb-").expect("a temporary folder");
        let owner: &[&str] = if runs_as_root() { &["--user=root"] } else { &[] };
        let _ = run(
            Command::new(install)
                .arg("--no-defaults")
                .arg(format!("--datadir={}", folder.path().join("data").display()))
                .args(["--skip-test-db", "--auth-root-authentication-method=normal"])
                .args(owner),
            SOON * 6,
        )
        .success();
        let sql = format!(
            "SET sql_log_bin = 0;\n\
             CREATE DATABASE IF NOT EXISTS shop;\n\
             CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}';\n\
             GRANT ALL ON shop.* TO '{user}'@'%';\n",
            user = Self::USER,
            password = Self::PASSWORD
        );
        fs::write(folder.path().join("accounts.sql"), sql).expect("a file");
        let port = Port::take();
        let arguments = arguments.iter().chain(owner).map(|it| (*it).to_owned()).collect();
        let addr = port.local();
        let mut database =
            Self { addr, server, client, arguments, process: None, folder, _port: port };
        database.start_again();
        Some(database)
    }

    /// Ends the server, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on the same port, after [`MariaDb::kill`].
    #[track_caller]
    pub fn start_again(&mut self) {
        let (folder, addr) = (self.folder.path().display(), self.addr);
        let mut process = Process::spawn(
            Command::new(&self.server)
                .arg("--no-defaults")
                .arg(format!("--datadir={folder}/data"))
                .arg(format!("--socket={folder}/socket"))
                .arg(format!("--pid-file={folder}/pid"))
                .arg(format!("--init-file={folder}/accounts.sql"))
                .arg(format!("--port={}", addr.port()))
                .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
                .args(["--innodb-buffer-pool-size=16M", "--performance-schema=OFF"])
                .args(&self.arguments),
        );
        let sql = || Self::command(&self.client, addr).args(["-e", "SELECT 1"]).output();
        wait_ready("mariadbd", &mut process, || sql().is_ok_and(|done| done.status.success()));
        self.process = Some(process);
    }

    /// Runs SQL as its administrator, on the server itself.
    #[track_caller]
    #[must_use]
    pub fn administer(&self, sql: &str) -> Finished {
        let socket = format!("--socket={}", self.folder.path().join("socket").display());
        let mut command = Command::new(&self.client);
        let _ = command.args(["--no-defaults", "--batch", "--skip-column-names", "--user=root"]);
        run(command.args([&socket, "-e", sql]), SOON * 3)
    }

    /// Makes it a copy of `primary`, which writes a binary log, and waits until the copy is made.
    #[track_caller]
    pub fn replicate(&self, primary: &Self) {
        let allow = format!(
            "CREATE USER 'copy'@'%' IDENTIFIED BY '{}'; GRANT REPLICATION SLAVE ON *.* TO 'copy'@'%'",
            Self::PASSWORD
        );
        let _ = primary.administer(&allow).success();
        let follow = format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='copy', \
             MASTER_PASSWORD='{}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE",
            primary.addr.port(),
            Self::PASSWORD
        );
        let _ = self.administer(&follow).success();
        self.wait_copied(primary);
    }

    /// Waits until what `primary` has written so far is here as well.
    #[track_caller]
    pub fn wait_copied(&self, primary: &Self) {
        let at = primary.administer("SELECT @@gtid_binlog_pos").success().stdout;
        let wait = format!("SELECT MASTER_GTID_WAIT('{at}', 20)");
        let waited = self.administer(&wait).success().stdout;
        let status = || self.administer("SHOW SLAVE STATUS").output();
        assert_eq!(waited, "0", "the replica does not follow: {}", status());
    }

    /// Where the server listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Runs SQL with the real client, connected to `to`, and returns when it has ended.
    #[track_caller]
    #[must_use]
    pub fn query(&self, to: SocketAddr, sql: &str) -> Finished {
        run(Self::command(&self.client, to).args(["-D", "shop", "-e", sql]), SOON * 3)
    }

    fn command(client: &PathBuf, to: SocketAddr) -> Command {
        let mut command = Command::new(client);
        command
            .args(["--no-defaults", "--protocol=TCP", "--batch", "--skip-column-names"])
            .arg(format!("--host={}", to.ip()))
            .arg(format!("--port={}", to.port()))
            .arg(format!("--user={}", Self::USER))
            .arg(format!("--password={}", Self::PASSWORD))
            .arg("--connect-timeout=5");
        command
    }
}

/// A Redis server without persistence.
#[derive(Debug)]
pub struct Redis {
    addr: SocketAddr,
    server: PathBuf,
    client: PathBuf,
    process: Option<Process>,
    folder: TempDir,
    arguments: Vec<String>,
    _port: Port,
}

impl Redis {
    /// Starts a server.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments.
    #[track_caller]
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Option<Self> {
        let server = need("redis-server", "redis-server")?;
        let client = need("redis-cli", "redis-tools")?;
        let folder = TempDir::with_prefix("headgate-redis-").expect("a temporary folder");
        let port = Port::take();
        let addr = port.local();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis =
            Self { addr, server, client, process: None, folder, arguments, _port: port };
        redis.start_again();
        Some(redis)
    }

    /// Ends the server, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on the same port, after [`Redis::kill`].
    #[track_caller]
    pub fn start_again(&mut self) {
        let mut process = Process::spawn(
            Command::new(&self.server)
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--port", &self.addr.port().to_string(), "--daemonize", "no"])
                .args(&self.arguments)
                .current_dir(self.folder.path()),
        );
        let ping = || Self::command(&self.client, self.addr).arg("PING").output();
        wait_ready("redis-server", &mut process, || {
            // NOAUTH is an answer too.
            let is_answer = |text: &[u8]| text.starts_with(b"PONG") || text.starts_with(b"NOAUTH");
            ping().is_ok_and(|done| is_answer(&done.stdout))
        });
        self.process = Some(process);
    }

    /// Where the server listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A call of `redis-cli` to `to`, ready for further arguments.
    #[must_use]
    pub fn cli(&self, to: SocketAddr) -> Command {
        Self::command(&self.client, to)
    }

    fn command(client: &PathBuf, to: SocketAddr) -> Command {
        let mut command = Command::new(client);
        command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()]);
        command
    }
}

/// An nginx that serves `/up` with 200 and `/down` with 503, by HTTP and by HTTPS with a certificate
/// of its own making.
#[derive(Debug)]
pub struct Nginx {
    http: SocketAddr,
    https: SocketAddr,
    _process: Process,
    folder: TempDir,
    _ports: [Port; 2],
}

impl Nginx {
    /// Starts a server.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        let server = need("nginx", "nginx-light")?;
        let folder = TempDir::with_prefix("headgate-nginx-").expect("a temporary folder");
        let ports = [Port::take(), Port::take()];
        let [http, https] = ports.each_ref().map(Port::local);
        let path = folder.path().display();
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tls");
        let user = if runs_as_root() { "user root;\n" } else { "" };
        let config = format!(
            "daemon off;\nmaster_process off;\n{user}pid {path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
             log_format probe '$request $host $status';\naccess_log {path}/access.log probe;\n\
             client_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\n\
             fastcgi_temp_path {path}/fastcgi;\nuwsgi_temp_path {path}/uwsgi;\nscgi_temp_path {path}/scgi;\n\
             server {{\nlisten {http};\nlisten {https} ssl;\n\
             ssl_certificate {fixtures}/cert.pem;\nssl_certificate_key {fixtures}/key.pem;\n\
             location /up {{ return 200; }}\nlocation /down {{ return 503; }}\n}}\n}}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).expect("a file");
        let mut process =
            Process::spawn(Command::new(server).arg("-p").arg(folder.path()).arg("-c").arg(&file));
        wait_ready("nginx", &mut process, || {
            crate::proc::tcp_listens(http.port()) && crate::proc::tcp_listens(https.port())
        });
        Some(Self { http, https, _process: process, folder, _ports: ports })
    }

    /// Where it speaks HTTP.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it speaks HTTPS.
    #[must_use]
    pub const fn https(&self) -> SocketAddr {
        self.https
    }

    /// Its access log: request line, host and status of each request.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

/// A dnsmasq that answers from its own records only.
#[derive(Debug)]
pub struct Dnsmasq {
    addr: SocketAddr,
    dig: PathBuf,
    process: Process,
    _folder: TempDir,
    _port: Port,
}

impl Dnsmasq {
    /// Name with one A record, [`Dnsmasq::ADDRESS`].
    pub const NAME: &str = "db.headgate.test";
    /// Address of [`Dnsmasq::NAME`].
    pub const ADDRESS: &str = "192.0.2.10";
    /// Name with TXT records of more than 3,000 bytes together.
    pub const LARGE: &str = "large.headgate.test";
    /// Number of TXT records of [`Dnsmasq::LARGE`].
    pub const LARGE_RECORDS: usize = 16;

    /// Starts a server.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with further lines of configuration.
    #[track_caller]
    #[must_use]
    pub fn start_with(lines: &[String]) -> Option<Self> {
        let server = need("dnsmasq", "dnsmasq-base")?;
        let dig = need("dig", "bind9-dnsutils")?;
        let folder = TempDir::with_prefix("headgate-dnsmasq-").expect("a temporary folder");
        let port = Port::take();
        let addr = port.local();
        let mut config = format!(
            "port={}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nno-poll\n\
             local=/headgate.test/\nedns-packet-max=65000\nhost-record={},{}\n",
            addr.port(),
            Self::NAME,
            Self::ADDRESS
        );
        for n in 0..Self::LARGE_RECORDS {
            let filling = format!("{n:02}-").repeat(66);
            config.push_str(&format!("txt-record={},{filling}\n", Self::LARGE));
        }
        if !lines.iter().any(|line| line.starts_with("local-ttl=")) {
            config.push_str("local-ttl=60\n");
        }
        for line in lines {
            config.push_str(line);
            config.push('\n');
        }
        if runs_as_root() {
            config.push_str("user=root\n");
        }
        let file = folder.path().join("dnsmasq.conf");
        fs::write(&file, config).expect("a file");
        let mut process = Process::spawn(
            Command::new(server)
                .arg("--keep-in-foreground")
                .arg("--log-facility=-")
                .arg("--pid-file=")
                .arg(format!("--conf-file={}", file.display())),
        );
        // A DNS query for the root, by hand: any answer will do.
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01";
        wait_ready("dnsmasq", &mut process, || {
            let socket = client::udp(addr);
            socket.send(query).is_ok()
                && client::try_receive(&socket, Duration::from_millis(200)).is_some()
        });
        Some(Self { addr, dig, process, _folder: folder, _port: port })
    }

    /// Where the server listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends the server a signal, given by name without `SIG`: `HUP` reads `addn-hosts` again.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Runs `dig` against `to`; 3 tries of 2 seconds.
    #[track_caller]
    #[must_use]
    pub fn dig(&self, to: SocketAddr, arguments: &[&str]) -> Finished {
        run(
            Command::new(&self.dig)
                .arg(format!("@{}", to.ip()))
                .args(["-p", &to.port().to_string(), "+time=2", "+tries=3"])
                .args(arguments),
            SOON * 3,
        )
    }
}

/// A syslog server that appends what it receives over UDP and TCP (same port) to a file.
#[derive(Debug)]
pub struct Rsyslog {
    addr: SocketAddr,
    file: PathBuf,
    _process: Process,
    _folder: TempDir,
    _tls: Option<TempDir>,
    _port: Port,
}

impl Rsyslog {
    /// Starts a server.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with("", "")
    }

    /// Starts a server that takes TLS on its TCP port, with this certificate and key (PEM).
    #[track_caller]
    #[must_use]
    pub fn start_tls(cert: &str, key: &str) -> Option<Self> {
        need_library("lmnsd_gtls.so", "rsyslog-gnutls")?;
        let folder = TempDir::with_prefix("headgate-rsyslog-tls-").expect("a temporary folder");
        let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        fs::write(&cert_file, cert).expect("a file");
        fs::write(&key_file, key).expect("a file");
        let global = format!(
            "defaultNetstreamDriver=\"gtls\" defaultNetstreamDriverCAFile=\"{cert}\" \
             defaultNetstreamDriverCertFile=\"{cert}\" defaultNetstreamDriverKeyFile=\"{key}\"",
            cert = cert_file.display(),
            key = key_file.display()
        );
        let tcp =
            "StreamDriver.Name=\"gtls\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"anon\"";
        let started = Self::start_with(&global, tcp);
        started.map(|server| Self { _tls: Some(folder), ..server })
    }

    #[track_caller]
    fn start_with(global: &str, tcp: &str) -> Option<Self> {
        let server = need("rsyslogd", "rsyslog")?;
        let folder = TempDir::with_prefix("headgate-rsyslog-").expect("a temporary folder");
        let port = Port::take();
        let addr = port.local();
        let file = folder.path().join("messages");
        let number = addr.port();
        let config = format!(
            "global(workDirectory=\"{}\" maxMessageSize=\"64k\" {global})\n\
             module(load=\"imudp\")\nmodule(load=\"imtcp\" {tcp})\n\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"{number}\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{number}\")\n\
             template(name=\"plain\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             *.* action(type=\"omfile\" file=\"{}\" template=\"plain\")\n",
            folder.path().display(),
            file.display()
        );
        let config_file = folder.path().join("rsyslog.conf");
        fs::write(&config_file, config).expect("a file");
        let mut process = Process::spawn(
            Command::new(server)
                .arg("-n")
                .arg("-f")
                .arg(&config_file)
                .arg("-i")
                .arg(folder.path().join("pid")),
        );
        wait_ready("rsyslogd", &mut process, || {
            crate::proc::tcp_listens(number) && crate::proc::udp_bound(number)
        });
        Some(Self { addr, file, _process: process, _folder: folder, _tls: None, _port: port })
    }

    /// Where the server listens, for UDP and TCP.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Everything received so far.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.file).unwrap_or_default()).into_owned()
    }

    /// Waits for a line that contains `part`.
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> String {
        match wait::try_until(SOON, || {
            self.text().lines().find(|line| line.contains(part)).map(str::to_owned)
        }) {
            Some(line) => line,
            None => panic!("no `{part}` in what rsyslog received:\n{}", self.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn mariadb_answers_its_client() {
        let Some(database) = MariaDb::start() else { return };
        let done = database.query(
            database.addr(),
            "CREATE TABLE t (n INT); INSERT INTO t VALUES (20),(22); SELECT SUM(n) FROM t",
        );
        assert_eq!(done.success().stdout, "42");
    }

    #[test]
    fn redis_answers_its_client() {
        let Some(redis) = Redis::start() else { return };
        let mut cli = redis.cli(redis.addr());
        assert_eq!(run(cli.args(["SET", "a", "b"]), SOON).success().stdout, "OK");
        let mut cli = redis.cli(redis.addr());
        assert_eq!(run(cli.args(["GET", "a"]), SOON).success().stdout, "b");
    }

    #[test]
    fn dnsmasq_answers_dig_with_small_and_large_records() {
        let Some(dns) = Dnsmasq::start() else { return };
        let small = dns.dig(dns.addr(), &["+short", Dnsmasq::NAME, "A"]).success();
        assert_eq!(small.stdout, Dnsmasq::ADDRESS);
        let query = ["+notcp", "+ignore", "+bufsize=8192", Dnsmasq::LARGE, "TXT"];
        let large = dns.dig(dns.addr(), &query).success();
        let records = large.stdout.lines().filter(|line| line.contains("\tTXT\t")).count();
        assert_eq!(records, Dnsmasq::LARGE_RECORDS, "{}", large.stdout);
        assert!(!large.stdout.contains(" tc"), "{}", large.stdout);
    }

    #[test]
    fn rsyslog_writes_what_it_receives() {
        let Some(syslog) = Rsyslog::start() else { return };
        let socket = client::udp(syslog.addr());
        socket.send(b"<13>Oct  1 00:00:00 here test: by datagram").unwrap();
        syslog.wait_for("test: by datagram");
        let mut stream = TcpStream::connect(syslog.addr()).unwrap();
        stream.write_all(b"<13>Oct  1 00:00:00 here test: by stream\n").unwrap();
        syslog.wait_for("test: by stream");
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        // Not under HEADGATE_SKIP_MISSING, where it is skipped on purpose.
        if std::env::var_os("HEADGATE_SKIP_MISSING").is_some() {
            return;
        }
        let panic = std::panic::catch_unwind(|| need("no-such-server", "some-package"));
        let text = panic.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("install --no-install-recommends some-package"), "{text}");
    }
}
