//! A back end for tests of the transport: echoes what it gets.

pub(crate) mod driver;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::device::{Outcome, Violation, VirtioDevice};
use super::ring::Chain;

/// Feature bit the device insists on.
pub(crate) const NEEDED: u64 = 2;

/// Answers each buffer with its own bytes; one that starts with `!` is a violation, one with `~` may take its time, one with `.` waits
/// until it is `open`.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) resets: Mutex<u32>,
    /// How often the next buffer that starts with `~` is still to be worked on; what was seen of it.
    pub(crate) again: Mutex<(u32, Vec<Vec<u8>>)>,
    pub(crate) open: AtomicBool,
    /// What the driver accepted, each time it started the device.
    pub(crate) starts: Mutex<Vec<u64>>,
}

impl VirtioDevice for Echo {
    fn name(&self) -> &'static str {
        "virtio-echo"
    }
    fn device_id(&self) -> u16 {
        63
    }
    fn queue_sizes(&self) -> &[u16] {
        &[8, 4]
    }
    fn features(&self) -> u64 {
        3
    }
    fn accepts(&self, features: u64) -> bool {
        features & NEEDED != 0
    }
    fn config(&self) -> Vec<u8> {
        vec![1, 2, 3, 4, 5, 6]
    }
    fn started(&self, features: u64) {
        self.starts.lock().unwrap().push(features);
    }
    fn serve(&self, _queue: u16, buffer: &mut Chain<'_>) -> Result<Outcome, Violation> {
        let mut data = [0; 16];
        let count = buffer.read(&mut data);
        let mut again = self.again.lock().unwrap();
        match data[0] {
            b'!' => return Err(Violation("virtio-echo protocol violation: shouting".into())),
            b'.' if !self.open.load(Ordering::Relaxed) => return Ok(Outcome::Later),
            b'~' if again.0 > 0 => {
                again.0 -= 1;
                again.1.push(data[..count].to_vec());
                return Ok(Outcome::Again);
            }
            _ => {}
        }
        Ok(Outcome::Done(buffer.write(&data[..count]) as u32))
    }
    fn driver_reset(&self) {
        *self.resets.lock().unwrap() += 1;
    }
}
