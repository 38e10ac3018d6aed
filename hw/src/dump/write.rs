//! Writing the file. Runs on the main loop thread or on one of its own; the guest is stopped.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

use qapi::{Error, Result, strerror};

use super::elf::{Layout, NAMES};
use super::plan::{Plan, Run};
use super::{Progress, notes};
use crate::inspect::output::Output;

/// Bytes of memory that are read in one go.
const CHUNK: u64 = 1 << 20;
/// Bytes that are looked through for data in one go, so that the end of the program is noticed.
const WINDOW: u64 = 1 << 30;
/// Bytes of program headers that are written in one go.
const HEADERS: usize = 1 << 16;

/// Writes the dump to `file`.
///
/// # Errors
/// QEMU's texts. What was written stays.
pub(super) fn write(plan: &Plan, file: File, progress: &Progress) -> Result<()> {
    let loads = plan
        .loads()
        .map_err(|_| Error::generic("dump: the page tables of the guest are too large, use paging=false"))?;
    let long_mode = plan.is_long_mode();
    let numbered = (1..).zip(&plan.vcpus);
    let status: Vec<u8> = numbered.flat_map(|(id, vcpu)| notes::status(id, vcpu, long_mode)).collect();
    let state: Vec<u8> = plan.vcpus.iter().flat_map(notes::state).collect();
    let notes_len = (status.len() + state.len() + plan.guest_note.len()) as u64;
    let layout = Layout::new(long_mode, plan.is_large(), loads.len(), notes_len, plan.total());
    let mut out = Output::new(file);
    out.write(&layout.header()).map_err(failed("write elf header"))?;
    out.write(&layout.sections()).map_err(failed("write section headers"))?;
    let mut headers = Vec::new();
    layout.note_segment(&mut headers);
    for load in &loads {
        layout.load_segment(&mut headers, load);
        if headers.len() >= HEADERS {
            out.write(&headers).map_err(failed("write program header table"))?;
            headers.clear();
        }
    }
    out.write(&headers).map_err(failed("write program header table"))?;
    drop(loads);
    out.write(&status).map_err(|_| Error::generic("dump: failed to write elf notes"))?;
    out.write(&state).map_err(|_| Error::generic("dump: failed to write CPU status"))?;
    out.write(&plan.guest_note).map_err(|_| Error::generic("dump: failed to write guest note"))?;
    out.zeroes(layout.padding()).map_err(failed("save memory"))?;
    let mut buf = Vec::new();
    for run in &plan.dumped {
        save(run, &mut out, &mut buf, progress)?;
    }
    out.write(NAMES).and_then(|()| out.finish()).map_err(failed("write section data"))
}

fn failed(what: &str) -> impl Fn(io::Error) -> Error {
    move |error| Error::generic(format!("dump: failed to {what}: {}", strerror(&error)))
}

/// Writes one run, and holes where the guest has written nothing.
fn save(run: &Run, out: &mut Output, buf: &mut Vec<u8>, progress: &Progress) -> Result<()> {
    let reader = run.block.reader();
    let end = run.offset + run.len;
    let mut at = run.offset;
    let done = |bytes: u64| {
        progress.completed.fetch_add(bytes, Ordering::Relaxed);
    };
    while at < end {
        let data = reader.next_data(at..end.min(at + WINDOW));
        out.zeroes(data.start - at).map_err(failed("save memory"))?;
        done(data.start - at);
        at = data.start;
        while at < data.end {
            if progress.cancelled.load(Ordering::Relaxed) {
                return Err(Error::generic("dump: cancelled"));
            }
            let len = CHUNK.min(data.end - at);
            buf.resize(len as usize, 0);
            reader.read(at, buf)?;
            out.write_sparse(buf).map_err(failed("save memory"))?;
            done(len);
            at += len;
        }
    }
    Ok(())
}
