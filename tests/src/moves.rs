//! A guest on KVM that writes all the time goes from process to process, and its two memory devices are resized before, during and after
//! each move. After each it verifies all that it ever wrote, and no process may have kept anything.
//!
//! The test suite has a few moves of a small guest; the program `moves` has as many and as large ones as it is told to.

use std::fmt;
use std::time::Instant;

use serde_json::{Value, json};

use crate::holds::memory;
use crate::{Holds, Vm, VmBuilder};

const M: u64 = 1 << 20;
/// RAM beside the devices; the guest writes to most of it.
const BASE: u64 = 128 * M;
const BLOCK: u64 = 2 * M;
/// Capabilities of the moves, by turns.
const FORMS: [&[&str]; 4] = [&[], &["multifd"], &["return-path"], &["auto-converge"]];
/// Bytes a second until the devices were resized on the way: less than the guest has.
const SLOW: u64 = 16 * M;
/// Passes over memory before the guest is stopped, unless it writes so little that fewer are enough.
const PASSES: u64 = 3;
/// Milliseconds in which what is left then can be sent, however much it is.
const LONG: u64 = 600_000;
/// What the heap of a process may grow by, and what it may take beyond the guest's memory.
const HEAP: u64 = 8 * M;
const OWN: u64 = 32 * M;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many moves.
    pub moves: u32,
    /// Bytes that are plugged between the moves, half of them in each device: a multiple of 64 MiB.
    pub plugged: u64,
    /// Bytes that the guest writes in a second, if it can.
    pub rate: u64,
}

/// One move.
#[derive(Debug, Clone)]
pub struct Hop {
    /// Which, from 0 on.
    pub number: u32,
    /// Its capabilities.
    pub form: &'static [&'static str],
    /// Milliseconds from the command to the end, the guest's waiting for the resize included.
    pub total: f64,
    /// Milliseconds from the source's STOP to the destination's RESUME.
    pub downtime: f64,
    /// Passes over memory.
    pub passes: u64,
    /// Bytes that the guest wrote, and seconds that it had for it.
    pub written: (u64, f64),
    /// What the process at the destination holds at the end.
    pub holds: Holds,
    /// Bytes of anonymous memory at the destination beyond what is plugged.
    pub beyond: u64,
    /// Bytes that the source's data grew by in attempts that came to nothing.
    pub grown: i64,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, seconds) = self.written;
        write!(
            f,
            "{:4} {:14} {:8.0} ms, down {:7.1} ms, {:2} passes, wrote {:5.0} MiB/s, {} fds, {} threads, {:6.1} MiB beyond plugged, source {:+} KiB",
            self.number,
            self.form.join(","),
            self.total,
            self.downtime,
            self.passes,
            bytes as f64 / M as f64 / seconds,
            self.holds.descriptors,
            self.holds.threads,
            self.beyond as f64 / M as f64,
            self.grown / 1024,
        )
    }
}

/// The guest, wherever it is.
struct Guest {
    vm: Vm,
    plan: Plan,
    /// When it began to write what it counts, without the time that it verified in.
    since: Instant,
}

impl Plan {
    fn machine(&self) -> VmBuilder {
        let size = 2 * self.plugged;
        let device = |n: u32| {
            format!(
                "-object memory-backend-ram,id=mem{n},size={size},reserve=off \
                 -device virtio-mem-pci,id=vm{n},memdev=mem{n},bus=port{n}"
            )
        };
        Vm::new()
            .accel("kvm")
            .line(&format!("-machine q35 -m {}M,maxmem={}M -smp 2", BASE / M, (BASE + 2 * size) / M))
            .line("-device pcie-root-port,id=port0,chassis=1 -device pcie-root-port,id=port1,chassis=2")
            .line(&device(0))
            .line(&device(1))
            .line("-append touch=all")
            .qmp()
            .serial()
    }

    /// Bytes of each device, with `more` 32ths in the first that the second has less.
    fn sizes(&self, more: i64) -> [u64; 2] {
        let half = self.plugged / 2;
        let part = (half / 32).next_multiple_of(BLOCK) as i64;
        [more, -more].map(|sign| half.wrapping_add_signed(sign * part))
    }

    /// What the guest is told to write to: all it has.
    fn dirtied(&self) -> u64 {
        2 * BASE + 2 * self.plugged
    }
}

impl Guest {
    /// Types a command and reads to the line with `last`.
    fn says(&mut self, command: &str, last: &str) -> String {
        self.vm.serial().send(format!("{command}\r").as_bytes()).expect("the guest listens");
        let said = self.vm.serial().until(last).expect("the guest answers");
        said + &self.vm.serial().until("\n").expect("a whole line")
    }

