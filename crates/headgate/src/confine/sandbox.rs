//! Landlock: nothing is written outside a few folders. seccomp: some system calls are refused.
//!
//! Reading and executing stay free: certificates, lists of addresses and resource files may lie
//! anywhere, plugins name them at run time, and a hot upgrade starts a program. What matters is that
//! a process that was taken over cannot change the machine. Unlike a list of allowed calls, the list
//! of refused ones does not break with the next version of libc.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use landlock::{
    ABI, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::Said;

/// The kernel's Landlock of 6.2, the first in which files cannot be truncated past it.
const LANDLOCK: ABI = ABI::V3;

/// What a gateway never does: change the machine, look into other processes, open further doors into
/// the kernel.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Enters the sandbox, for good.
///
/// # Errors
/// A folder cannot be made, or the kernel refuses the filter.
pub(super) fn enter(writable: &[PathBuf], said: &mut Said) -> anyhow::Result<()> {
    let writes = AccessFs::from_write(LANDLOCK);
    let mut rules = Ruleset::default().handle_access(writes)?.create()?;
    for path in writable.iter().chain([&PathBuf::from("/dev")]) {
        if !path.exists() {
            std::fs::create_dir_all(path)
                .with_context(|| format!("making the folder {}", path.display()))?;
        }
        let opened = PathFd::new(path).with_context(|| format!("opening {}", path.display()))?;
        let allowed = if path.is_dir() { writes } else { writes & AccessFs::from_file(LANDLOCK) };
        rules = rules.add_rule(PathBeneath::new(opened, allowed))?;
    }
    match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => {}
        RulesetStatus::PartiallyEnforced => said.warnings.push(
            "headgate.sandbox: this kernel knows only a part of Landlock; files outside may still be \
             truncated or linked"
                .to_owned(),
        ),
        RulesetStatus::NotEnforced => said.warnings.push(
            "headgate.sandbox: this kernel has no Landlock; writing to files is not confined"
                .to_owned(),
        ),
    }
    let folders: Vec<_> = writable.iter().map(|path| path.display().to_string()).collect();
    said.notes.push(format!("the sandbox is on; written is only to {}", folders.join(", ")));
    seccompiler::apply_filter(&filter()?).context("seccomp")
}

fn filter() -> anyhow::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles() {
        assert!(filter().unwrap().len() > REFUSED.len());
    }
}
