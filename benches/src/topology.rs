//! What it costs to map and to unmap one memory slot of a device, by how much else is mapped, how many address spaces
//! look, and who listens.
//!
//! Each case maps `sections` unmergeable aliases of one block, as a memory device does, and then takes out and puts back
//! one at a time, anywhere among them. Each step is timed on its own, and its median says what it costs whatever else
//! the machine does. `then DMA` is the first look-up that a device makes in the new view.
//!
//! With `kvm` the address space has its memory slots in a real VM whose vCPU has run, halted, and is not woken: the
//! difference to `nobody` is what the kernel takes.

mod guest;
mod quiet;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memory::{
    AddressSpace, Memory, MemoryListener, MtreeOptions, RamSpec, RegionDesc, RegionId, SIZE_ALL, Section,
};
use vm_memory::{Bytes as _, GuestAddress};

use guest::Guest;

/// Bytes of an alias.
const PART: u64 = 2 << 20;
/// Where the device's container is.
const BASE: u64 = 0x1_4000_0000;
/// Times that each step is taken.
const STEPS: usize = 1000;

/// Counts what it is told.
#[derive(Default)]
struct Counter(AtomicU64);

impl MemoryListener for Counter {
    fn region_add(&self, _: &Section) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn region_del(&self, _: &Section) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who follows the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follower {
    Nobody,
    Counter,
    Kvm,
}

struct Stage {
    memory: Arc<Memory>,
    container: RegionId,
    parts: Vec<RegionId>,
    spaces: Vec<Arc<AddressSpace>>,
    counter: Arc<Counter>,
    guest: Option<Guest>,
}

impl Stage {
    /// Everything is mapped.
    ///
    /// `None`: there is no KVM.
    fn new(sections: usize, spaces: usize, follower: Follower) -> Option<Self> {
        let memory = Memory::new();
        let size = sections as u64 * PART;
        let spec = RamSpec { reserve: false, ..RamSpec::anonymous("mem0", size) };
        let block = memory.create_ram(spec).expect("the host has address space");
        let mut tx = memory.transaction();
        let system = tx.container(RegionDesc::new("system", SIZE_ALL));
        let container = tx.container(RegionDesc::new("virtio-mem", size.into()));
        let mem0 = tx.ram(RegionDesc::new("mem0", size.into()), block);
        tx.add_subregion(system, BASE, container, 0);
        let parts = (0..sections as u64).map(|index| {
            let part = tx.alias(RegionDesc::new(format!("memslot-{index}"), PART.into()), mem0, index * PART);
            tx.set_unmergeable(part, true);
            tx.add_subregion(container, index * PART, part, 0);
            part
        });
        let parts = parts.collect();
        // Devices see the system through an alias of their own.
        let spaces: Vec<_> = (0..spaces)
            .map(|index| {
                let mut root = system;
                if index > 0 {
                    let master = tx.alias(RegionDesc::new("bus master", SIZE_ALL), system, 0);
                    root = tx.container(RegionDesc::new("bus master container", SIZE_ALL));
                    tx.add_subregion(root, 0, master, 0);
                }
                tx.address_space(format!("space{index}"), root)
            })
            .collect();
        drop(tx);
        let counter = Arc::new(Counter::default());
        if follower == Follower::Counter {
            spaces.iter().for_each(|space| memory.add_listener(space, counter.clone()));
        }
        let guest = match follower {
            Follower::Kvm => Some(Guest::new(&memory, system, &spaces[0])?),
            _ => None,
        };
        Some(Self { memory, container, parts, spaces, counter, guest })
    }

    fn unmap(&self, index: usize) {
        self.memory.transaction().del_subregion(self.container, self.parts[index]);
    }

    fn map(&self, index: usize) {
        self.memory.transaction().add_subregion(self.container, index as u64 * PART, self.parts[index], 0);
    }

    /// What a device does with a view it has not seen: here it reads the first bytes of a part.
    fn dma(&self, index: usize) {
        let view = self.spaces[0].view();
        let address = GuestAddress(BASE + index as u64 * PART);
        black_box(view.guest_memory().read_obj::<u64>(address).expect("that is mapped"));
    }

    /// Listeners were told of each step once, nothing else.
    fn check(&self) {
        let told = self.counter.0.load(Ordering::Relaxed);
        let all = (self.parts.len() + 2 * STEPS) * self.spaces.len();
        assert!(told == 0 || told == all as u64, "{told} calls, not {all}");
        if let Some(guest) = &self.guest {
            // RAM and ROM of the guest besides.
            assert_eq!(guest.slot_changes(), (self.parts.len() + 2 + 2 * STEPS) as u64);
        }
    }
}

/// Median and 90th percentile in microseconds.
fn figures(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 10].as_secs_f64() * 1e6;
    format!("{:8.1}{:8.1}", at(5), at(9))
}

fn timed(step: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    step();
    begin.elapsed()
}

fn case(sections: usize, spaces: usize, follower: Follower) {
    let Some(stage) = Stage::new(sections, spaces, follower) else {
        println!("  {sections:8}{spaces:8}  no KVM");
        return;
    };
    // The host's first page faults are not what is measured.
    (0..sections).for_each(|index| stage.dma(index));
    let (mut unmap, mut map, mut dma) = (Vec::new(), Vec::new(), Vec::new());
    // Full period: every part is reached, in no order that a cache could guess.
    let mut index = 0;
    for _ in 0..STEPS {
        index = (index * 5 + 7) % sections;
        unmap.push(timed(|| stage.unmap(index)));
        map.push(timed(|| stage.map(index)));
        dma.push(timed(|| stage.dma(index)));
    }
    stage.check();
    println!(
        "  {sections:8}{spaces:8}  {:10}{}{}{}",
        format!("{follower:?}").to_lowercase(),
        figures(&mut map),
        figures(&mut unmap),
        figures(&mut dma)
    );
}

/// `info mtree` with many sections.
fn text(sections: usize) {
    let Some(stage) = Stage::new(sections, 8, Follower::Counter) else { return };
    for (name, options) in [
        ("info mtree", MtreeOptions::default()),
        ("info mtree -o", MtreeOptions { owner: true, ..MtreeOptions::default() }),
        ("info mtree -f", MtreeOptions { flatview: true, ..MtreeOptions::default() }),
    ] {
        let mut times: Vec<_> =
            (0..50).map(|_| timed(|| drop(black_box(stage.memory.mtree_text(options))))).collect();
        println!("  {name:26}{}", figures(&mut times));
    }
}

fn main() {
    println!("\none part unmapped and mapped among many, µs of {STEPS} steps: median and 90 %");
    println!(
        "  {:>8}{:>8}  {:10}{:>8}{:8}{:>8}{:8}{:>8}",
        "sections", "spaces", "follower", "map", "", "unmap", "", "then DMA"
    );
    for sections in [256, 1024, 2048] {
        for spaces in [1, 8] {
            for follower in [Follower::Nobody, Follower::Counter, Follower::Kvm] {
                case(sections, spaces, follower);
            }
        }
    }
    println!("\ntext of 2048 sections, µs: median and 90 %");
    text(2048);
}