    /// Asks for sizes that differ from the present ones.
    fn request(&mut self, sizes: [u64; 2]) {
        for (n, size) in sizes.into_iter().enumerate() {
            self.vm.qmp().qom_set(&format!("vm{n}"), "requested-size", json!(size));
        }
    }

    /// Waits until it says that it has them.
    fn reaches(&mut self, sizes: [u64; 2]) {
        let texts = sizes.map(|size| format!("plugged {size} of {size} requested"));
        let all = |got: &[u8]| {
            let said = String::from_utf8_lossy(got);
            let enough = |text: &String| {
                said.matches(text.as_str()).count() >= texts.iter().filter(|t| *t == text).count()
            };
            texts.iter().all(enough).then_some(got.len())
        };
        let said = self.vm.serial().take("the guest to reach the sizes", all).expect("the guest follows");
        // Memory is verified before it is given back.
        assert!(!String::from_utf8_lossy(&said).contains("MISMATCH"), "{}", String::from_utf8_lossy(&said));
    }

    fn resize(&mut self, sizes: [u64; 2]) {
        self.request(sizes);
        self.reaches(sizes);
    }

    /// All that it wrote is there.
    fn checks(&mut self) {
        let begun = Instant::now();
        let said = self.says("check", "never written");
        assert!(said.contains("check: ok: ") && said.contains(" 0 never written, 0 words differ"), "{said}");
        assert!(!said.contains("MISMATCH"), "{said}");
        // It does not write meanwhile.
        self.since += begun.elapsed();
    }

    fn write_on(&mut self) {
        let Plan { rate, .. } = self.plan;
        self.says(&format!("dirty {} {rate}", self.plan.dirtied()), "bytes a second");
        self.since = Instant::now();
    }

    /// Ends the writing: bytes and seconds.
    fn written(&mut self) -> (u64, f64) {
        let seconds = self.since.elapsed().as_secs_f64();
        let said = self.says("dirty 0 0", "dirty: off");
        let bytes = said.split("stopped after ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        (bytes.unwrap_or_else(|| panic!("{said}")), seconds)
    }

    /// Until it has written to all of its RAM, so that no page is new later on.
    fn fills_ram(&mut self) {
        let told = self.says(&format!("dirty {} {}", self.plan.dirtied(), u64::MAX >> 8), "bytes a second");
        let base =
            told.split('(').nth(1).and_then(|rest| rest.split(' ').next()).expect("a number").to_owned();
        while !self.says("check", "never written").contains(&format!("check: {base} bytes of dirtied ram")) {}
        self.written();
    }

    /// Attempts that come to nothing: the process holds what it held, and its data has not grown. By how much it has.
    fn attempts(&mut self) -> i64 {
        let vm = &mut self.vm;
        // Twice, as stacks of threads that ended are kept for others.
        attempt(vm);
        attempt(vm);
        let (holds, before) = (Holds::of(vm), memory(vm, "VmData"));
        for _ in 0..2 {
            attempt(vm);
        }
        holds.are_not_exceeded(vm);
        let grown = memory(vm, "VmData").cast_signed() - before.cast_signed();
        assert!(grown <= HEAP.cast_signed(), "grown by {grown} bytes");
        grown
    }

    /// Moves to another process, and asks for other sizes on the way.
    fn hop(&mut self, number: u32) -> Hop {
        let form = FORMS[number as usize % FORMS.len()];
        let sign = if number.is_multiple_of(2) { 1 } else { -1 };
        self.write_on();
        self.resize(self.plan.sizes(sign));
        let grown = self.attempts();
        let mut there = self.plan.machine().line("-incoming defer").start();
        for vm in [&mut self.vm, &mut there] {
            switch(vm, &["events"], true);
            switch(vm, form, true);
            set(vm, json!({ "multifd-channels": 4 }));
        }
        let uri = format!("unix:{}", there.scratch().join("incoming").display());
        there.qmp().ok("migrate-incoming", json!({ "uri": uri }));
        let (before, source) = (Holds::of(&self.vm), &mut self.vm);
        source.qmp().events();
        set(source, json!({ "max-bandwidth": SLOW, "downtime-limit": 0 }));
        let begun = Instant::now();
        source.qmp().ok("migrate", json!({ "uri": uri }));
        reached(source, "active");
        self.request(self.plan.sizes(-2 * sign));
        let source = &mut self.vm;
        set(source, json!({ "max-bandwidth": 0 }));
        let is_stop = |event: &Value| event["event"] == "STOP";
        let enough = |event: &Value| {
            event["event"] == "MIGRATION_PASS" && event["data"]["pass"].as_u64() >= Some(PASSES)
        };
        let event = until(source, "of a pass", |event| enough(event) || is_stop(event));
        let stop = if is_stop(&event) {
            event
        } else {
            set(source, json!({ "downtime-limit": LONG }));
            until(source, "STOP", is_stop)
        };
        reached(source, "completed");
        reached(&mut there, "completed");
        let total = begun.elapsed().as_secs_f64() * 1e3;
        let resume = there.qmp().wait_event("RESUME", |_| true);
        before.are_not_exceeded(source);
        let info = source.qmp().ok("query-migrate", json!({}));
        let left = std::mem::replace(&mut self.vm, there).quit();
        assert_eq!((left.code, left.signal), (Some(0), None), "{}", left.stderr);
        self.reaches(self.plan.sizes(-2 * sign));
        self.checks();
        let written = self.written();
        switch(&mut self.vm, form, false);
        self.resize(self.plan.sizes(0));
        self.checks();
        let beyond = memory(&self.vm, "RssAnon").saturating_sub(self.plan.plugged);
        assert!(beyond < BASE + OWN, "{beyond} bytes beyond what is plugged");
        Hop {
            number,
            form,
            total,
            downtime: (moment(&resume) - moment(&stop)) * 1e3,
            passes: info["ram"]["dirty-sync-count"].as_u64().unwrap_or(0),
            written,
            holds: Holds::of(&self.vm),
            beyond,
            grown,
        }
    }
}

impl Plan {
    /// How fast the guest writes when nobody looks, in bytes a second: for about two seconds, as fast as it can.
    ///
    /// # Panics
    ///
    /// If anything goes wrong.
    pub fn speed(&self) -> f64 {
        let mut guest = self.guest();
        guest.plan.rate = u64::MAX >> 8;
        guest.write_on();
        guest.vm.qmp().events_within(std::time::Duration::from_secs(2));
        let (bytes, seconds) = guest.written();
        bytes as f64 / seconds
    }

