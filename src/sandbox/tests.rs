//! The filters, read as the kernel reads them, say of each call what QEMU 10.0.2's do.

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// What a program says of a call.
fn judge(program: &BpfProgram, arch: u32, call: i64, args: [u64; 6]) -> u32 {
    let mut data = [call as u32, arch, 0, 0].to_vec();
    data.extend(args.iter().flat_map(|arg| [*arg as u32, (arg >> 32) as u32]));
    let (mut at, mut value) = (0, 0u32);
    loop {
        let step = &program[at];
        at += 1;
        match step.code {
            0x20 => value = data[step.k as usize / 4],
            0x06 => return step.k,
            0x05 => at += step.k as usize,
            0x54 => value &= step.k,
            0x15 => at += usize::from(if value == step.k { step.jt } else { step.jf }),
            0x25 => at += usize::from(if value > step.k { step.jt } else { step.jf }),
            0x35 => at += usize::from(if value >= step.k { step.jt } else { step.jf }),
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// The gravest of what all of them say: to end the program, before an error, before nothing.
fn says(denied: &Denied, arch: u32, call: i64, args: [u64; 6]) -> u32 {
    let all = programs(denied).unwrap();
    all.iter().map(|program| judge(program, arch, call, args)).min_by_key(|action| *action as i32).unwrap()
}

/// The calls that are not allowed, whatever their arguments are.
fn denied_calls(denied: &Denied, action: u32) -> Vec<i64> {
    (0..470).filter(|call| says(denied, X86_64, *call, [0; 6]) == action).collect()
}

fn sorted(lists: &[&[i64]]) -> Vec<i64> {
    let mut all = lists.concat();
    all.sort_unstable();
    all
}

const ALL: Denied = Denied { obsolete: true, elevate_privileges: true, spawn: true, resource_control: true };

#[test]
fn each_class_denies_its_calls_and_no_other() {
    let none = Denied::default();
    assert_eq!(denied_calls(&none, KILL), sorted(&[&ALWAYS]));
    assert_eq!(denied_calls(&Denied { obsolete: true, ..none }, KILL), sorted(&[&ALWAYS, &OBSOLETE]));
    let kill = sorted(&[&ALWAYS, &OBSOLETE, &ELEVATE_PRIVILEGES, &SPAWN_ENDS]);
    assert_eq!(denied_calls(&ALL, KILL), kill);
    let scheduler = [libc::SYS_sched_setscheduler, libc::SYS_clone];
    assert_eq!(denied_calls(&ALL, EPERM), sorted(&[&SPAWN_REFUSED, &RESOURCE_CONTROL, &scheduler]));
    assert_eq!(denied_calls(&ALL, ENOSYS), [libc::SYS_clone3]);
    assert_eq!(denied_calls(&none, EPERM), [] as [i64; 0]);
}

#[test]
fn threads_are_no_processes_and_idle_is_no_priority() {
    let clone = |flags: u64| says(&ALL, X86_64, libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
    for thread in [0x3d_0f00, 0x7d_0f00, 0x1_003d_0f00] {
        assert_eq!(clone(thread), ALLOW, "{thread:#x}");
    }
    // fork(), posix_spawn(), and namespaces besides.
    for process in [0, 0x0120_0011, 0x4111, 0x103d_0f00, 0x3d_0f11] {
        assert_eq!(clone(process), EPERM, "{process:#x}");
    }
    let policy = |policy: u64| says(&ALL, X86_64, libc::SYS_sched_setscheduler, [0, policy, 0, 0, 0, 0]);
    assert_eq!([0, 1, 3, 5].map(policy), [EPERM, EPERM, EPERM, ALLOW]);
}

#[test]
fn calls_of_another_architecture_end_the_program() {
    assert_eq!(says(&Denied::default(), I386, 3, [0; 6]), KILL);
}
