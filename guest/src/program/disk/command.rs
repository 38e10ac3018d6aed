//! `disk`: what the block devices are told on the serial line.

use super::job::{Job, Kind, Place, SLOTS};
use super::{MAX_DISKS, Program};
use crate::blk::SECTOR;
use crate::bus::Bus;
use crate::program::console::say;
use crate::text::parse_number;

/// Words of a command at most, `disk` not counted.
const WORDS: usize = 8;

/// A command for one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// This over so many sectors from a first one on, with a seed.
    Pass(Kind, u64, u64, u64, Place),
    /// So many MiB.
    Load(u64, Place),
    /// A request without data.
    Single(Kind),
    Stop,
    Reset,
}

/// The command and the number of the disk that it is for.
fn parse(words: &[&str]) -> Option<(usize, Command)> {
    let (index, words) = match words.split_first()? {
        (number, rest) if number.starts_with(|first: char| first.is_ascii_digit()) => {
            (usize::try_from(parse_number(number)?).ok()?, rest)
        }
        _ => (0, words),
    };
    let (name, rest) = words.split_first()?;
    let (rest, place) = match rest {
        [rest @ .., "at", "plugged"] => (rest, Place::Plugged),
        // Whole words only: the patterns consist of them.
        [rest @ .., "at", addr] => {
            (rest, Place::At(parse_number(addr).filter(|addr| addr.is_multiple_of(8))?))
        }
        rest => (rest, Place::Own),
    };
    let kind = match *name {
        "write" => Some(Kind::Write),
        "verify" => Some(Kind::Verify),
        "run" => Some(Kind::Run),
        _ => None,
    };
    let command = match (*name, kind, rest, place) {
        (_, Some(kind), [first, count, seed], place) => {
            let [first, count, seed] = [first, count, seed].map(|word| parse_number(word));
            let (first, count) = (first?, count.filter(|count| *count > 0)?);
            first.checked_add(count)?;
            Command::Pass(kind, first, count, seed?, place)
        }
        ("load", _, [size], place) => Command::Load(parse_number(size).filter(|size| *size > 0)?, place),
        ("flush", _, [], Place::Own) => Command::Single(Kind::Flush),
        ("id", _, [], Place::Own) => Command::Single(Kind::Id),
        ("stop", _, [], Place::Own) => Command::Stop,
        ("reset", _, [], Place::Own) => Command::Reset,
        _ => return None,
    };
    Some((index, command))
}

