//! What the guest pays: for its other memory after a block went, for the slots of plugged runs, for touching what is closed.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use super::faults::Faults;
use super::figures::{Samples, head, row};
use super::host::{Advice, BLOCK, PAGE, Region, cpu_time};
use super::machine::{Machine, Pass};

const ROUNDS: u32 = 7;
/// Blocks on either side of the one that goes: 1 GiB in all.
const BESIDE: u64 = 256;
/// The block that goes.
const MIDDLE: Range<u64> = BESIDE * BLOCK..(BESIDE + 1) * BLOCK;
/// Where a slot is that has nothing to do with them.
const ELSEWHERE: Range<u64> = 3 << 30..(3 << 30) + BLOCK;

/// How the block in the middle is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unplug {
    Nothing,
    Protection,
    Guard,
    UserFault,
    /// The slot is deleted and one made on either side.
    Split,
    /// A slot of one block elsewhere is deleted instead.
    OtherSlot,
    /// The same on a kernel that was told to forget only what that slot mapped.
    OtherSlotOnly,
}

impl Unplug {
    const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Protection,
        Self::Guard,
        Self::UserFault,
        Self::Split,
        Self::OtherSlot,
        Self::OtherSlotOnly,
    ];
}

fn all_written(pass: Pass) -> io::Result<()> {
    match pass {
        Pass::Done { dropped: 0 } => Ok(()),
        other => Err(io::Error::other(format!("the guest cannot write to what is plugged: {other:?}"))),
    }
}

/// The guest writes to every page beside the block; CPU time of the vCPU.
fn pass(machine: &mut Machine<'_>) -> io::Result<Duration> {
    let begin = cpu_time();
    for first in [0, BESIDE + 1] {
        all_written(machine.write(first * BLOCK, BESIDE * BLOCK / PAGE, PAGE)?)?;
    }
    Ok(cpu_time() - begin)
}

/// A block of a device with a slot from 0 on and one elsewhere.
struct Unplugging<'a> {
    how: Unplug,
    region: &'a Region,
    machine: Machine<'a>,
    faults: Option<Faults>,
}

impl<'a> Unplugging<'a> {
    /// `None` where it cannot be had.
    fn new(how: Unplug, region: &'a Region) -> io::Result<Option<Self>> {
        let faults = (how == Unplug::UserFault).then(Faults::new);
        let (Some(machine), Ok(faults)) = (Machine::new(region), faults.transpose()) else { return Ok(None) };
        if how == Unplug::OtherSlotOnly && machine.forget_only_deleted_slots().is_err() {
            return Ok(None);
        }
        machine.add(1, &(0..ELSEWHERE.start))?;
        machine.add(2, &ELSEWHERE)?;
        Ok(Some(Self { how, region, machine, faults }))
    }

    fn unplug(&self) -> io::Result<()> {
        let Self { how, region, machine, faults } = self;
        match (how, faults) {
            (Unplug::Nothing, _) => return Ok(()),
            (Unplug::Protection, _) => region.set_open(&MIDDLE, false)?,
            (Unplug::Guard, _) => region.advise(&MIDDLE, Advice::Guard)?,
            (Unplug::UserFault, faults) => {
                faults.as_ref().map_or(Ok(()), |faults| faults.register(region, &MIDDLE))?;
            }
            (Unplug::Split, _) => {
                machine.delete(1)?;
                machine.add(1, &(0..MIDDLE.start))?;
                machine.add(3, &(MIDDLE.end..ELSEWHERE.start))?;
            }
            (Unplug::OtherSlot | Unplug::OtherSlotOnly, _) => {
                machine.delete(2)?;
                return region.advise(&ELSEWHERE, Advice::DontNeed);
            }
        }
        region.advise(&MIDDLE, Advice::DontNeed)
    }

    fn plug_again(&self) -> io::Result<()> {
        let Self { how, region, machine, faults } = self;
        match how {
            Unplug::Nothing => Ok(()),
            Unplug::Protection => region.set_open(&MIDDLE, true),
            Unplug::Guard => region.advise(&MIDDLE, Advice::Unguard),
            Unplug::UserFault => faults.as_ref().map_or(Ok(()), |faults| faults.unregister(region, &MIDDLE)),
            Unplug::Split => {
                machine.delete(1)?;
                machine.delete(3)?;
                machine.add(1, &(0..ELSEWHERE.start))
            }
            Unplug::OtherSlot | Unplug::OtherSlotOnly => machine.add(2, &ELSEWHERE),
        }
    }

    /// Taking the block away, a pass before and the pass after.
    fn measure(&mut self) -> io::Result<[Samples; 3]> {
        let [mut change, mut before, mut after] = [const { Samples::new() }; 3];
        for _ in 0..ROUNDS {
            for range in [&MIDDLE, &ELSEWHERE] {
                all_written(self.machine.write(range.start, BLOCK / PAGE, PAGE)?)?;
            }
            pass(&mut self.machine)?;
            before.add(pass(&mut self.machine)?);
            change.time(|| self.unplug())?;
            after.add(pass(&mut self.machine)?);
            self.plug_again()?;
        }
        Ok([change, before, after])
    }
}

