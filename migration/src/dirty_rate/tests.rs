//! Measurements of memory that a test writes, and what is refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use memory::{DiscardManager, RamSpec, RegionDesc};

use super::*;

/// vCPUs with rings, of which the second writes as much as a test says.
struct Vcpus {
    ring: u32,
    pages: AtomicU64,
}

impl VcpuWrites for Vcpus {
    fn indices(&self) -> Vec<u32> {
        vec![0, 1]
    }

    fn ring_size(&self) -> u32 {
        self.ring
    }

    fn pages(&self, cpu: u32) -> u64 {
        if cpu == 1 { self.pages.load(Ordering::Relaxed) } else { 0 }
    }

    fn limit(&self, _cpu: u32, _limit: Option<u64>) {}

    fn pace(&self) {}
}

fn rings(ring: u32) -> Arc<Vcpus> {
    Arc::new(Vcpus { ring, pages: AtomicU64::new(7) })
}

fn refusal(
    rate: &DirtyRate,
    time: i64,
    unit: Option<TimeUnit>,
    samples: Option<i64>,
    mode: Option<Mode>,
) -> String {
    rate.start(time, unit, samples, mode).unwrap_err().desc().to_owned()
}

/// The measurement's end.
fn measured(rate: &DirtyRate) -> DirtyRateInfo {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let info = rate.info(Some(TimeUnit::Millisecond));
        if info.status != DirtyRateStatus::Measuring {
            assert_eq!(info.status, DirtyRateStatus::Measured);
            return info;
        }
        assert!(Instant::now() < end, "it ends");
        thread::yield_now();
    }
}

/// Measures until something was found: on a busy host the threads that write may not have had a turn.
fn found(mut measure: impl FnMut() -> DirtyRateInfo) -> DirtyRateInfo {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let info = measure();
        if info.dirty_rate != Some(0) {
            return info;
        }
        assert!(Instant::now() < end, "nothing is found of what is written: {info:?}");
    }
}

#[test]
fn what_is_out_of_range_or_not_there_is_refused_with_qemus_texts() {
    let without = DirtyRate::new(Memory::new(), None);
    let with = DirtyRate::new(Memory::new(), Some(rings(4096)));
    let none = DirtyRate::new(Memory::new(), Some(rings(0)));
    let time = "Calculation time is out of range [50ms, 60000ms].";
    for (value, unit) in [
        (0, None),
        (61, Some(TimeUnit::Second)),
        (-5, None),
        (i64::MAX, None),
        (49, Some(TimeUnit::Millisecond)),
        (60_001, Some(TimeUnit::Millisecond)),
    ] {
        assert_eq!(refusal(&without, value, unit, None, None), time, "{value}");
    }
    for pages in [-1, 0, 127, 16385] {
        let text = "sample-pages is out of range[128, 16384].";
        assert_eq!(refusal(&without, 1, None, Some(pages), None), text, "{pages}");
    }
    let text = "sample-pages is used only in page-sampling mode";
    assert_eq!(refusal(&without, 1, None, Some(512), Some(Mode::DirtyBitmap)), text);
    let text = "mode dirty-ring is not enabled, use other method instead.";
    assert_eq!(refusal(&without, 1, None, None, Some(Mode::DirtyRing)), text);
    assert_eq!(refusal(&none, 1, None, None, Some(Mode::DirtyRing)), text);
    let text = "mode dirty-bitmap is not enabled, use other method instead.";
    assert_eq!(refusal(&with, 1, None, None, Some(Mode::DirtyBitmap)), text);
    let info = without.info(None);
    assert_eq!((info.status, info.mode), (DirtyRateStatus::Unstarted, Mode::PageSampling));
    assert_eq!((info.sample_pages, info.start_time, info.calc_time, info.dirty_rate), (0, 0, 0, None));
    without.start(60, None, None, None).unwrap();
    assert_eq!(refusal(&without, 0, None, None, None), "the dirty rate is already being measured.");
    let info = without.info(None);
    assert_eq!((info.status, info.calc_time, info.sample_pages), (DirtyRateStatus::Measuring, 60, 512));
    assert!(info.start_time > 0 && info.dirty_rate.is_none());
}

