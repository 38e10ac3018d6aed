//! Claims about the clock's registers.

use super::*;

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
