//! The memory cgroup of this process (cgroups(7); kernel documentation, "Memory Resource
//! Controller" of version 1, "Memory" of version 2).

use std::fs;
use std::path::{Path, PathBuf};

/// Limits of this size or more stand for none.
const NONE: u64 = 1 << 60;

/// A memory cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    folder: PathBuf,
    /// Where the hierarchy begins.
    root: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// That of this process; `None` where there is none, or none that can be read.
    pub(super) fn of_this_process() -> Option<Self> {
        Self::find(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
    }

    fn find(table: &str, mount: &Path) -> Option<Self> {
        let member = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let is_v2 = controllers.is_empty();
            let is_memory = controllers.split(',').any(|it| it == "memory");
            let root = if is_v2 { mount.to_owned() } else { mount.join("memory") };
            (is_v2 || is_memory).then(|| (is_v2, root, path.trim_start_matches('/').to_owned()))
        };
        let mut members: Vec<_> = table.lines().filter_map(member).collect();
        members.sort_by_key(|(is_v2, ..)| *is_v2); // version 1 has the controller, if both are there
        members.into_iter().find_map(|(is_v2, root, path)| {
            // In a container the path may be that of the host.
            let folder = [root.join(path), root.clone()];
            let folder = folder.into_iter().find(|it| it.join(usage_file(is_v2)).exists())?;
            Some(Self { folder, root, is_v2 })
        })
    }

    /// The smallest limit on the way up, bytes.
    pub(super) fn limit(&self) -> Option<u64> {
        let file = if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let folders = self.folder.ancestors().take_while(|it| it.starts_with(&self.root));
        folders.filter_map(|folder| number(&folder.join(file))).filter(|it| *it < NONE).min()
    }

    /// Bytes in use, without the cache of files, which the kernel takes back by itself.
    pub(super) fn used(&self) -> Option<u64> {
        let used = number(&self.folder.join(usage_file(self.is_v2)))?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let fields = if self.is_v2 {
            ["active_file ", "inactive_file "]
        } else {
            ["total_active_file ", "total_inactive_file "]
        };
        let field = |name: &str| -> u64 {
            let value = stat.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Some(used.saturating_sub(fields.into_iter().map(field).sum()))
    }

    /// Whether no other process is in it.
    pub(super) fn holds_only(&self, id: u32) -> bool {
        let text = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        let mut others = text.lines().peekable();
        others.peek().is_some() && others.all(|line| line.trim().parse() == Ok(id))
    }
}

const fn usage_file(is_v2: bool) -> &'static str {
    if is_v2 { "memory.current" } else { "memory.usage_in_bytes" }
}

/// `max` is no number.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn version_2() {
        let mount = tempfile::tempdir().unwrap();
        let service = mount.path().join("system.slice/headgate.service");
        write(&mount.path().join("system.slice"), &[("memory.max", "2000\n")]);
        write(
            &service,
            &[
                ("memory.max", "max\n"),
                ("memory.current", "1500\n"),
                ("memory.stat", "anon 700\nfile 500\nactive_file 100\ninactive_file 300\n"),
                ("cgroup.procs", "77\n"),
            ],
        );
        let cgroup = Cgroup::find("0::/system.slice/headgate.service\n", mount.path()).unwrap();
        assert_eq!(cgroup.limit(), Some(2000));
        assert_eq!(cgroup.used(), Some(1100));
        assert!(cgroup.holds_only(77) && !cgroup.holds_only(78));
        write(&service, &[("cgroup.procs", "77\n80\n")]);
        assert!(!cgroup.holds_only(77));
    }

    #[test]
    fn version_1() {
        let mount = tempfile::tempdir().unwrap();
        write(
            &mount.path().join("memory"),
            &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.usage_in_bytes", "900\n"),
                ("memory.stat", "cache 1\ntotal_active_file 50\ntotal_inactive_file 50\n"),
            ],
        );
        // The path of the host does not exist in here.
        let table = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n";
        let cgroup = Cgroup::find(table, mount.path()).unwrap();
        assert_eq!((cgroup.limit(), cgroup.used()), (None, Some(800)));
        write(&mount.path().join("memory"), &[("memory.limit_in_bytes", "4096\n")]);
        assert_eq!(cgroup.limit(), Some(4096));
    }

    #[test]
    fn without_one() {
        let mount = tempfile::tempdir().unwrap();
        assert_eq!(Cgroup::find("0::/\n", mount.path()), None);
        assert_eq!(Cgroup::find("", mount.path()), None);
    }
}