#[test]
fn the_log_counts_pages_that_are_written_while_it_is_measured() {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("ram", 64 * MIB)).unwrap();
    let rate = DirtyRate::new(Arc::clone(&memory), None);
    let info = found(|| {
        rate.start(400, Some(TimeUnit::Millisecond), None, Some(Mode::DirtyBitmap)).unwrap();
        // Marks that were there when it began are thrown away.
        while rate.info(None).status == DirtyRateStatus::Measuring {
            for at in (0..block.size()).step_by(PAGE as usize) {
                block.write(at, &[1]).unwrap();
            }
        }
        measured(&rate)
    });
    // 64 MiB in 0.4 s and however long the thread waits for its turn.
    let found = info.dirty_rate.unwrap();
    assert!((1..=160).contains(&found), "{found}");
    assert_eq!((info.sample_pages, info.calc_time, info.vcpu_dirty_rate), (0, 400, None));
    assert!(block.dirty_log(CLIENT).is_none(), "the log has ended");
}

#[test]
fn samples_find_the_share_of_pages_that_changed() {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("ram", 128 * MIB)).unwrap();
    let small = memory.create_ram(RamSpec::anonymous("small", 64 * MIB)).unwrap();
    let rate = DirtyRate::new(Arc::clone(&memory), None);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 0u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1).max(1);
                for at in (0..block.size()).step_by(PAGE as usize) {
                    block.write(at, &[value]).unwrap();
                }
            }
        });
        let info = found(|| {
            rate.start(500, Some(TimeUnit::Millisecond), Some(16384), None).unwrap();
            measured(&rate)
        });
        stop.store(true, Ordering::Relaxed);
        let found = info.dirty_rate.unwrap();
        assert!((1..=256).contains(&found), "{found}");
        assert!(info.calc_time >= 500 && info.sample_pages == 16384);
    });
    small.write(0, &[1]).unwrap();
    rate.start(50, Some(TimeUnit::Millisecond), None, None).unwrap();
    assert_eq!(measured(&rate).dirty_rate, Some(0), "nobody writes now");
}

#[test]
fn of_sparse_memory_samples_are_what_is_populated_and_nothing_becomes_resident() {
    let memory = Memory::new();
    let size = 4 << 30;
    let spec = RamSpec { reserve: false, ..RamSpec::anonymous("mem0", size) };
    let block = memory.create_ram(spec).unwrap();
    let manager = Arc::new(DiscardManager::new(size, 2 * MIB));
    let mut tx = memory.transaction();
    let region = tx.ram(RegionDesc::new("mem0", size.into()), Arc::clone(&block));
    tx.set_discard_manager(region, Some(Arc::clone(&manager))).unwrap();
    tx.commit();
    assert!(sample(&block, 16384).is_none());
    manager.populate(2 * MIB..66 * MIB).unwrap();
    manager.populate(1 << 30..(1 << 30) + 64 * MIB).unwrap();
    let found = sample(&block, 16384).unwrap();
    assert_eq!((found.pages.len(), found.bytes), (2048, 128 * MIB));
    let mut both = [false; 2];
    for (at, _) in found.pages {
        let granule = at / (2 * MIB) * 2 * MIB;
        assert!(manager.is_populated(granule..granule + 2 * MIB), "{at:#x}");
        both[usize::from(at >= 1 << 30)] = true;
    }
    assert_eq!(both, [true; 2]);
    assert_eq!(block.reader().next_data(0..size), size..size);
}

#[test]
fn rings_tell_of_each_vcpu() {
    let (memory, vcpus) = (Memory::new(), rings(4096));
    let block = memory.create_ram(RamSpec::anonymous("ram", MIB)).unwrap();
    let rate = DirtyRate::new(Arc::clone(&memory), Some(Arc::<Vcpus>::clone(&vcpus)));
    rate.start(500, Some(TimeUnit::Millisecond), None, Some(Mode::DirtyRing)).unwrap();
    while block.dirty_log(CLIENT).is_none() {
        thread::yield_now();
    }
    // The thread may not have looked for the first time yet.
    let written = 100 * 256;
    while rate.info(None).status == DirtyRateStatus::Measuring {
        vcpus.pages.fetch_add(written, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
    }
    let info = measured(&rate);
    let found: Vec<_> = info.vcpu_dirty_rate.unwrap().iter().map(|vcpu| (vcpu.id, vcpu.dirty_rate)).collect();
    assert_eq!((found[0], found[1].0), ((0, 0), 1));
    assert!((100..=2000).contains(&found[1].1), "{found:?}");
    assert_eq!(info.dirty_rate, Some(found[1].1));
}

#[test]
fn the_end_of_the_program_ends_a_measurement() {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("ram", MIB)).unwrap();
    let rate = DirtyRate::new(Arc::clone(&memory), None);
    rate.start(60, None, None, Some(Mode::DirtyBitmap)).unwrap();
    while block.dirty_log(CLIENT).is_none() {
        thread::yield_now();
    }
    rate.end();
    while rate.info(None).status == DirtyRateStatus::Measuring {
        thread::yield_now();
    }
    assert!(block.dirty_log(CLIENT).is_none());
}
