//! How much memory is in use.

use std::fs;

use super::cgroup::Cgroup;

/// Bytes in use now. In a cgroup of its own that is what the kernel charges it with, buffers of
/// sockets and pipes included; elsewhere the memory of this process alone, so that it closes no
/// session for what others use.
pub(super) fn now(cgroup: Option<&Cgroup>) -> Option<u64> {
    let own = own();
    let charged = cgroup.filter(|it| it.holds_only(std::process::id())).and_then(Cgroup::used);
    charged.max(own)
}

/// Memory of this process that no file backs (proc(5), `statm`).
fn own() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    Some(private_pages(&text)? * rustix::param::page_size() as u64)
}

fn private_pages(statm: &str) -> Option<u64> {
    let mut fields = statm.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let resident = fields.next()?.ok()?;
    let shared = fields.next()?.ok()?;
    Some(resident.saturating_sub(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_do_not_count() {
        assert_eq!(private_pages("765 432 404 5 0 123 0\n"), Some(28));
        assert_eq!(private_pages("765 4 404 5 0 123 0\n"), Some(0));
        assert_eq!(private_pages("765"), None);
        assert!(own().is_some_and(|bytes| bytes > 64 << 10));
    }
}