impl Program {
    pub(in crate::program) fn disk_command<'a>(
        &mut self,
        bus: &mut impl Bus,
        words: impl Iterator<Item = &'a str>,
    ) {
        let (mut list, mut count) = ([""; WORDS + 1], 0);
        for (place, word) in list.iter_mut().zip(words) {
            *place = word;
            count += 1;
        }
        match (count, parse(&list[..count])) {
            (0, _) => self.show_disks(bus),
            (..=WORDS, Some((index, command))) => self.carry_out(bus, index, command),
            _ => say!(self.console, bus, "error: bad arguments for disk"),
        }
    }

    fn show_disks(&mut self, bus: &mut impl Bus) {
        for index in 0..MAX_DISKS {
            let Some(disk) = &mut self.disks.places[index] else { continue };
            if !disk.failed {
                disk.driver.refresh(bus);
            }
            let job = disk.job;
            self.describe_disk(bus, index);
            if let Some(job) = job {
                let (name, totals, count) = (job.kind.name(), job.totals, job.in_flight());
                say!(self.console, bus, "disk {index}: {name}: {totals}, {count} in flight");
            }
        }
        let count = self.disks.places.iter().flatten().count();
        say!(self.console, bus, "disk: {count} disks");
    }

    fn carry_out(&mut self, bus: &mut impl Bus, index: usize, command: Command) {
        let out = &mut self.console;
        let Some(disk) = self.disks.places.get_mut(index).and_then(Option::as_mut) else {
            return say!(out, bus, "error: no disk {index}");
        };
        let (kind, range, seed, place) = match command {
            Command::Stop => {
                return match &mut disk.job {
                    Some(job) => job.stopping = true,
                    None => say!(out, bus, "error: disk {index} is idle"),
                };
            }
            Command::Reset => return self.reset_disk(bus, index),
            Command::Single(kind) => (kind, (0, 0), 0, Place::Own),
            Command::Pass(kind, first, sectors, seed, place) => (kind, (first, sectors), seed, place),
            Command::Load(size, place) => {
                let sectors = size.saturating_mul((1 << 20) / SECTOR).min(disk.driver.config().capacity);
                self.disks.loads += 1;
                (Kind::Load, (0, sectors), self.disks.loads, place)
            }
        };
        let problem = if disk.failed {
            Some("failed")
        } else if disk.job.is_some() {
            Some("busy")
        } else if disk.driver.is_read_only() && matches!(kind, Kind::Write | Kind::Load | Kind::Run) {
            Some("read-only")
        } else {
            None
        };
        if let Some(problem) = problem {
            return say!(out, bus, "error: disk {index} is {problem}");
        }
        if place == Place::Plugged && self.dirty.is_on() {
            return say!(out, bus, "error: dirty writes the same memory");
        }
        let now = bus.now_ns();
        disk.job = Some(Job::new(kind, place, range, seed, disk.buffers, now));
        if kind == Kind::Run {
            say!(out, bus, "disk {index}: run: started, up to {SLOTS} requests in flight");
        }
    }

    /// Initialises a disk anew; what is in flight is lost.
    fn reset_disk(&mut self, bus: &mut impl Bus, index: usize) {
        let Some(disk) = self.disks.places[index].as_mut() else { return };
        let result = disk.driver.restart(bus);
        disk.failed = result.is_err();
        disk.restarts = 0;
        let lost = disk.job.as_ref().map_or(0, Job::in_flight);
        if let Some(job) = &mut disk.job {
            job.restarted();
        }
        match result {
            Ok(()) => say!(self.console, bus, "disk {index}: reset: ok: {lost} lost"),
            Err(error) => {
                say!(self.console, bus, "disk {index}: reset: FAILED: {error}");
                self.finish(bus, index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! The grammar of `disk`.

    use super::*;

    #[test]
    fn commands_are_for_the_first_disk_unless_they_name_another() {
        let run = Command::Pass(Kind::Run, 0, 8, 3, Place::Own);
        assert_eq!(parse(&["run", "0", "8", "3"]), Some((0, run)));
        assert_eq!(parse(&["2", "run", "0", "8", "3"]), Some((2, run)));
        let write = Command::Pass(Kind::Write, 1 << 20, 2, 3, Place::At(0x2000));
        assert_eq!(parse(&["write", "1M", "2", "3", "at", "8K"]), Some((0, write)));
        assert_eq!(parse(&["load", "16", "at", "plugged"]), Some((0, Command::Load(16, Place::Plugged))));
        assert_eq!(parse(&["1", "id"]), Some((1, Command::Single(Kind::Id))));
        assert_eq!(parse(&["stop"]), Some((0, Command::Stop)));
    }

    #[test]
    fn what_is_no_command_is_none() {
        for words in [
            &["1"][..],
            &["write"],
            &["write", "1", "2"],
            &["write", "1", "2", "3", "4"],
            &["write", "1", "0", "3"],
            &["write", "1", "2", "3", "at"],
            &["write", "1", "2", "3", "at", "9"],
            &["write", "1", "2", "3", "at", "nowhere"],
            &["write", "18446744073709551615", "1", "3"],
            &["1", "2", "stop"],
            &["load", "0"],
            &["stop", "at", "plugged"],
            &["flush", "1"],
        ] {
            assert_eq!(parse(words), None, "{words:?}");
        }
    }
}
