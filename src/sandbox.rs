//! The filter of system calls behind `-sandbox`: what QEMU's denies, in the way in which it denies it.
//!
//! A call of which a machine has no use ends the program at once. What a mistake of a client's could lead to is refused with `EPERM`:
//! new processes (`spawn=deny`) and priorities (`resourcecontrol=deny`). `clone3` hides its flags from filters, so that it is not
//! there (`ENOSYS`), and threads are made by `clone`. Calls of another architecture end the program, too.
//!
//! The kernel takes the gravest of what several filters say, so each way of denying has a filter of its own.

use std::collections::BTreeMap;

use qapi::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::config::sandbox::Denied;

/// Never of use to a machine.
const ALWAYS: [i64; 12] = [
    libc::SYS_syslog,
    libc::SYS_mount,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_getpmsg,
    libc::SYS_putpmsg,
    libc::SYS_afs_syscall,
    libc::SYS_tuxcall,
    libc::SYS_security,
    libc::SYS_vserver,
    libc::SYS_kexec_load,
];
/// Calls that Linux has not had since 2.6, and `libc` does not name.
const CREATE_MODULE: i64 = 174;
const GET_KERNEL_SYMS: i64 = 177;
const QUERY_MODULE: i64 = 178;
const OBSOLETE: [i64; 7] = [
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    CREATE_MODULE,
    GET_KERNEL_SYMS,
    QUERY_MODULE,
];
const ELEVATE_PRIVILEGES: [i64; 10] = [
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
];
/// What only a program that gets out of its confinement does.
const SPAWN_ENDS: [i64; 3] = [libc::SYS_unshare, libc::SYS_setns, libc::SYS_execveat];
const SPAWN_REFUSED: [i64; 3] = [libc::SYS_fork, libc::SYS_vfork, libc::SYS_execve];
const RESOURCE_CONTROL: [i64; 3] =
    [libc::SYS_setpriority, libc::SYS_sched_setparam, libc::SYS_sched_setaffinity];

/// The flags with which C libraries make threads: glibc, and musl, which adds one that means nothing.
const THREAD: [u64; 2] = [GLIBC_THREAD, GLIBC_THREAD | libc::CLONE_DETACHED as u64];
const GLIBC_THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters all threads of the process from now on, and those that they make.
///
/// # Errors
/// The kernel has no filters.
pub(crate) fn install(denied: &Denied) -> Result<()> {
    for program in programs(denied)? {
        seccompiler::apply_filter_all_threads(&program).map_err(failed)?;
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::generic(format!("failed to install seccomp syscall filter in the kernel: {error}"))
}

/// The filters, one for each way of denying.
fn programs(denied: &Denied) -> Result<Vec<BpfProgram>> {
    let mut ended = whole(&ALWAYS);
    let mut refused = Rules::new();
    let mut absent = Rules::new();
    if denied.obsolete {
        ended.append(&mut whole(&OBSOLETE));
    }
    if denied.elevate_privileges {
        ended.append(&mut whole(&ELEVATE_PRIVILEGES));
    }
    if denied.spawn {
        ended.append(&mut whole(&SPAWN_ENDS));
        refused.append(&mut whole(&SPAWN_REFUSED));
        refused.insert(libc::SYS_clone, vec![differs(0, &THREAD)?]);
        absent.append(&mut whole(&[libc::SYS_clone3]));
    }
    if denied.resource_control {
        refused.append(&mut whole(&RESOURCE_CONTROL));
        // What a thread may always be is idle.
        refused.insert(libc::SYS_sched_setscheduler, vec![differs(1, &[libc::SCHED_IDLE as u64])?]);
    }
    [
        (ended, SeccompAction::KillProcess),
        (refused, SeccompAction::Errno(libc::EPERM as u32)),
        (absent, SeccompAction::Errno(libc::ENOSYS as u32)),
    ]
    .into_iter()
    .filter(|(rules, _)| !rules.is_empty())
    .map(|(rules, action)| {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, TargetArch::x86_64);
        filter.and_then(BpfProgram::try_from).map_err(failed)
    })
    .collect()
}

/// These calls, whatever their arguments.
fn whole(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// Where the lower half of an argument is none of `values`.
fn differs(argument: u8, values: &[u64]) -> Result<SeccompRule> {
    let condition = |value: &u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *value).map_err(failed)
    };
    SeccompRule::new(values.iter().map(condition).collect::<Result<_>>()?).map_err(failed)
}

#[cfg(test)]
mod tests;
