//! The program in the guest that notices when something was lost ([`crate::testbed::stress`]), and what is looked at beside it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use super::dmesg;
use crate::Vm;
use crate::testbed::Linux;
use crate::testbed::stress::STATUS;

/// The port that it talks to, whose words go into a file of this name in the folder of each process that the guest is in.
pub(super) const TALK: &str = "talk";

/// Pages that each thread writes: not so many that a pass over them takes long where a processor is emulated twice.
const PAGES: u64 = 2048;

/// The outer machine's processor is emulated: its time-stamp counter runs as it likes, and a kernel that was moved notices, on QEMU as well.
/// What the kernel takes the time from must stay the same nevertheless.
const OF_AN_EMULATED_COUNTER: &str = "clocksource: ";

/// A guest under stress.
pub(super) struct Stress {
    /// What was said to the port in processes that the guest has left.
    said: String,
    /// Bytes that were there before.
    before: usize,
    complaints: String,
    clock: String,
    /// When the guest was up so many seconds, at the latest.
    since: (Instant, f64),
}

impl Stress {
    /// Begins, with a thread for each vCPU.
    pub(super) fn start(guest: &mut Linux) -> Self {
        let before = talk(guest.vm()).len();
        let port = guest.run(&format!("cd /sys/class/virtio-ports; grep -lx {TALK} */name"));
        let port = port.trim_end_matches("/name");
        let complaints = dmesg::complaints(guest);
        let clock = clock(guest);
        let now = Instant::now();
        let since = (now, uptime(guest));
        guest.run(&format!("rm -f {STATUS}; stress /dev/{port} $(nproc) {PAGES} >{STATUS}.out 2>&1 &"));
        let stress = Self { said: String::new(), before, complaints, clock, since };
        stress.goes_on(guest);
        stress
    }

    /// Every page is looked at once more, lines are said, entropy is drawn, timers run, and nothing was wrong so far.
    pub(super) fn goes_on(&self, guest: &mut Linux) {
        let before = guest.eventually(counts);
        guest.eventually(|guest| {
            let now = counts(guest)?;
            let behind = before.iter().find(|(name, count)| {
                // The page at which a thread is may have been looked at before.
                let more = if name.starts_with("pages") { PAGES + 1 } else { 3 };
                now.get(*name).is_none_or(|now| *now < **count + more)
            });
            match behind {
                Some((name, count)) => Err(format!("{name} was {count}, and then {now:?}")),
                None => Ok(()),
            }
        });
    }

    /// The guest was moved: out of this process.
    pub(super) fn moved_from(&mut self, old: &Vm) {
        self.said.push_str(&talk(old));
    }

    /// Ends it, and looks back: each line was said once, time went on and not too fast, and the kernel has nothing to complain of.
    pub(super) fn end(mut self, guest: &mut Linux) {
        self.goes_on(guest);
        guest.run("killall stress; wait; true");
        self.moved_from(guest.vm());
        let lines = &self.said[self.before..];
        for (line, number) in lines.lines().zip(1_u64..) {
            assert!(line == number.to_string(), "line {number} of what was said to the port is {line:?}");
        }
        assert!(lines.ends_with('\n') && lines.lines().count() > 6, "{lines}");

        assert_eq!(clock(guest), self.clock);
        let (then, was) = self.since;
        let now = uptime(guest);
        let passed = then.elapsed().as_secs_f64();
        assert!(now > was, "up for {was} s, and then for {now} s");
        // The guest's clock stands while it is nowhere; its oscillator is the host's.
        assert!(now - was < passed * 1.01 + 1.0, "{} s passed in the guest, {passed} s outside", now - was);
        let new = dmesg::new_complaints(&self.complaints, &dmesg::complaints(guest));
        assert!(new.lines().all(|line| line.contains(OF_AN_EMULATED_COUNTER)), "new in dmesg:\n{new}");
    }
}

/// The counters of the status, which is not there at once.
fn counts(guest: &mut Linux) -> Result<BTreeMap<String, u64>, String> {
    // Right after its start there is neither.
    let text = guest.run(&format!("cat {STATUS} 2>/dev/null || cat {STATUS}.out || true"));
    let wrong = text.lines().find_map(|line| line.strip_prefix("wrong "));
    assert!(wrong.is_none(), "the guest found: {}", wrong.unwrap_or_default());
    let count = |line: &str| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    let counts: Option<BTreeMap<_, _>> = text.lines().map(count).collect();
    counts.filter(|counts| !counts.is_empty()).ok_or_else(|| format!("the status is {text:?}"))
}

/// Everything that was said to the port in a process.
fn talk(vm: &Vm) -> String {
    fs::read_to_string(vm.scratch().join(TALK)).expect("the device's file")
}

fn clock(guest: &mut Linux) -> String {
    guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
}

/// Seconds.
fn uptime(guest: &mut Linux) -> f64 {
    let text = guest.run("cut -d' ' -f1 /proc/uptime");
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no uptime"))
}
