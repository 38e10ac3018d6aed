//! Claims about the clock's registers.

use super::*;
use crate::core::config::{RtcBase, RtcClock};

fn rtc() -> Arc<Rtc> {
    let mut registry = Registry::new();
    registry.register(TypeInfo::new("device"));
    register(&mut registry);
    registry.create("mc146818rtc").unwrap().downcast().unwrap()
}

fn get(rtc: &Rtc, index: u8, now: i64) -> u8 {
    rtc.lock().index = index;
    rtc.read(now)
}

fn put(rtc: &Rtc, index: u8, value: u8, now: i64) {
    rtc.lock().index = index;
    rtc.write(value, now);
}

/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP: i64 = 1_709_251_198;

#[test]
fn time_reads_in_bcd_with_century() {
    let rtc = rtc();
    let read: Vec<u8> =
        [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY].map(|r| get(&rtc, r, LEAP)).to_vec();
    assert_eq!(read, [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58, 0x05]);
    assert_eq!((get(&rtc, REG_A, LEAP), get(&rtc, REG_D, LEAP)), (0x26, 0x80));
}

#[test]
fn twelve_hour_mode_marks_the_afternoon() {
    let rtc = rtc();
    put(&rtc, REG_B, MODE_BINARY, LEAP);
    assert_eq!(get(&rtc, HOURS, LEAP), 11 | PM);
    put(&rtc, HOURS, 12, LEAP);
    assert_eq!(get(&rtc, HOURS, LEAP), 12);
}

#[test]
fn a_time_that_the_guest_sets_goes_on_from_there() {
    let rtc = rtc();
    put(&rtc, REG_B, SET | MODE_24 | MODE_BINARY, LEAP);
    for (index, value) in
        [(YEAR, 99), (CENTURY, 19), (MONTH, 12), (DAY, 31), (HOURS, 23), (MINUTES, 59), (SECONDS, 59)]
    {
        put(&rtc, index, value, LEAP);
    }
    put(&rtc, REG_B, MODE_24 | MODE_BINARY, LEAP);
    let year = |now| u32::from(get(&rtc, CENTURY, now)) * 100 + u32::from(get(&rtc, YEAR, now));
    assert_eq!((year(LEAP), year(LEAP + 1)), (1999, 2000));
}

#[test]
fn dates_convert_both_ways_and_absurd_ones_do_not_panic() {
    for t in [0, 951_782_400, LEAP, 4_102_444_800, -1] {
        assert_eq!(Clock::from_unix(t).to_unix(), t);
    }
    let rtc = rtc();
    for index in 0..0x33 {
        put(&rtc, index, 0xff, LEAP);
    }
    for index in 0..0x80 {
        get(&rtc, index, LEAP);
    }
}

#[test]
fn ram_size_is_where_firmware_looks() {
    let rtc = rtc();
    rtc.set_memory_size(3 << 30, 1 << 30);
    let word = |at| u64::from(get(&rtc, at, 0)) | u64::from(get(&rtc, at + 1, 0)) << 8;
    assert_eq!(((word(0x34) << 16) + (16 << 20), word(0x5b) << 16, word(0x15)), (3 << 30, 1 << 30, 640));
}

/// A machine with a clock of that kind.
fn machine(clock: RtcClock, base: RtcBase) -> (crate::testing::Rig, Arc<Rtc>) {
    let rtc = crate::core::RtcConfig { clock, base, ..Default::default() };
    let config = crate::core::MachineConfig { rtc, ..crate::testing::config("pc") };
    let rig = crate::testing::Rig::build(config).unwrap();
    rig.machine.finish().unwrap();
    let rtc = rig.machine.tree().absolute("/machine/unattached/device[1]/rtc");
    let rtc = rtc.or_else(|| find(&rig.machine.object())).unwrap();
    (rig, rtc.downcast().unwrap())
}

fn find(object: &ObjectRef) -> Option<ObjectRef> {
    if object.core().class().name() == "mc146818rtc" {
        return Some(Arc::clone(object));
    }
    object.core().children().iter().find_map(|(_, child)| find(child))
}

