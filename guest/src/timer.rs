//! The 8254 as a measure for the processor's time stamp counter.
//!
//! Whoever measures may be kept from running between any two of its instructions, for longer than the 8254 takes to come round. All
//! that does is make the counter look faster than it is: more time stamps passed than the 8254 tells of. So a measurement is
//! short, there are several, and the least of them is believed.

/// The 8254's clock, Hz.
pub const PIT_HZ: u64 = 1_193_182;

/// Counts of a measurement, about a millisecond.
const SHORT: u16 = 1200;
/// Looks in which a timer that counts has counted as far.
const LOOKS: u32 = 25_000;
/// Measurements at least, and at most.
const TRIES: core::ops::Range<u32> = 4..64;
/// Two measurements are the same if they differ by less than one in so many.
const SAME: u64 = 64;

/// A look at counter 0, which counts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The time stamp before the count was latched.
    pub before: u64,
    /// The count.
    pub count: u16,
    /// The time stamp after that.
    pub after: u64,
}

/// Hz of the time stamp counter, by a counter that begins again at `reload`. `None`: it does not count.
///
/// Takes about four milliseconds of a processor that is let run.
pub fn calibrate(reload: u16, mut look: impl FnMut() -> Look) -> Option<u64> {
    let (mut least, mut again) = (u64::MAX, false);
    for tries in 1..TRIES.end {
        let hz = measure(reload, &mut look)?;
        again = again && hz >= least || hz.abs_diff(least) < least / SAME;
        least = least.min(hz);
        if again && tries >= TRIES.start {
            break;
        }
    }
    Some(least)
}

/// One measurement: never less than what is true.
fn measure(reload: u16, look: &mut impl FnMut() -> Look) -> Option<u64> {
    let first = look();
    for _ in 0..LOOKS {
        let now = look();
        let passed = if now.count <= first.count {
            first.count - now.count
        } else {
            first.count + (reload - now.count.min(reload))
        };
        if passed >= SHORT {
            let stamps = u128::from(now.after.wrapping_sub(first.before));
            return u64::try_from(stamps * u128::from(PIT_HZ) / u128::from(passed)).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests;
