//! Slots that are made after the guest was told that its memory is there.
//!
//! Under shadow paging the kernel allocates 2.5 MiB of bookkeeping for a slot of 1 GiB, seconds' worth for one of a tebibyte. A guest that
//! plugs memory does not wait for that: the first block of a section only *puts off* the section's slot. A thread of its own makes
//! such slots one after the other; whoever needs one earlier makes it himself or waits for who does:
//!
//! - a vCPU that touches the memory: without a slot that is an exit, whose access takes a pin of the block, which settles
//!   the section first (`memory`: `discard_manager/put_off.rs`). The kernel completes the instruction with the slot in place, so that
//!   locked instructions are atomic;
//! - a vCPU whose instruction the kernel cannot emulate (a vector register, a fetch from there): while something is put off, such failures
//!   come to us ([`SystemListener::retry_emulation`]), and the instruction is tried again once nothing is;
//! - this program's own accesses, by the pin.
//!
//! A machine that a guest is to arrive in has the slots of its empty sections made ahead ([`SystemListener::get_ahead`]): memory that comes is
//! written by us, and would wait.
//!
//! Only memory that was discarded before is put off: nobody but the guest could have left anything there that the kernel reads by
//! itself, such as page tables.
//!
//! A section's slot is made without the lock on [`Slots`]; meanwhile the section is [`Later::Making`], and who wants to change its slots
//! waits ([`SystemListener::settled`]).
//!
//! Left out: what the guest has the kernel write by itself into memory that it never touched (paravirtual clock, end of interrupt, before the
//! slot is there): the kernel looks again later, or refuses the register write.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{MutexGuard, PoisonError, Weak};
use std::thread;

use kvm_bindings::{KVM_CAP_EXIT_ON_EMULATION_FAILURE, kvm_enable_cap};

use super::listener::{Ioctls, Mapped, Slots, SystemListener};
use super::slots::SlotIoctls;

/// Whether a section's slot is still to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Later {
    #[default]
    No,
    /// Put off.
    Waiting,
    /// Somebody makes it, without the lock.
    Making,
}

/// Books of what is put off, inside [`Slots`].
#[derive(Default)]
pub(super) struct Queue {
    /// Sections that are not [`Later::No`].
    sections: usize,
    /// To the thread, once there is one.
    worker: Option<Sender<u64>>,
    /// Batches of topology changes under way. The thread lets them pass: they may take away what it would make.
    batches: usize,
}

impl Slots {
    fn later(&mut self, addr: u64) -> Option<&mut Later> {
        self.follow(addr).map(|follow| &mut follow.later)
    }
}

