//! KVM's binary statistics: `KVM_GET_STATS_FD` (Linux `Documentation/virt/kvm/api.rst`, 4.133).
//!
//! The file that the ioctl gives has a header, descriptors with names, and values, which are read with `pread`. What a file
//! holds does not change, so descriptors are read once.

#![expect(unsafe_code, reason = "kvm-ioctls does not have KVM_GET_STATS_FD")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use kvm_bindings::{
    KVM_STATS_BASE_MASK, KVM_STATS_BASE_POW2, KVM_STATS_BASE_POW10, KVM_STATS_TYPE_CUMULATIVE,
    KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_LINEAR_HIST, KVM_STATS_TYPE_LOG_HIST, KVM_STATS_TYPE_MASK,
    KVM_STATS_TYPE_PEAK, KVM_STATS_UNIT_BOOLEAN, KVM_STATS_UNIT_BYTES, KVM_STATS_UNIT_CYCLES,
    KVM_STATS_UNIT_MASK, KVM_STATS_UNIT_NONE, KVM_STATS_UNIT_SECONDS, KVMIO,
};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use crate::stats::{Stat, StatKind, StatUnit};

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Bytes of the header and of a descriptor without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// No kernel has as much; a file that claims more is not believed.
const LIMIT: usize = 1 << 20;

/// The statistics of a VM or a vCPU.
pub(crate) struct StatsFile {
    file: File,
    layout: OnceLock<Layout>,
}

/// What the values are, and where.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    stats: Vec<Stat>,
    /// Place of each statistic's first value in the block of values, bytes.
    offsets: Vec<usize>,
    /// Place of the values in the file.
    values: u64,
}

impl StatsFile {
    /// The statistics of a VM's or vCPU's file; `None` for a kernel without.
    pub(crate) fn of(fd: &impl AsRawFd) -> Option<Self> {
        // SAFETY: the ioctl takes no argument and gives a new descriptor or an error; on another file than KVM's it fails.
        let stats = unsafe { ioctl(fd, KVM_GET_STATS_FD()) };
        // SAFETY: the kernel has just made the descriptor for us, nobody else has it.
        (stats >= 0).then(|| Self { file: unsafe { File::from_raw_fd(stats) }, layout: OnceLock::new() })
    }

    /// What there is, and the values of now in the same order.
    ///
    /// # Errors
    /// The file cannot be read, or holds nonsense.
    pub(crate) fn read(&self) -> io::Result<(&[Stat], Vec<Vec<u64>>)> {
        let layout = self.layout()?;
        let ends = layout.stats.iter().zip(&layout.offsets).map(|(stat, at)| at + 8 * stat.len);
        let mut bytes = vec![0; ends.max().unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, layout.values)?;
        let of = |(stat, at): (&Stat, &usize)| {
            bytes[*at..at + 8 * stat.len].chunks_exact(8).map(|b| le(b, 8)).collect()
        };
        Ok((&layout.stats, layout.stats.iter().zip(&layout.offsets).map(of).collect()))
    }

    fn layout(&self) -> io::Result<&Layout> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let mut header = [0; HEADER];
        self.file.read_exact_at(&mut header, 0)?;
        let word = |at: usize| le(&header[4 * at..], 4) as usize;
        let (name_size, count, at, values) = (word(1), word(2), word(4), word(5));
        let size =
            count.checked_mul(DESCRIPTOR + name_size).filter(|size| *size <= LIMIT).ok_or_else(nonsense)?;
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, at as u64)?;
        let layout = Layout::parse(&bytes, name_size, values as u64)?;
        Ok(self.layout.get_or_init(|| layout))
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "KVM's statistics make no sense")
}

fn le(bytes: &[u8], size: usize) -> u64 {
    bytes[..size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Layout {
    /// Reads descriptors. Those of a kind that this program does not know are passed over.
    fn parse(bytes: &[u8], name_size: usize, values: u64) -> io::Result<Self> {
        let mut layout = Self { values, ..Self::default() };
        for one in bytes.chunks_exact(DESCRIPTOR + name_size) {
            let (flags, exponent) = (le(one, 4) as u32, le(&one[4..], 2) as u16);
            let (len, offset) = (le(&one[6..], 2) as usize, le(&one[8..], 4) as usize);
            let Some((kind, unit, base)) = read_flags(flags) else { continue };
            if offset + 8 * len > LIMIT || len == 0 {
                return Err(nonsense());
            }
            let name = &one[DESCRIPTOR..];
            let name = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())];
            layout.stats.push(Stat {
                name: String::from_utf8_lossy(name).into_owned(),
                kind,
                unit,
                base,
                exponent: exponent.cast_signed(),
                bucket_size: le(&one[12..], 4) as u32,
                len,
            });
            layout.offsets.push(offset);
        }
        Ok(layout)
    }
}

fn read_flags(flags: u32) -> Option<(StatKind, StatUnit, i8)> {
    let kind = match flags & KVM_STATS_TYPE_MASK {
        KVM_STATS_TYPE_CUMULATIVE => StatKind::Cumulative,
        KVM_STATS_TYPE_INSTANT => StatKind::Instant,
        KVM_STATS_TYPE_PEAK => StatKind::Peak,
        KVM_STATS_TYPE_LINEAR_HIST => StatKind::LinearHistogram,
        KVM_STATS_TYPE_LOG_HIST => StatKind::LogHistogram,
        _ => return None,
    };
    let unit = match flags & KVM_STATS_UNIT_MASK {
        KVM_STATS_UNIT_NONE => StatUnit::None,
        KVM_STATS_UNIT_BYTES => StatUnit::Bytes,
        KVM_STATS_UNIT_SECONDS => StatUnit::Seconds,
        KVM_STATS_UNIT_CYCLES => StatUnit::Cycles,
        KVM_STATS_UNIT_BOOLEAN => StatUnit::Boolean,
        _ => return None,
    };
    let base = match flags & KVM_STATS_BASE_MASK {
        KVM_STATS_BASE_POW10 => 10,
        KVM_STATS_BASE_POW2 => 2,
        _ => return None,
    };
    Some((kind, unit, base))
}

#[cfg(test)]
mod tests;
