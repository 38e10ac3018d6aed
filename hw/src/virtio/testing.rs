//! A back end for tests of the transport: echoes what it gets.

use std::sync::Mutex;

use super::device::{Violation, VirtioDevice};
use super::ring::Chain;

/// Feature bit the device insists on.
pub(crate) const NEEDED: u64 = 2;

/// Answers each buffer with its own bytes; one that starts with `!` is a violation, one with `~` may take its time.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) resets: Mutex<u32>,
    /// How often the next buffer that starts with `~` is still to be prepared; what was seen of it.
    pub(crate) unready: Mutex<(u32, Vec<Vec<u8>>)>,
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
    fn prepare(&self, _queue: u16, buffer: &Chain<'_>) -> bool {
        let mut data = [0; 16];
        let count = buffer.read(&mut data);
        let mut unready = self.unready.lock().unwrap();
        if data[0] != b'~' || unready.0 == 0 {
            return true;
        }
        unready.0 -= 1;
        unready.1.push(data[..count].to_vec());
        false
    }
    fn serve(&self, _queue: u16, buffer: &mut Chain<'_>) -> Result<u32, Violation> {
        let mut data = [0; 16];
        let count = buffer.read(&mut data);
        if data[0] == b'!' {
            return Err(Violation("virtio-echo protocol violation: shouting".into()));
        }
        Ok(buffer.write(&data[..count]) as u32)
    }
    fn driver_reset(&self) {
        *self.resets.lock().unwrap() += 1;
    }
}
