//! How long user space takes, for the same kernel and initial file system: pliant's machines beside QEMU's, on one machine, one at a time.
//!
//! Figures, no claims: no test asserts a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Images;
use super::images::KERNELS;
use super::linux::{Boot, Linux};
use super::report::{Listener, Message};
use crate::program;

const MACHINES: [Boot; 2] = [
    Boot { name: "q35", options: &["-machine q35 -smp 1 -m 512M"], append: "quiet", claims: &[] },
    Boot { name: "microvm", options: &["-machine microvm -smp 1 -m 512M"], append: "quiet", claims: &[] },
];

/// Boots each machine so many times, in turn, and says the medians and their ratios.
pub fn run(images: &Images, runs: usize, listener: &dyn Listener) {
    let mut programs: Vec<(&str, PathBuf)> = vec![("pliant", program::path())];
    programs.extend(program::qemu().map(|qemu| ("QEMU", qemu)));
    let say = |text: String| listener.hear(Message::Say(text));
    for kernel in KERNELS {
        let mut medians = Vec::new();
        for machine in &MACHINES {
            for (name, path) in &programs {
                let median = times(images, kernel, machine, path, runs);
                let figure =
                    median.as_ref().map_or_else(Clone::clone, |d| format!("{:.2} s", d.as_secs_f64()));
                say(format!("start to user space, {kernel}, {name} {}: {figure}", machine.name));
                medians.push(median.ok().map(|d| d.as_secs_f64()));
            }
        }
        let [Some(ours), Some(q35), Some(our_microvm), Some(microvm)] = medians[..] else { continue };
        say(format!(
            "{kernel}: pliant q35 / QEMU q35 {:.2} (bar 0.70), pliant q35 / QEMU microvm {:.2} (bar 1.00), pliant microvm / QEMU microvm {:.2} (bar 1.00)",
            ours / q35,
            ours / microvm,
            our_microvm / microvm
        ));
    }
}

/// The median, or why there is none.
fn times(
    images: &Images,
    kernel: &str,
    machine: &Boot,
    program: &Path,
    runs: usize,
) -> Result<Duration, String> {
    let mut times = Vec::new();
    for _ in 0..runs.max(1) {
        let guest = Linux::start_on(program, images, kernel, machine).map_err(|e| e.reason)?;
        times.push(guest.user_space_after);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
