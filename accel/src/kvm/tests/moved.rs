//! A guest that is moved to another machine goes on there.

mod controllers;

use vmstate::{Decoder, Encoder, LoadError, Saved, Section, VmState};

use super::super::save::CpuState;
use super::rig::{Report, Rig};
use crate::Accel;
use controllers::{HELD_OFF, with_controllers};

/// Name, version and bytes of each section.
type Stream = Vec<(&'static str, u32, Vec<u8>)>;

fn sections(rig: &Rig) -> Vec<Section> {
    match rig.accel.saved() {
        Saved::Sections(all) => all,
        other => panic!("{other:?}"),
    }
}

fn save(rig: &Rig) -> Stream {
    let bytes = |section: &Section| {
        let mut out = Encoder::new();
        section.save(&mut out);
        out.into_bytes()
    };
    sections(rig).iter().map(|section| (section.name(), section.version(), bytes(section))).collect()
}

fn load(rig: &Rig, stream: &Stream) -> Result<(), LoadError> {
    let sections = sections(rig);
    assert_eq!(sections.len(), stream.len());
    sections.iter().zip(stream).try_for_each(|(section, (name, version, bytes))| {
        assert_eq!(section.name(), *name);
        section.load(&mut Decoder::new(&bytes[..]), *version)
    })
}

/// What one vCPU saved.
fn cpu(stream: &Stream, cpu: usize) -> CpuState {
    let (_, version, bytes) = stream.iter().filter(|(name, ..)| *name == "cpu").nth(cpu).unwrap();
    CpuState::get_versioned(&mut Decoder::new(&bytes[..]), *version).unwrap()
}

/// The stream with another state of the first vCPU.
fn with_cpu(stream: &Stream, state: &CpuState) -> Stream {
    let mut out = Encoder::new();
    state.put_fields(&mut out);
    let mut stream = stream.clone();
    stream.iter_mut().find(|(name, ..)| *name == "cpu").unwrap().2 = out.into_bytes();
    stream
}

fn copy_memory(from: &Rig, to: &Rig) {
    let mut bytes = vec![0; super::rig::RAM as usize];
    from.ram.read(0, &mut bytes).unwrap();
    to.ram.write(0, &bytes).unwrap();
}

/// Pauses the guest and has it in the other machine, paused.
fn hand_over(from: &Rig, to: &Rig) -> Stream {
    from.accel.pause();
    copy_memory(from, to);
    let stream = save(from);
    load(to, &stream).unwrap();
    stream
}

/// Real mode: counts in a register and in memory, checks that they are the same, and reports each number on a port. Works at any
/// address.
fn counter16(memory: u16, port: u8) -> Vec<u8> {
    let [low, high] = memory.to_le_bytes();
    let mut code = vec![0x66, 0x3b, 0x06, low, high]; // next: cmp eax,[memory]
    code.extend([0x75, 0x0b]); // jne bad
    code.extend([0x66, 0x40]); // inc eax
    code.extend([0x66, 0xa3, low, high]); // mov [memory],eax
    code.extend([0x66, 0xe7, port]); // out port,eax
    code.extend([0xeb, 0xee]); // jmp next
    code.extend([0xe6, 0x66, 0xf4]); // bad: out 66h,al; hlt
    code
}

/// The same in protected mode.
fn counter32(memory: u32, port: u8) -> Vec<u8> {
    let mut code = vec![0x3b, 0x05]; // next: cmp eax,[memory]
    code.extend(memory.to_le_bytes());
    code.extend([0x75, 0x0a, 0x40, 0xa3]); // jne bad; inc eax; mov [memory],eax
    code.extend(memory.to_le_bytes());
    code.extend([0xe7, port, 0xeb, 0xee]); // out port,eax; jmp next
    code.extend([0xe6, 0x66, 0xf4]); // bad: out 66h,al; hlt
    code
}

/// Takes what was reported so far and gives the last number on the port.
fn last_on(rig: &Rig, port: u16) -> Option<u64> {
    let mut last = None;
    while let Some(report) = rig.try_report() {
        match report {
            Report::Port(at, 4, value) if at == port => last = Some(value),
            Report::Port(0x66, ..) => panic!("the register and memory differ"),
            _ => {}
        }
    }
    last
}

#[test]
fn a_guest_counts_on_where_it_was_and_can_be_reset_there() {
    let program = counter16(0x1000, 0x54);
    let Some(from) = Rig::new(&program, 1, false) else { return };
    let to = Rig::new(&program, 1, false).unwrap();
    from.accel.resume();
    for number in 1..500 {
        assert_eq!(from.report(), Report::Port(0x54, 4, number));
    }
    from.accel.pause();
    let last = last_on(&from, 0x54).unwrap_or(499);
    hand_over(&from, &to);
    assert_eq!(to.accel.registers(0), from.accel.registers(0));
    to.accel.resume();
    for number in last + 1..last + 500 {
        assert_eq!(to.report(), Report::Port(0x54, 4, number));
    }
    // A reset there is one.
    to.accel.pause();
    to.drain();
    to.ram.write(0x1000, &[0; 4]).unwrap();
    to.accel.reset();
    to.accel.resume();
    assert_eq!(to.report(), Report::Port(0x54, 4, 1));
    // And who stayed behind can go on as well, as after a migration that failed.
    from.accel.resume();
    assert_eq!(from.report(), Report::Port(0x54, 4, last + 1));
}

#[test]
fn it_can_be_moved_on_and_on() {
    let program = counter16(0x1000, 0x54);
    let Some(mut from) = Rig::new(&program, 1, false) else { return };
    from.accel.resume();
    let mut last = 0;
    for _ in 0..5 {
        assert_eq!(from.report(), Report::Port(0x54, 4, last + 1));
        from.accel.pause();
        last = last_on(&from, 0x54).unwrap_or(last + 1);
        let to = Rig::new(&program, 1, false).unwrap();
        hand_over(&from, &to);
        to.accel.resume();
        from = to;
    }
}

/// Protected mode: starts the other processor at 1000h, then counts.
fn starter() -> Vec<u8> {
    let mut code = Vec::new();
    for command in [0x000c_4500_u32, 0x000c_4601] {
        code.extend([0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe]); // mov dword [0fee00300h],command
        code.extend(command.to_le_bytes());
    }
    code.extend(counter32(0x2000, 0x54));
    code
}

#[test]
fn both_processors_count_on() {
    let Some(from) = Rig::new(&starter(), 2, true) else { return };
    let to = Rig::new(&starter(), 2, true).unwrap();
    from.ram.write(0x1000, &counter16(0x2800, 0x58)).unwrap();
    from.accel.resume();
    let mut last = [0, 0];
    let note = |report: Report, last: &mut [u64; 2]| match report {
        Report::Port(0x54, 4, value) => last[0] = value,
        Report::Port(0x58, 4, value) => last[1] = value,
        other => panic!("{other:?}"),
    };
    while last.iter().any(|last| *last < 100) {
        note(from.report(), &mut last);
    }
    from.accel.pause();
    while let Some(report) = from.try_report() {
        note(report, &mut last);
    }
    let stream = hand_over(&from, &to);
    assert_eq!(cpu(&stream, 0).tsc, cpu(&stream, 1).tsc, "as of one moment");
    to.accel.resume();
    let mut next = last;
    while next.iter().zip(last).any(|(next, last)| *next < last + 100) {
        let before = next;
        note(to.report(), &mut next);
        assert_eq!(next.iter().sum::<u64>(), before.iter().sum::<u64>() + 1, "{before:?} {next:?}");
    }
    to.accel.pause();
    let later = cpu(&save(&to), 1).tsc;
    assert!(later > cpu(&stream, 1).tsc, "{later}");
}

#[test]
fn a_guest_that_broke_down_stays_so_until_a_reset() {
    // lidt [0ff8h], which is empty; out 10h,al; ud2
    let program = [0x0f, 0x01, 0x1d, 0xf8, 0x0f, 0x00, 0x00, 0xe6, 0x10, 0x0f, 0x0b];
    let Some(from) = Rig::new(&program, 1, true) else { return };
    let to = Rig::new(&program, 1, true).unwrap();
    from.accel.resume();
    assert!(matches!(from.report(), Report::Port(0x10, 1, _)));
    assert_eq!(from.report(), Report::TripleFault(0));
    let stream = hand_over(&from, &to);
    assert!(cpu(&stream, 0).broken);
    to.accel.resume();
    to.accel.pause();
    assert_eq!(to.drain(), 0);
    to.accel.reset();
    to.accel.resume();
    assert!(matches!(to.report(), Report::Port(0x10, 1, _)));
}

#[test]
fn all_registers_arrive_and_chips_save_the_same_again() {
    let Some((from, to)) = with_controllers(&HELD_OFF) else { return };
    from.accel.pause();
    copy_memory(&from, &to);
    let stream = save(&from);
    let mut state = cpu(&stream, 0);
    // The legacy area: control words, a register of each kind; the header says that both are in use.
    state.xsave[0..2].copy_from_slice(&0x027f_u16.to_le_bytes());
    state.xsave[24..28].copy_from_slice(&0x1fa0_u32.to_le_bytes());
    state.xsave[32..42].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0x88, 0x01, 0x40]);
    state.xsave[160..176].copy_from_slice(&[0xa5; 16]);
    state.xsave[512] |= 3;
    state.dr = [0x1000, 0x2000, 0x3000, 0x4000];
    for (index, value) in state.msr_indices.iter().zip(&mut state.msr_values) {
        match index {
            // Syscall target, page attributes, a variable range, a machine check's status.
            0xc000_0082 => *value = 0xffff_8000_1234_5678,
            0x277 => *value = 0x0007_0406_0007_0106,
            0x202 => *value = 0xc000_0001,
            0x401 => *value = 0x1234,
            // Memory that the hypervisor writes to: clock (by both of its names), steal time, page faults, ends of interrupts.
            0x12 | 0x4b56_4d01 => *value = 0x4001,
            0x4b56_4d03 => *value = 0x5001,
            0x4b56_4d02 => *value = 0x6001,
            0x4b56_4d04 => *value = 0x6801,
            _ => {}
        }
    }
    load(&to, &with_cpu(&stream, &state)).unwrap();
    let again = save(&to);
    let arrived = cpu(&again, 0);
    let registers = to.accel.registers(0).unwrap();
    assert_eq!(registers.fpu.st[0], (0x8807_0605_0403_0201, 0x4001));
    assert_eq!(
        (registers.fpu.mxcsr, registers.fpu.vectors[0][..2].to_vec()),
        (0x1fa0, vec![0xa5a5_a5a5_a5a5_a5a5; 2])
    );
    assert_eq!(arrived.msr_indices, state.msr_indices);
    // Time goes on.
    assert!(arrived.tsc > state.tsc);
    assert_eq!(CpuState { tsc: state.tsc, ..arrived }, state);
    assert_eq!(&stream[2..], &again[2..]);
    // The clock is the saved one as long as it stands still.
    assert_eq!(stream[0], again[0]);
}

