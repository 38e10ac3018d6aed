//! How long user space takes, for the same kernel and initial file system: pliant's machines beside QEMU's, on one machine, one at a time.
//!
//! Figures, no claims: no test asserts a time.

use std::path::PathBuf;

use super::Images;
use super::images::KERNELS;
use super::linux::{Boot, Linux};
use super::report::{Listener, Message};
use crate::program;

const MACHINES: [Boot; 2] = [
    Boot { name: "q35", options: &["-machine q35 -smp 1 -m 512M"], append: "quiet", claims: &[] },
    Boot { name: "microvm", options: &["-machine microvm -smp 1 -m 512M"], append: "quiet", claims: &[] },
];

/// Boots each machine so many times, the programs by turns, and says the medians and their ratios.
pub fn run(images: &Images, runs: usize, listener: &dyn Listener) {
    let mut programs: Vec<(&str, PathBuf)> = vec![("pliant", program::path())];
    programs.extend(program::qemu().map(|qemu| ("QEMU", qemu)));
    let say = |text: String| listener.hear(Message::Say(text));
    for kernel in KERNELS {
        let kinds: Vec<_> = MACHINES
            .iter()
            .flat_map(|machine| programs.iter().map(move |(name, path)| (machine, *name, path)))
            .collect();
        let mut times = vec![Ok(Vec::new()); kinds.len()];
        // What the host does meanwhile is the same for all.
        for _ in 0..runs.max(1) {
            for ((machine, _, path), times) in kinds.iter().zip(&mut times) {
                match Linux::start_on(path, images, kernel, machine) {
                    Ok(guest) => times
                        .iter_mut()
                        .for_each(|times: &mut Vec<_>| times.push(guest.user_space_after.as_secs_f64())),
                    Err(e) => *times = Err(e.reason),
                }
            }
        }
        let mut medians = Vec::new();
        for ((machine, name, _), times) in kinds.iter().zip(&mut times) {
            let figure = match times {
                Ok(times) => {
                    times.sort_unstable_by(f64::total_cmp);
                    let median = times[times.len() / 2];
                    medians.push(median);
                    format!("{median:.2} s ({:.2} to {:.2})", times[0], times[times.len() - 1])
                }
                Err(reason) => reason.clone(),
            };
            say(format!("start to user space, {kernel}, {name} {}: {figure}", machine.name));
        }
        let [ours, q35, our_microvm, microvm] = medians[..] else { continue };
        say(format!(
            "{kernel}: pliant q35 / QEMU q35 {:.2} (bar 0.70), pliant q35 / QEMU microvm {:.2} (bar 1.00), pliant microvm / QEMU microvm {:.2} (bar 1.00)",
            ours / q35,
            ours / microvm,
            our_microvm / microvm
        ));
    }
}
