//! A domain in a test: its node, what it tells, and its console.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::{Domain, Events, Node};
use crate::wire::{Wire, patience};

/// A defined domain.
#[derive(Debug)]
pub struct Session<'n> {
    /// Where it is.
    pub node: &'n Node<'n>,
    /// What it was defined as.
    pub domain: Domain,
    /// What is heard of it.
    pub events: Events,
}

impl<'n> Session<'n> {
    /// Defines the domain; what it does from then on is heard.
    pub fn new(node: &'n Node<'n>, domain: Domain) -> Self {
        node.define(&domain);
        let events = Events::listen(node, &domain);
        Self { node, domain, events }
    }

    /// A command of `virsh` whose first argument is the domain; what it wrote.
    #[track_caller]
    pub fn virsh(&self, command: &str, args: &[&str]) -> String {
        self.node.virsh(&self.words(command, args))
    }

    /// The same, which has to fail; what it complained.
    #[track_caller]
    pub fn fails(&self, command: &str, args: &[&str]) -> String {
        self.node.virsh_fails(&self.words(command, args))
    }

    fn words<'a>(&'a self, command: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        [&[command, self.domain.name()], args].concat()
    }

    /// `domstate --reason`.
    #[track_caller]
    pub fn state(&self) -> String {
        self.virsh("domstate", &["--reason"])
    }

    /// Waits for a state.
    #[track_caller]
    pub fn until_state(&self, wanted: &str) {
        self.node.until(&self.words("domstate", &["--reason"]), |state| state == wanted);
    }

    /// Starts the domain and waits until its built-in guest runs; its console.
    #[track_caller]
    pub fn start(&mut self) -> Wire {
        self.virsh("start", &[]);
        self.events.expect(&["lifecycle", "Started Booted"]);
        self.console()
    }

    /// The terminal of the domain's console; what is said before somebody has it open is lost.
    #[track_caller]
    pub fn terminal(&self) -> Wire {
        let path = self.virsh("ttyconsole", &[]);
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        Wire::new(rustix::fs::open(Path::new(&path), flags, Mode::empty()).expect("a terminal"))
    }

    /// The console of a built-in guest that listens.
    #[track_caller]
    pub fn console(&self) -> Wire {
        let mut wire = self.terminal();
        // What it said before is lost, and so is what it is told while it starts: it is asked until it answers.
        let until = Instant::now() + patience();
        let mut count = 0;
        loop {
            assert!(
                Instant::now() < until,
                "the guest does not answer: {:?}",
                String::from_utf8_lossy(wire.peek())
            );
            count += 1;
            wire.send(format!("peek {count}\r").as_bytes()).expect("a terminal");
            let wanted = format!("peek {count:#x}: ");
            let found = |got: &[u8]| {
                got.windows(wanted.len()).position(|w| w == wanted.as_bytes()).map(|at| at + wanted.len())
            };
            if wire.take_by(Instant::now() + Duration::from_millis(200), "an answer", found).is_ok() {
                return wire;
            }
        }
    }

    /// What the emulator answers to a console command.
    #[track_caller]
    pub fn hmp(&self, line: &str) -> String {
        self.virsh("qemu-monitor-command", &["--hmp", line])
    }

    /// Listens anew: the libvirtd has ended meanwhile, or the domain is on another node.
    pub fn listen(&mut self) {
        self.events = Events::listen(self.node, &self.domain);
    }

    /// Sets what the guest is asked to plug, and waits until libvirt knows that it has.
    #[track_caller]
    pub fn resize(&mut self, alias: &str, size: &str, kib: u64) {
        self.virsh("update-memory-device", &["--live", "--alias", alias, "--requested-size", size]);
        self.events.expect(&["memory-device-size-change", alias, &format!("size: {kib}")]);
        let current = format!("<current unit='KiB'>{kib}</current>");
        assert!(self.virsh("dumpxml", &[]).contains(&current), "no {current}");
    }
}

/// Waits until the built-in guest, whose console is open, says that it runs again.
#[track_caller]
pub fn ready(console: &mut Wire) {
    console.until("pliant-guest: ready").expect("the guest runs");
}

/// Has the built-in guest do something and waits for words of its answer.
#[track_caller]
pub fn ask(console: &mut Wire, command: &str, answer: &str) -> String {
    console.send(format!("{command}\r").as_bytes()).expect("the guest listens");
    console.until(answer).expect("the guest answers")
}