impl SystemListener {
    /// The slots, while nobody makes the one of the section at `addr`.
    pub(super) fn settled(&self, addr: u64) -> MutexGuard<'_, Slots> {
        self.wait_while(|slots| slots.later(addr).is_some_and(|later| *later == Later::Making))
    }

    /// The slots, once `busy` is over.
    fn wait_while(&self, busy: impl FnMut(&mut Slots) -> bool) -> MutexGuard<'_, Slots> {
        self.made.wait_while(self.slots(), busy).unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch of topology changes begins: the thread begins with no further section.
    pub(super) fn begin_batch(&self) {
        self.slots().queue.batches += 1;
    }

    /// The batch has ended.
    pub(super) fn end_batch(&self) {
        self.slots().queue.batches -= 1;
        self.made.notify_all();
    }

    /// Puts the slot of the section at `addr` off. Gives whether that could be done.
    pub(super) fn put_off(&self, slots: &mut Slots, addr: u64) -> bool {
        let Some(worker) = self.worker(slots) else { return false };
        if slots.queue.sections == 0 && !self.begin() {
            return false;
        }
        slots.queue.sections += 1;
        trace::emit!(pliant_kvm_slot_put_off, addr);
        if let Some(later) = slots.later(addr) {
            *later = Later::Waiting;
        }
        // The thread ends after this listener.
        let _ = worker.send(addr);
        true
    }

    /// Has the slots of sections made of which nothing is plugged yet, but which would keep them, since what is plugged elsewhere is about to
    /// arrive. Does not wait for it.
    pub(crate) fn get_ahead(&self) {
        let mut slots = self.slots();
        let waits = |entry: &Mapped| {
            let follow = entry.follow.as_ref();
            entry.parts.is_empty() && follow.is_some_and(|f| f.keep && f.later == Later::No)
        };
        let waiting: Vec<u64> =
            slots.mapped.iter().filter(|(_, entry)| waits(entry)).map(|(addr, _)| *addr).collect();
        for addr in waiting {
            // What cannot be put off is made when it is needed.
            self.put_off(&mut slots, addr);
        }
    }

    /// The section at `addr` needs no slot any more, or gets one from the caller. Nobody makes it.
    pub(super) fn call_off(&self, slots: &mut Slots, addr: u64) {
        if let Some(later) = slots.later(addr)
            && std::mem::take(later) != Later::No
        {
            slots.queue.sections -= 1;
            if slots.queue.sections == 0 {
                self.end();
            }
        }
    }

    /// Has the section at `addr` get the slot that was put off, if one was.
    pub(super) fn settle_section(&self, addr: u64) {
        let mut slots = self.settled(addr);
        let Some(later) = slots.later(addr).filter(|later| **later == Later::Waiting) else { return };
        *later = Later::Making;
        let booked = slots.book(addr);
        drop(slots);
        let made = booked.iter().take_while(|slot| match Ioctls(&self.vm).set(slot) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, ?slot, "cannot set a memory slot");
                false
            }
        });
        let made = made.count();
        let mut slots = self.slots();
        booked[made..].iter().for_each(|slot| slots.table.forget(slot));
        self.call_off(&mut slots, addr);
        drop(slots);
        self.made.notify_all();
    }

    /// What to do about an instruction that the kernel could not emulate in a `KVM_RUN` before which
    /// [`put_offs`](Self::put_offs) was `before`: whether it is to be tried again, all slots being there now.
    pub(super) fn retry_emulation(&self, before: u64) -> bool {
        if before.is_multiple_of(2) && self.put_offs() == before {
            return false;
        }
        let waiting: Vec<u64> = {
            let slots = self.slots();
            let later = |follow: &super::follow::Follow| follow.later != Later::No;
            let waiting = slots.mapped.iter().filter(|(_, entry)| entry.follow.as_ref().is_some_and(later));
            waiting.map(|(addr, _)| *addr).collect()
        };
        waiting.into_iter().for_each(|addr| self.settle_section(addr));
        true
    }

    /// How often something began or ceased to be put off: odd while something is.
    pub(super) fn put_offs(&self) -> u64 {
        self.put_offs.load(Ordering::SeqCst)
    }

    /// From now on something is put off. Gives whether the kernel can be had to tell what it cannot emulate.
    fn begin(&self) -> bool {
        if let Err(error) = self.tell_failed_emulation(true) {
            trace::emit!(pliant_kvm_put_off_unsupported, &error);
            return false;
        }
        self.put_offs.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Nothing is put off any more: the guest is to see failures as it would without us. A vCPU may still be about to fail because
    /// of a slot that was not there, so each leaves the guest before.
    fn end(&self) {
        let _closed = self.gate.close();
        if let Err(error) = self.tell_failed_emulation(false) {
            tracing::warn!(%error, "instructions that KVM cannot emulate stop the guest");
        }
        self.put_offs.fetch_add(1, Ordering::SeqCst);
    }

    /// By itself the kernel injects #UD into a guest's user mode.
    fn tell_failed_emulation(&self, tell: bool) -> io::Result<()> {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE, ..Default::default() };
        cap.args[0] = u64::from(tell);
        self.vm.enable_cap(&cap).map_err(super::os_error)
    }

    /// The way to the thread, which is started when it is needed first.
    fn worker(&self, slots: &mut Slots) -> Option<Sender<u64>> {
        if slots.queue.worker.is_none() {
            let (sender, queue) = mpsc::channel();
            let listener = Weak::clone(&self.this);
            let thread =
                thread::Builder::new().name("slots/KVM".into()).spawn(move || work(&listener, &queue));
            match thread {
                Ok(_) => slots.queue.worker = Some(sender),
                Err(error) => tracing::warn!(%error, "memory slots are not put off"),
            }
        }
        slots.queue.worker.clone()
    }
}

#[cfg(test)]
impl SystemListener {
    /// Has nobody make what is put off: that is left in the queue.
    pub(super) fn without_worker(&self) -> Receiver<u64> {
        let (sender, queue) = mpsc::channel();
        self.slots().queue.worker = Some(sender);
        queue
    }

    /// Waits until nothing is put off.
    pub(super) fn await_settled(&self) {
        drop(self.wait_while(|slots| slots.queue.sections > 0));
    }
}

fn work(listener: &Weak<SystemListener>, queue: &Receiver<u64>) {
    for addr in queue {
        let Some(listener) = listener.upgrade() else { return };
        drop(listener.wait_while(|slots| slots.queue.batches > 0));
        listener.settle_section(addr);
        let followed = listener.slots().mapped.get(&addr).and_then(Mapped::followed);
        // So that it stops asking.
        if let Some((manager, range)) = followed {
            manager.settle(range);
        }
    }
}
