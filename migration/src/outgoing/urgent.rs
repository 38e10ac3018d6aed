//! A channel of its own for pages that are waited for (capability `postcopy-preempt`): they do not queue up behind others.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::channel::Channel;
use crate::progress::Counters;
use crate::ram::save::postcopy::Pages;
use crate::return_path::ReturnPath;
use crate::wire::{Output, ram};

/// The channel, and the thread that serves it.
pub(super) struct Urgent {
    channel: Arc<Channel>,
    back: Arc<ReturnPath>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Urgent {
    /// Sends what is asked for on `back` over `channel`. If that breaks, `main` is shut, too.
    ///
    /// # Errors
    /// The host has no thread.
    pub(super) fn start(
        channel: Arc<Channel>,
        main: Arc<Channel>,
        back: Arc<ReturnPath>,
        pages: Pages,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let (out, requests) =
            (Output::new(Arc::clone(&channel), Arc::clone(&counters.sent)), Arc::clone(&back));
        let run = move || {
            let result = serve(out, &requests, &pages, &counters);
            if let Err(error) = &result {
                tracing::error!("pages that are waited for: {}", qapi::strerror(error));
                main.shut();
            }
            result
        };
        let thread = std::thread::Builder::new().name("mig/src/urgent".into()).spawn(run)?;
        Ok(Self { channel, back, thread: Some(thread) })
    }

    /// Ends the channel, once all pages that were taken are out.
    ///
    /// # Errors
    /// It broke.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.back.end_requests();
        let thread = self.thread.take().map(JoinHandle::join);
        thread.map_or(Ok(()), |ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.channel.shut();
            self.back.end_requests();
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn serve(mut out: Output, back: &ReturnPath, pages: &Pages, counters: &Counters) -> io::Result<()> {
    while let Some(request) = back.next_request() {
        pages.send(&mut out, counters, &request)?;
        out.flush()?;
    }
    out.u64(ram::END)?;
    out.flush()
}
