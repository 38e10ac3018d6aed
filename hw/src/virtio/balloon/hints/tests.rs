//! What the guest says under the number of now is left out until it is written; all else is sent.

use std::sync::Arc;

use memory::{DirtyBitmap, DirtyClient};

use super::*;
use crate::core::IoThread;
use crate::virtio::balloon::of;
use crate::virtio::balloon::tests::{rig_with_hints, wait_for};
use crate::virtio::testing::driver::{Driver, Piece};

const QUEUE: u16 = 3;
const PAGE: u64 = 4096;

#[test]
fn only_the_number_of_now_begins_and_what_comes_then_ends() {
    let mut hints = Hints::default();
    assert_eq!([FreePages::Stop, FreePages::Done].map(|step| hints.step(step)), [false, false]);
    assert_eq!((hints.command(), hints.saved_state()), (STOP, None), "nobody asked");
    assert!(hints.step(FreePages::Ask));
    assert_eq!(hints.command(), FIRST);
    for other in [FIRST - 1, FIRST + 1, STOP] {
        hints.named(other);
        assert_eq!(hints.phase, Phase::Asked);
    }
    hints.named(FIRST);
    assert_eq!((hints.phase, hints.command()), (Phase::Heard, STOP));
    hints.named(STOP);
    hints.named(FIRST);
    assert_eq!(hints.phase, Phase::Stopped, "once is enough");
    assert!(!hints.step(FreePages::Stop) && hints.step(FreePages::Ask));
    hints.named(FIRST);
    assert_eq!((hints.phase, hints.command()), (Phase::Asked, FIRST + 1));
    assert!(hints.step(FreePages::Done) && !hints.step(FreePages::Done));
    assert_eq!(hints.command(), DONE);
    hints.number = u32::MAX;
    assert!(hints.step(FreePages::Ask) && hints.step(FreePages::Ask));
    assert_eq!(hints.command(), FIRST + 1);
}

/// A driver that says what it is told to.
struct Guest {
    driver: Driver,
    thread: Arc<IoThread>,
    log: Arc<DirtyBitmap>,
}

impl Guest {
    fn ask(&mut self, step: FreePages) -> u32 {
        let machine = &self.driver.rig.machine;
        of(machine).unwrap().free_pages(step);
        self.driver.turn();
        self.driver.config(8, 4) as u32
    }

    fn put(&mut self, piece: Piece<'_>) -> u64 {
        let head = self.driver.offer(QUEUE, &[piece]);
        self.driver.ring(QUEUE);
        wait_for(&self.thread);
        assert!(self.driver.take(QUEUE).is_some());
        Driver::data(QUEUE, head)
    }

    fn name(&mut self, command: u32) {
        self.put(Piece::Out(&command.to_le_bytes()));
    }

    /// Gives two pages' worth of memory, which begins in a page or between two: where the first whole page of it is.
    fn give(&mut self) -> u64 {
        self.put(Piece::In(2 * PAGE as u32)).next_multiple_of(PAGE)
    }

    /// Whether the page at a guest address is to be sent, of RAM from 0.
    fn is_sent(&self, addr: u64) -> bool {
        self.log.is_dirty(addr)
    }
}

#[test]
fn hinted_pages_are_left_out_until_they_are_written() {
    let (rig, thread) = rig_with_hints("");
    let mut driver = Driver::with(rig);
    driver.start(feature::FREE_PAGE_HINT, 4);
    let machine = Arc::clone(&driver.rig.machine);
    let memory = machine.memory();
    memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    let block = {
        let view = machine.system_space().view();
        let found = view.lookup(Driver::data(QUEUE, 0)).unwrap();
        assert_eq!(found.addr, found.offset);
        Arc::clone(found.block().unwrap())
    };
    let log = block.dirty_log(DirtyClient::Migration).unwrap();
    memory.mark_all_dirty(DirtyClient::Migration, &block);
    let mut guest = Guest { driver, thread, log };

    let number = guest.ask(FreePages::Ask);
    assert_eq!((number, guest.driver.isr() & 2), (FIRST, 2));
    guest.name(number - 1);
    let page = guest.give();
    assert!(guest.is_sent(page), "under another number");
    guest.name(number);
    let page = guest.give();
    assert_eq!([0, 1, 2].map(|next| guest.is_sent(page + next * PAGE - PAGE)), [true, false, true]);
    guest.driver.set_ram(page, &[7]);
    assert!(guest.is_sent(page), "it was written");
    let page = guest.give();
    assert_eq!([0, 1].map(|next| guest.is_sent(page + next * PAGE)), [false, false]);

    assert_eq!(guest.ask(FreePages::Stop), STOP);
    memory.mark_all_dirty(DirtyClient::Migration, &block);
    let page = guest.give();
    assert!(guest.is_sent(page), "nobody listens");
    assert_eq!(guest.ask(FreePages::Ask), number + 1);
    guest.name(number);
    let page = guest.give();
    assert!(guest.is_sent(page), "of a time before");
    guest.name(number + 1);
    let page = guest.give();
    assert!(!guest.is_sent(page));
    guest.name(STOP);
    let page = guest.give();
    assert!(guest.is_sent(page), "after the end");

    // Where it arrives nobody asks, and the next who does has another number.
    assert_eq!(guest.ask(FreePages::Done), DONE);
    memory.stop_global_dirty_log(DirtyClient::Migration);
    let (to, thread) = rig_with_hints("");
    let Guest { driver, log, .. } = guest;
    let mut guest = Guest { driver: driver.carried(to), thread, log };
    assert_eq!(guest.driver.config(8, 4), u64::from(DONE));
    assert_eq!(guest.ask(FreePages::Ask), number + 2);
    guest.driver.start(0, 3);
    assert_eq!(guest.ask(FreePages::Ask), STOP, "a driver that knows nothing of it is not asked");
}
