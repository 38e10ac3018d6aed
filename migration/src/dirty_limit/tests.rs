//! Limits of vCPUs that a test plays.

use std::sync::atomic::{AtomicU64, Ordering};

use memory::RamSpec;

use super::*;

#[derive(Default)]
struct Vcpus {
    ring: u32,
    pages: AtomicU64,
    limits: Mutex<BTreeMap<u32, u64>>,
    paced: AtomicU64,
}

impl VcpuWrites for Vcpus {
    fn indices(&self) -> Vec<u32> {
        vec![0, 1]
    }

    fn ring_size(&self) -> u32 {
        self.ring
    }

    fn pages(&self, cpu: u32) -> u64 {
        if cpu == 0 { self.pages.load(Ordering::Relaxed) } else { 0 }
    }

    fn limit(&self, cpu: u32, limit: Option<u64>) {
        let mut limits = self.limits.lock().unwrap();
        match limit {
            Some(limit) => _ = limits.insert(cpu, limit),
            None => _ = limits.remove(&cpu),
        }
    }

    fn pace(&self) {
        self.paced.fetch_add(1, Ordering::Relaxed);
        // 10 MiB a beat.
        self.pages.fetch_add(2560, Ordering::Relaxed);
    }
}

fn limits(vcpus: &Vcpus) -> Vec<(u32, u64)> {
    vcpus.limits.lock().unwrap().iter().map(|(cpu, limit)| (*cpu, *limit)).collect()
}

#[test]
fn without_rings_there_are_no_limits() {
    for vcpus in [None, Some(Arc::new(Vcpus::default()) as Arc<dyn VcpuWrites>)] {
        let limit = DirtyLimit::new(Memory::new(), vcpus);
        assert_eq!(
            limit.set(Some(9), 5).unwrap_err().desc(),
            "dirty page limit feature requires KVM with accelerator property 'dirty-ring-size' set'"
        );
        limit.cancel(None).unwrap();
        limit.cancel(Some(9)).unwrap();
        assert_eq!(limit.info(), []);
    }
}

#[test]
fn limits_are_set_told_and_taken_and_memory_is_logged_meanwhile() {
    let (memory, vcpus) = (Memory::new(), Arc::new(Vcpus { ring: 4096, ..Vcpus::default() }));
    let block = memory.create_ram(RamSpec::anonymous("ram", MIB)).unwrap();
    let limit = DirtyLimit::new(Arc::clone(&memory), Some(Arc::<Vcpus>::clone(&vcpus)));
    for cpu in [-1, 2, i64::MAX] {
        assert_eq!(limit.set(Some(cpu), 5).unwrap_err().desc(), "incorrect cpu index specified");
        assert_eq!(limit.cancel(Some(cpu)).unwrap_err().desc(), "incorrect cpu index specified");
    }
    limit.cancel(None).unwrap();
    limit.set(None, 0).unwrap();
    assert!(block.dirty_log(CLIENT).is_none() && limit.info().is_empty());
    limit.set(None, 5).unwrap();
    limit.set(Some(1), u64::MAX).unwrap();
    assert!(block.dirty_log(CLIENT).is_some());
    assert_eq!(limits(&vcpus), [(0, 5 * MIB), (1, u64::MAX)]);
    block.write(0, &[1]).unwrap();
    // A second later the rates are there.
    let end = Instant::now() + Duration::from_secs(20);
    while limit.info()[0].current_rate == 0 {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
    let told: Vec<_> = limit.info().iter().map(|info| (info.cpu_index, info.limit_rate)).collect();
    assert_eq!(told, [(0, 5), (1, u64::MAX)]);
    assert!((1..=100).contains(&limit.info()[0].current_rate) && limit.info()[1].current_rate == 0);
    assert!(vcpus.paced.load(Ordering::Relaxed) >= 10);
    limit.cancel(Some(0)).unwrap();
    limit.set(Some(0), 0).unwrap();
    assert_eq!(limits(&vcpus), [(1, u64::MAX)]);
    assert!(block.dirty_log(CLIENT).is_some());
    limit.cancel(None).unwrap();
    assert!(block.dirty_log(CLIENT).is_none() && limits(&vcpus).is_empty() && limit.info().is_empty());
    // And again.
    limit.set(Some(1), 9).unwrap();
    assert_eq!(limit.info().len(), 1);
    limit.end();
}