#[test]
fn a_clock_on_the_move_goes_on_as_the_clock_it_goes_by() {
    use crate::testing::carry::carry;
    let time = |rtc: &Rtc| rtc.now() + rtc.lock().offset;
    // By the guest's time it stands on the way.
    let (source, from) = machine(RtcClock::Vm, RtcBase::Date(LEAP));
    source.machine.mainloop().virtual_clock().set_now(5_000_000_000);
    put(&from, 0x40, 0xa5, LEAP);
    put(&from, 0x41, 0x5a, LEAP);
    let (destination, to) = machine(RtcClock::Vm, RtcBase::Date(0));
    destination.machine.mainloop().virtual_clock().set_now(5_000_000_000);
    carry(&source.machine, &destination.machine);
    assert_eq!((time(&from), time(&to)), (LEAP + 5, LEAP + 5));
    assert_eq!(destination.read(0x71, 1), 0x5a, "index and memory");
    destination.machine.mainloop().virtual_clock().set_now(7_000_000_000);
    assert_eq!(time(&to), LEAP + 7);

    // By the host's it goes on.
    let (source, from) = machine(RtcClock::Host, RtcBase::Date(LEAP));
    let (destination, to) = machine(RtcClock::Host, RtcBase::Utc);
    carry(&source.machine, &destination.machine);
    assert_eq!(from.lock().offset, to.lock().offset);

    // From one kind to the other it is right when it arrives.
    let state = from.saved_state();
    let (_rig, other) = machine(RtcClock::Vm, RtcBase::Utc);
    other.load_state(state).unwrap();
    assert!((time(&other) - time(&from)).abs() <= 1);
    let state = other.saved_state();
    to.load_state(state).unwrap();
    assert!((time(&to) - time(&from)).abs() <= 2);
}

#[test]
fn a_time_that_is_being_set_is_set_there() {
    let (source, from) = machine(RtcClock::Vm, RtcBase::Date(LEAP));
    put(&from, REG_B, SET | MODE_24 | MODE_BINARY, 0);
    put(&from, MINUTES, 0x11, 0);
    let (destination, to) = machine(RtcClock::Vm, RtcBase::Date(0));
    crate::testing::carry::carry(&source.machine, &destination.machine);
    assert_eq!((get(&to, MINUTES, 77), get(&to, HOURS, 77)), (0x11, 23));
    put(&to, REG_B, MODE_24 | MODE_BINARY, 0);
    assert_eq!(to.lock().offset, LEAP - 42 * 60);
    crate::testing::carry::spoil(&destination.machine, "mc146818rtc");
}

#[test]
fn clocks_that_no_guest_could_have_set_are_refused() {
    let rtc = rtc();
    let refused = |change: fn(&mut migration::RtcState)| {
        let mut state = rtc.saved_state();
        change(&mut state);
        rtc.load_state(state).unwrap_err().to_string()
    };
    assert_eq!(refused(|state| state.cmos_index = 0x80), "mc146818rtc: there is no register 0x80");
    let far = "mc146818rtc: no clock can be so far off";
    assert_eq!(refused(|state| state.base_rtc = i64::MIN), far);
    assert_eq!(refused(|state| state.base_rtc = 1 << 41), far);
    let setting = |year| migration::SettingState { year, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
    put(&rtc, REG_B, SET, 0);
    let mut state = rtc.saved_state();
    state.setting = Some(setting(1 << 40));
    assert_eq!(
        rtc.load_state(state.clone()).unwrap_err().to_string(),
        "mc146818rtc: no such time can be set"
    );
    state.setting = Some(setting(2000));
    assert!(rtc.load_state(state.clone()).is_ok());
    state.cmos_data[usize::from(REG_B)] = 0;
    let both = "mc146818rtc: a time is set while the clock runs";
    assert_eq!(rtc.load_state(state).unwrap_err().to_string(), both);
}
