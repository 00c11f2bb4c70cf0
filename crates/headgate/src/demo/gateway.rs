//! The gateway of the demo: a child process with a temporary folder of its own.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::pid::{self, Signal};
use anyhow::{Context as _, bail, ensure};

use super::http;
use super::ports::Ports;
use super::until::Interrupt;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
const LOG: &str = "logs/error.log";

/// A gateway that runs until this value is dropped. Fields are dropped in order: first it ends,
/// then its folder is removed.
pub(super) struct Gateway {
    process: Process,
    folder: Folder,
    admin: SocketAddr,
    key: String,
}

impl Gateway {
    /// Writes a configuration and starts the gateway with it.
    pub(super) fn start(ports: Ports) -> anyhow::Result<Self> {
        let folder = Folder::create().context("creating a temporary folder")?;
        let key = random_key().context("making an admin key")?;
        let config = folder.path.join("conf/config.yaml");
        fs::create_dir(folder.path.join("conf"))?;
        fs::create_dir(folder.path.join("logs"))?;
        fs::write(&config, configuration(&ports, &key)).context("writing the configuration")?;
        let log = File::create(folder.path.join(LOG)).context("creating its log")?;
        let program = std::env::current_exe().context("finding the headgate binary")?;
        let child = Command::new(program)
            .args(["run", "-c"])
            .arg(&config)
            // What a shell may have set for a real gateway would disturb this one.
            .env_remove("APISIX_STAND_ALONE")
            .env_remove("APISIX_DEPLOYMENT_ETCD_HOST")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0) // Ctrl-C is for the demo, which then ends the gateway
            .spawn()?;
        Ok(Self { process: Process(child), folder, admin: ports.admin, key })
    }

    /// Waits until the Admin API answers.
    pub(super) fn wait_until_ready(&mut self, interrupt: &mut Interrupt) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            self.check_alive()?;
            let path = "/apisix/admin/stream_routes";
            if http::call(self.admin, "GET", path, &self.key, "").is_ok_and(|it| it.status == 200) {
                return Ok(());
            }
            let limit = START_LIMIT.as_secs();
            ensure!(
                Instant::now() < deadline,
                "the gateway is not ready after {limit} s; its log:\n{}",
                self.log()
            );
            ensure!(!interrupt.comes_within(POLL), "interrupted");
        }
    }

    /// Waits for a signal, as long as the gateway runs.
    pub(super) fn watch(&mut self, interrupt: &mut Interrupt) -> anyhow::Result<()> {
        while !interrupt.comes_within(POLL * 10) {
            self.check_alive()?;
        }
        Ok(())
    }

    /// Ends the gateway and removes its folder.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        let status = self.process.end()?;
        ensure!(status.success(), "the gateway ended with {status}; its log:\n{}", self.log());
        fs::remove_dir_all(&self.folder.path).context("removing its folder")
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// Address of its Admin API.
    pub(super) const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The key of its Admin API.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.process.0.try_wait()? {
            Some(status) => bail!("the gateway ended with {status}; its log:\n{}", self.log()),
            None => Ok(()),
        }
    }

    /// The last lines of its log.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path.join(LOG)).unwrap_or_default();
        let lines: Vec<_> = text.trim_end().lines().collect();
        let start = lines.len().saturating_sub(20);
        lines.get(start..).unwrap_or_default().join("\n")
    }
}

fn configuration(ports: &Ports, key: &str) -> String {
    let Ports { tcp, udp, admin } = ports;
    let (ip, port) = (admin.ip(), admin.port());
    format!(
        r#"apisix:
  stream_proxy:
    tcp:
      - "{tcp}"
    udp:
      - "{udp}"
  enable_control: false
plugin_attr:
  prometheus:
    enable_export_server: false
nginx_config:
  error_log_level: info
  stream:
    enable_access_log: true
deployment:
  admin:
    admin_key:
      - name: demo
        key: "{key}"
        role: admin
    admin_listen:
      ip: {ip}
      port: {port}
"#
    )
}

/// 32 hexadecimal digits from the system.
fn random_key() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A child that is ended and waited for when dropped.
struct Process(Child);

impl Process {
    fn end(&mut self) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.0.try_wait()? {
            return Ok(status);
        }
        pid::signal(i32::try_from(self.0.id())?, Signal::Terminate)?;
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.0.kill()?;
                return Ok(self.0.wait()?);
            }
            std::thread::sleep(POLL / 5);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A folder that is removed when dropped. Nobody else may look into it: it holds the admin key.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn create() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        for _ in 0..20 {
            let name = format!("headgate-demo-{:08x}", fastrand::u32(..));
            let path = parent.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_passes_the_test() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let ports = Ports { tcp: at(9100), udp: at(9200), admin: at(9180) };
        let text = configuration(&ports, &random_key().unwrap());
        let file = Path::new("/demo/conf/config.yaml");
        let loaded = headgate_model::settings::Settings::parse(&text, file, &|_| None);
        assert_eq!(loaded.problems, []);
        let settings = loaded.settings.unwrap();
        assert_eq!(settings.admin.unwrap().listen, at(9180));
        assert_eq!(settings.stream.unwrap().listeners.len(), 2);
    }

    #[test]
    fn a_folder_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = Folder::create().unwrap();
        let path = folder.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }
}