/// A block goes, and the guest goes on with 1 GiB beside it.
pub(crate) fn unplugging() -> io::Result<()> {
    head(
        "A touched block goes; then the guest writes to every page of 1 GiB beside it (CPU time of the vCPU)",
        &["block goes by", "host pages", "that takes", "pass before", "pass after"],
    );
    for (pages, name) in [(Advice::SmallPages, "4 KiB"), (Advice::HugePages, "2 MiB")] {
        let region = Region::new(ELSEWHERE.end)?;
        region.set_open(&region.whole(), true)?;
        region.advise(&region.whole(), pages)?;
        for how in Unplug::ALL {
            let cells = match Unplugging::new(how, &region)? {
                Some(mut unplugging) => unplugging.measure()?.map(|sample| sample.to_string()),
                None => ["cannot be had here", "", ""].map(String::from),
            };
            let [change, before, after] = cells;
            row(&[format!("{how:?}"), name.into(), change, before, after]);
        }
    }
    Ok(())
}

/// One slot becomes one for each run, as it does when the guest touches what is unplugged.
pub(crate) fn splitting() -> io::Result<()> {
    head(
        "One slot of 128 GiB becomes one for each plugged run, and the guest touches a page of each run",
        &[
            "runs",
            "all of it takes",
            "deleting the one",
            "adding one",
            "first pass after it (CPU)",
            "next pass (CPU)",
            "deleting all again",
        ],
    );
    let region = Region::new(128 << 30)?;
    region.set_open(&region.whole(), true)?;
    region.advise(&region.whole(), Advice::SmallPages)?;
    for runs in [1, 100, 1000, 10_000] {
        let Some(mut machine) = Machine::new(&region) else {
            println!("no KVM");
            return Ok(());
        };
        let stride = region.size() / BLOCK / runs * BLOCK;
        let [mut change, mut delete, mut add, mut first, mut next, mut back] = [const { Samples::new() }; 6];
        let touch = |machine: &mut Machine<'_>| {
            let begin = cpu_time();
            all_written(machine.write(0, runs, stride)?)?;
            io::Result::Ok(cpu_time() - begin)
        };
        let number = |run: u64| u32::try_from(run + 1).map_err(io::Error::other);
        for _ in 0..ROUNDS {
            machine.add(1, &region.whole())?;
            touch(&mut machine)?;
            change.time(|| {
                delete.time(|| machine.delete(1))?;
                (0..runs).try_for_each(|run| {
                    let number = number(run)?;
                    add.time(|| machine.add(number, &(run * stride..run * stride + BLOCK)))
                })
            })?;
            first.add(touch(&mut machine)?);
            next.add(touch(&mut machine)?);
            back.time(|| (0..runs).try_for_each(|run| machine.delete(number(run)?)))?;
        }
        let samples = [change, delete, add, first, next, back].map(|samples| samples.to_string());
        row(&[std::slice::from_ref(&runs.to_string()), &samples].concat());
    }
    Ok(())
}

const TOUCHES: u64 = 1000;

/// What a touch of closed memory costs whoever does it.
pub(crate) fn touching() -> io::Result<()> {
    head("One touch of a closed page", &["who touches, what is there", "what happens", "takes"]);
    let region = Region::new(1 << 30)?;
    let whole = region.whole();
    let zero = File::open("/dev/zero")?;
    region.advise(&whole, Advice::SmallPages)?;
    let mut samples = Samples::new();
    for touch in 0..TOUCHES {
        if samples.time(|| region.poke(&zero, touch * PAGE)).is_ok() {
            return Err(io::Error::other("closed memory was written to"));
        }
    }
    let line = |who: &str, what: &str, samples: &Samples| row(&[who, what, &samples.to_string()]);
    line("the kernel for this program, PROT_NONE", "EFAULT", &samples);
    let Some(mut machine) = Machine::new(&region) else {
        println!("no KVM");
        return Ok(());
    };
    machine.add(1, &whole)?;
    for what in ["PROT_NONE", "a guard"] {
        let mut samples = Samples::new();
        let mut pass = samples.time(|| machine.write(0, TOUCHES, PAGE))?;
        for _ in 0..TOUCHES {
            if pass != Pass::Fault {
                return Err(io::Error::other(format!("closed memory was written to: {pass:?}")));
            }
            pass = samples.time(|| machine.go_on())?;
        }
        line(&format!("the guest, {what} in a slot"), "KVM_RUN fails: EFAULT", &samples);
        // For the next turn.
        region.advise(&(0..TOUCHES * PAGE), Advice::Guard)?;
        region.set_open(&whole, true)?;
    }
    machine.delete(1)?;
    if machine.go_on()? != (Pass::Done { dropped: TOUCHES }) {
        return Err(io::Error::other("memory without a slot was written to"));
    }
    let mut samples = Samples::new();
    for touch in 0..TOUCHES {
        samples.time(|| machine.write(touch * PAGE, 1, PAGE))?;
    }
    line("the guest, no slot", "an exit with the address, for each access", &samples);

    let Ok(faults) = Faults::new() else {
        line("userfaultfd", "not permitted", &Samples::new());
        return Ok(());
    };
    region.advise(&whole, Advice::Unguard)?;
    faults.register(&region, &whole)?;
    machine.add(1, &whole)?;
    thread::scope(|scope| {
        let server = scope.spawn(|| (0..2 * TOUCHES).try_for_each(|_| faults.serve_one()));
        let [mut program, mut guest] = [const { Samples::new() }; 2];
        for touch in 0..TOUCHES {
            program.time(|| region.poke(&zero, touch * PAGE))?;
            guest.time(|| all_written(machine.write((TOUCHES + touch) * PAGE, 1, PAGE)?))?;
        }
        line("this program, userfaultfd", "another thread answers with zeroes", &program);
        line("the guest, userfaultfd", "another thread answers with zeroes", &guest);
        server.join().map_err(|_| io::Error::other("the server panicked"))?
    })
}