#[test]
fn another_processor_is_refused() {
    let Some(from) = Rig::new(&[0xf4], 2, false) else { return };
    let to = Rig::new(&[0xf4], 2, false).unwrap();
    let stream = save(&from);
    type Change = fn(&mut CpuState);
    let changes: [(Change, &str); 6] = [
        (|cpu| cpu.processor.cpus = 3, "Property 'cpus' changed from 3 to 2"),
        (|cpu| cpu.processor.apic_id = 7, "Property 'apic-id' changed from 7 to 0"),
        (|cpu| cpu.processor.family = 99, "Property 'family' changed from 99 to "),
        (|cpu| cpu.processor.features[0] ^= 1, "Property 'fpu' changed from off to on"),
        (|cpu| cpu.lost = true, "the source could not read the registers of this CPU"),
        (
            |cpu| {
                cpu.msr_indices.push(0x1234_5678);
                cpu.msr_values.push(5);
            },
            "error: failed to set MSR 0x12345678 to 0x5",
        ),
    ];
    for (change, expected) in changes {
        let mut state = cpu(&stream, 0);
        change(&mut state);
        let error = load(&to, &with_cpu(&stream, &state)).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    load(&to, &stream).unwrap();
}

#[test]
fn what_ties_a_guest_to_its_host_is_told() {
    let blocked = |model| match Rig::with_model(model, &[0xf4], 1, false)?.accel.saved() {
        Saved::Blocked(why) => Some(why),
        _ => None,
    };
    let Some(rig) = Rig::new(&[0xf4], 1, false) else { return };
    let has = crate::cpu::feature("invtsc").unwrap().is_in(&rig.accel.supported_cpu().words);
    let why = "State blocked by non-migratable CPU device (invtsc flag)";
    assert_eq!(blocked("max,migratable=off,+invtsc"), has.then(|| why.to_owned()));
    let khz = rig.accel.tsc_frequency().unwrap() / 1000;
    assert_eq!(blocked(&format!("max,migratable=off,+invtsc,tsc-frequency={}", khz * 1000)), None);
    // Counters of another speed: a warning, unless the speed was asked for.
    let mut state = cpu(&save(&rig), 0);
    assert_eq!(u64::from(state.tsc_khz), khz);
    state.tsc_khz += 1000;
    let faster = with_cpu(&save(&rig), &state);
    let asked = Rig::with_model(&format!("qemu64,tsc-frequency={}", khz * 1000), &[0xf4], 1, false).unwrap();
    let error = load(&asked, &faster).unwrap_err();
    assert_eq!(error.to_string(), "Mismatch between user-specified TSC frequency and migrated TSC frequency");
    load(&Rig::new(&[0xf4], 1, false).unwrap(), &faster).unwrap();
}

#[test]
fn a_processor_that_is_missing_in_the_stream_stays_as_it_was_reset() {
    let program = counter16(0x1000, 0x54);
    let Some(from) = Rig::new(&program, 2, false) else { return };
    let to = Rig::new(&program, 2, false).unwrap();
    from.accel.resume();
    assert_eq!(from.report(), Report::Port(0x54, 4, 1));
    from.accel.pause();
    let last = last_on(&from, 0x54).unwrap_or(1);
    copy_memory(&from, &to);
    let stream = save(&from);
    // The clock and the first vCPU.
    for (section, (_, version, bytes)) in sections(&to).iter().zip(&stream).take(2) {
        section.load(&mut Decoder::new(&bytes[..]), *version).unwrap();
    }
    to.accel.resume();
    assert_eq!(to.report(), Report::Port(0x54, 4, last + 1));
}

#[test]
fn a_reset_that_comes_while_a_guest_arrives_does_not_count() {
    let Some(from) = Rig::new(&starter(), 2, true) else { return };
    let to = Rig::new(&starter(), 2, true).unwrap();
    from.accel.resume();
    from.report();
    from.accel.pause();
    copy_memory(&from, &to);
    let stream = save(&from);
    let read = |(section, (_, version, bytes)): (&Section, &(_, u32, Vec<u8>))| {
        section.read(&mut Decoder::new(&bytes[..]), *version).unwrap()
    };
    let applies: Vec<_> = sections(&to).iter().zip(&stream).map(read).collect();
    to.accel.reset();
    applies.into_iter().for_each(|apply| apply().unwrap());
    for cpu in 0..2 {
        assert_eq!(to.accel.registers(cpu), from.accel.registers(cpu), "{cpu}");
    }
    // One that comes later does.
    to.accel.reset();
    assert_ne!(to.accel.registers(0), from.accel.registers(0));
}

#[test]
fn a_machine_that_got_ready_before_takes_a_guest_as_well() {
    let Some((from, to)) = with_controllers(&HELD_OFF) else { return };
    to.accel.make_ready();
    let changes = to.accel.stats().slot_changes;
    assert!(changes > 0);
    let stream = hand_over(&from, &to);
    to.accel.resume();
    to.accel.pause();
    assert_eq!(to.accel.stats().slot_changes, changes);
    assert_eq!(save(&to).last(), stream.last(), "the PIT");
}

#[test]
fn streams_that_are_cut_or_changed_are_refused_or_taken_without_harm() {
    let program = counter16(0x1000, 0x54);
    let Some(from) = Rig::new(&program, 1, false) else { return };
    from.accel.resume();
    assert_eq!(from.report(), Report::Port(0x54, 4, 1));
    from.accel.pause();
    let stream = save(&from);
    let to = Rig::new(&program, 1, false).unwrap();
    let mut taken = 0;
    for (at, section) in sections(&to).iter().enumerate() {
        let (name, version, bytes) = &stream[at];
        for len in (0..bytes.len()).step_by(bytes.len() / 100 + 1) {
            let cut = section.load(&mut Decoder::new(&bytes[..len]), *version);
            assert!(cut.is_err(), "{name}: {len} bytes");
        }
        for index in (0..bytes.len()).step_by(bytes.len() / 700 + 1) {
            for change in [1, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[index] ^= change;
                if section.load(&mut Decoder::new(&bytes[..]), *version).is_ok() {
                    taken += 1;
                    // Whatever runs there now can be stopped.
                    if taken % 64 == 0 {
                        to.accel.resume();
                        to.accel.pause();
                        to.accel.reset();
                    }
                }
            }
        }
    }
    assert!(taken > 1000, "{taken}");
    // Whatever that left behind, the machine can be reset.
    to.accel.reset();
    to.drain();
    to.ram.write(0, &vec![0; super::rig::RAM as usize]).unwrap();
    load(&to, &stream).unwrap();
    to.accel.reset();
    to.accel.resume();
    assert_eq!(to.report(), Report::Port(0x54, 4, 1));
}

#[test]
fn vcpus_that_came_later_are_moved_to_where_they_came_as_well() {
    let Some(from) = Rig::with_room(&[0xf4], 1, 4) else { return };
    let [to, other] = [(); 2].map(|()| Rig::with_room(&[0xf4], 1, 4).unwrap());
    from.accel.resume();
    // In another order, with one that left.
    for rig in [&from, &to, &other] {
        rig.accel.plug_vcpu(3).unwrap();
    }
    for (rig, index) in [(&from, 2), (&from, 1), (&to, 1), (&other, 2)] {
        rig.accel.plug_vcpu(index).unwrap();
    }
    from.accel.unplug_vcpu(2);
    let stream = hand_over(&from, &to);
    let tscs: Vec<u64> = (0..3).map(|at| cpu(&stream, at).tsc).collect();
    assert!(tscs.iter().all(|tsc| *tsc == tscs[0]), "in step: {tscs:?}");
    to.accel.resume();
    to.accel.pause();
    let later: Vec<u64> = (0..3).map(|at| cpu(&save(&to), at).tsc).collect();
    assert!(later.iter().all(|tsc| *tsc >= tscs[0]), "{later:?}");
    let error = load(&other, &stream).unwrap_err();
    assert!(error.to_string().contains("apic-id"), "{error}");
}
