//! A ring in memory that keeps the last output of a device, read and written through the monitor.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use qapi::{Error, Result};

use crate::backend::Backend;
use qapi::base64;

/// The largest ring. QEMU takes any power of two; this one is allocated as it fills.
const MAX_SIZE: u64 = 1 << 40;

/// How `ringbuf-read` and `ringbuf-write` carry bytes in JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataFormat {
    /// As text. Reading replaces what is not UTF-8 and stops before a zero byte, as QEMU.
    #[default]
    Utf8,
    /// Base 64.
    Base64,
}

/// The back end `ringbuf`.
#[derive(Debug)]
pub(crate) struct RingBuf {
    size: usize,
    name: &'static str,
    data: Mutex<VecDeque<u8>>,
}

impl RingBuf {
    pub(crate) fn new(size: u64, name: &'static str) -> Result<Self> {
        if !size.is_power_of_two() {
            return Err(Error::generic("size of ringbuf chardev must be power of two"));
        }
        let size =
            usize::try_from(size.min(MAX_SIZE)).map_err(|_| Error::generic("ringbuf chardev too large"))?;
        Ok(Self { size, name, data: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, data: &[u8]) {
        let kept = &data[data.len().saturating_sub(self.size)..];
        let mut ring = self.lock();
        let excess = (ring.len() + kept.len()).saturating_sub(self.size);
        ring.drain(..excess);
        ring.extend(kept);
    }

    pub(crate) fn write_text(&self, text: &str, format: DataFormat) -> Result<()> {
        match format {
            DataFormat::Utf8 => self.push(text.as_bytes()),
            DataFormat::Base64 => {
                let data = base64::decode(text)
                    .ok_or_else(|| Error::generic("Base64 data contains invalid characters"))?;
                self.push(&data);
            }
        }
        Ok(())
    }

    pub(crate) fn read_text(&self, size: i64, format: DataFormat) -> Result<String> {
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size > 0)
            .ok_or_else(|| Error::generic("size must be greater than zero"))?;
        let data: Vec<u8> = {
            let mut ring = self.lock();
            let count = size.min(ring.len());
            ring.drain(..count).collect()
        };
        Ok(match format {
            DataFormat::Base64 => base64::encode(&data),
            DataFormat::Utf8 => {
                let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
                String::from_utf8_lossy(text).into_owned()
            }
        })
    }
}

impl Backend for RingBuf {
    fn filename(&self) -> String {
        self.name.to_owned()
    }

    fn write(&self, data: &[u8], _limit: usize) -> usize {
        self.push(data);
        data.len()
    }

    fn ring(&self) -> Option<&RingBuf> {
        Some(self)
    }
}

#[cfg(test)]
mod tests;
