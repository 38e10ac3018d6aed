//! Statistics that an accelerator keeps about a virtual machine and its vCPUs.

/// How a statistic changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatKind {
    /// It counts.
    Cumulative,
    /// The value of now.
    Instant,
    /// The highest value so far.
    Peak,
    /// Counts of values in buckets of one size.
    LinearHistogram,
    /// Counts of values in buckets that double.
    LogHistogram,
}

/// What it counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatUnit {
    /// A plain number.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Clock cycles.
    Cycles,
    /// 0 is no, all else yes.
    Boolean,
}

/// What a statistic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its name.
    pub name: String,
    /// How it changes.
    pub kind: StatKind,
    /// What it counts in.
    pub unit: StatUnit,
    /// The unit is multiplied by this to the power of `exponent`: 10 or 2.
    pub base: i8,
    /// The exponent.
    pub exponent: i16,
    /// Width of a linear histogram's bucket.
    pub bucket_size: u32,
    /// How many values it has.
    pub len: usize,
}

/// Whom statistics are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatTarget {
    /// The virtual machine.
    Vm,
    /// Its vCPU of that number.
    Vcpu(u32),
}