    /// A guest that has plugged its memory and written to all of it.
    fn guest(&self) -> Guest {
        let mut guest = Guest { vm: self.machine().start(), plan: *self, since: Instant::now() };
        guest.resize(self.sizes(0));
        guest.fills_ram();
        guest
    }

    /// Does it, and tells of each move.
    ///
    /// # Panics
    ///
    /// If anything goes wrong.
    pub fn run(&self, mut each: impl FnMut(&Hop)) {
        let mut guest = self.guest();
        let mut first: Option<Hop> = None;
        for number in 0..self.moves {
            let hop = guest.hop(number);
            each(&hop);
            match &first {
                None => first = Some(hop),
                Some(first) => {
                    first.holds.are_not_exceeded(&mut guest.vm);
                    assert!(hop.beyond <= first.beyond + OWN / 4, "{hop}, and {first} at first");
                }
            }
        }
    }
}

/// One that reaches nobody, one that is cancelled.
fn attempt(vm: &mut Vm) {
    switch(vm, &["events"], true);
    vm.qmp().ok("migrate", json!({ "uri": "unix:/nonexistent" }));
    vm.qmp().wait_for("of the failure", |event| is_status(event, "failed"));
    set(vm, json!({ "max-bandwidth": 65536 }));
    vm.qmp().ok("migrate", json!({ "uri": "exec:cat > /dev/null" }));
    reached(vm, "active");
    vm.qmp().ok("migrate_cancel", json!({}));
    reached(vm, "cancelled");
}

fn switch(vm: &mut Vm, names: &[&str], state: bool) {
    let list: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": state })).collect();
    vm.qmp().ok("migrate-set-capabilities", json!({ "capabilities": list }));
}

fn set(vm: &mut Vm, parameters: Value) {
    vm.qmp().ok("migrate-set-parameters", parameters);
}

fn is_status(event: &Value, status: &str) -> bool {
    event["event"] == "MIGRATION" && event["data"]["status"] == status
}

/// Waits for an event of a migration that does not fail.
fn until(vm: &mut Vm, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let event = vm.qmp().wait_for(what, |event| wanted(event) || is_status(event, "failed"));
    if is_status(&event, "failed") {
        panic!("no event {what}: {}; {}", vm.qmp().ok("query-migrate", json!({})), vm.stderr());
    }
    event
}

fn reached(vm: &mut Vm, status: &str) {
    until(vm, status, |event| is_status(event, status));
}

fn moment(event: &Value) -> f64 {
    let of = |what: &str| event["timestamp"][what].as_f64().expect("every event has a time");
    of("seconds") + of("microseconds") / 1e6
}
