//! Moves a guest that writes all the time back and forth between processes: `moves [MOVES [MIB [RATE]]]`, by default 100 moves with 4096 MiB
//! plugged in two devices and 1024 MiB written in a second. The first process that keeps what it should not, and the first word
//! that differs, end it.
//!
//! The program that is moved is `PLIANT_BIN`, or the one beside this. A slow machine may want `PLIANT_TEST_DEADLINE` seconds for each step.

use std::env;
use std::time::Instant;

use tests::moves::{Hop, Plan};
use tests::{Need, have};

const M: u64 = 1 << 20;

fn main() {
    let mut words = env::args().skip(1);
    let mut number = |default: u64| {
        words.next().map_or(default, |word| word.parse().expect("usage: moves [MOVES [MIB [RATE]]]"))
    };
    let moves = u32::try_from(number(100)).expect("not so many");
    let plan = Plan { moves, plugged: number(4096) * M, rate: number(1024) * M };
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    println!("writing as fast as it can, the guest reaches {:.0} MiB/s", plan.speed() / M as f64);
    let begin = Instant::now();
    let mut hops: Vec<Hop> = Vec::new();
    plan.run(|hop| {
        println!("{hop}");
        hops.push(hop.clone());
    });
    let bytes: u64 = hops.iter().map(|hop| hop.written.0).sum();
    let seconds: f64 = hops.iter().map(|hop| hop.written.1).sum();
    let grown: i64 = hops.iter().map(|hop| hop.grown).sum();
    println!(
        "{moves} moves in {:.0} s, {} GiB written at {:.0} MiB/s of {} wanted, moves and resizes included; sources grew by {} KiB in all",
        begin.elapsed().as_secs_f64(),
        bytes >> 30,
        bytes as f64 / seconds / M as f64,
        plan.rate / M,
        grown / 1024
    );
}
