//! What a vCPU of a benchmark tells: nothing is expected of it.

use accel::VcpuEvents;

/// Nothing is expected of the vCPU.
pub(crate) struct Quiet;

impl VcpuEvents for Quiet {
    fn triple_fault(&self, _cpu: u32) {}
    fn reset(&self, _cpu: u32) {}
    fn shutdown(&self, _cpu: u32) {}
    fn failed_access(&self, _cpu: u32, _addr: u64, _write: bool) {}
    fn internal_error(&self, cpu: u32, text: &str) {
        panic!("vCPU {cpu}: {text}");
    }
}
