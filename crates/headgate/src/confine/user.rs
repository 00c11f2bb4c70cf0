//! From root to somebody else, who may still listen on low ports.
//!
//! Users and groups are looked up in `/etc/passwd` and `/etc/group`, so that a static binary needs no
//! name service. The system calls concern the calling thread alone (see capabilities(7)); threads that
//! start later inherit what they set.

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
    set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::Said;

/// The one privilege that is kept.
const LOW_PORTS: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Whom to become.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    name: String,
    uid: u32,
    gid: u32,
    /// Supplementary groups.
    groups: Vec<u32>,
}

impl Identity {
    /// Looks up a user, and a group if another one than the user's is wanted.
    ///
    /// # Errors
    /// There is no such user or group.
    pub(super) fn find(user: &str, group: Option<&str>) -> anyhow::Result<Self> {
        let read = |path| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
        Self::find_in(user, group, &read("/etc/passwd")?, &read("/etc/group")?)
    }

    fn find_in(
        user: &str,
        group: Option<&str>,
        passwd: &str,
        groups: &str,
    ) -> anyhow::Result<Self> {
        let number = |field: &str| field.parse::<u32>().ok();
        let entry = fields(passwd).find(|entry| entry.first() == Some(&user));
        let (uid, own) = match entry.as_deref() {
            Some([_, _, uid, gid, ..]) => (number(uid), number(gid)),
            Some(_) => (None, None),
            None => (number(user), number(user)),
        };
        let uid = uid.ok_or_else(|| anyhow!("there is no user `{user}` in /etc/passwd"))?;
        let gid = match group {
            None => own,
            Some(group) => fields(groups)
                .find(|entry| entry.first() == Some(&group))
                .and_then(|entry| entry.get(2).copied().and_then(number))
                .or_else(|| number(group)),
        };
        let gid =
            gid.ok_or_else(|| anyhow!("there is no group `{}`", group.unwrap_or_default()))?;
        let is_member = |entry: &Vec<&str>| {
            entry.get(3).is_some_and(|members| members.split(',').any(|member| member == user))
        };
        let groups = fields(groups).filter(is_member);
        let groups = groups.filter_map(|entry| entry.get(2).copied().and_then(number)).collect();
        Ok(Self { name: user.to_owned(), uid, gid, groups })
    }
}

fn fields(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().map(|line| line.split(':').collect())
}

/// Becomes somebody else, for good.
///
/// # Errors
/// The kernel refuses.
pub(super) fn change(wanted: &Identity, said: &mut Said) -> anyhow::Result<()> {
    let Identity { name, uid, gid, groups } = wanted;
    if geteuid().as_raw() == *uid {
        // As the new process of an upgrade is.
        if getegid().as_raw() != *gid {
            said.warnings.push(format!(
                "nginx_config.user: group {gid} is not used: the process is {name} already, with group {}",
                getegid().as_raw()
            ));
        }
        return Ok(());
    }
    if !geteuid().is_root() {
        said.warnings.push(format!(
            "nginx_config.user: {name} is not used: only root can become another user"
        ));
        return Ok(());
    }
    set_keep_capabilities(true).context("keeping capabilities")?;
    let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups).context("changing the groups")?;
    set_thread_res_gid(gid, gid, gid).context("changing the group")?;
    set_thread_res_uid(uid, uid, uid).context("changing the user")?;
    // A container may not even have it.
    let held = capabilities(None).context("reading capabilities")?.permitted & LOW_PORTS;
    let only = CapabilitySets { effective: held, permitted: held, inheritable: held };
    set_capabilities(None, only).context("dropping capabilities")?;
    keep_low_ports();
    if set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        bail!("the kernel lets this process become root again");
    }
    said.notes.push(format!("the user is now {name}"));
    Ok(())
}

/// Hands the right to listen on low ports on to programs that this one starts: a hot upgrade would
/// lose it otherwise, because `no_new_privs` also turns off capabilities of files.
pub(super) fn keep_low_ports() {
    let Ok(mut sets) = capabilities(None) else { return };
    if !geteuid().is_root() && sets.permitted.contains(LOW_PORTS) {
        sets.inheritable |= LOW_PORTS;
        // Without it everything works but that.
        let _ = set_capabilities(None, sets)
            .and_then(|()| configure_capability_in_ambient_set(LOW_PORTS, true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ngate:x:990:991::/:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\ngate:x:991:\ntls:x:50:other,gate\nssl:x:51:gates\n";

    fn find(user: &str, group: Option<&str>) -> Option<(u32, u32, Vec<u32>)> {
        let found = Identity::find_in(user, group, PASSWD, GROUP).ok()?;
        Some((found.uid, found.gid, found.groups))
    }

    #[test]
    fn users_and_groups_are_found() {
        assert_eq!(find("gate", None), Some((990, 991, vec![50])));
        assert_eq!(find("gate", Some("tls")), Some((990, 50, vec![50])));
        assert_eq!(find("gate", Some("77")), Some((990, 77, vec![50])));
        assert_eq!(find("1234", None), Some((1234, 1234, vec![])));
        for (user, group) in [("nobody", None), ("broken", None), ("gate", Some("nobody"))] {
            assert_eq!(find(user, group), None, "{user} {group:?}");
        }
    }
}
