//! The source's threads: they look at pages, and send them or put them into a file.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::compression::{Compression, Packer};
use super::{Head, begin};
use crate::channel::Channel;
use crate::progress::Counters;
use crate::ram::save::{Scan, SendBlock};
use crate::wire::{Output, PAGE};

/// Pages of one block that somebody is to look at.
pub(crate) struct Job {
    pub(crate) block: Arc<SendBlock>,
    /// Runs of pages, at most [`super::PACKET_PAGES`] together.
    pub(crate) pages: Vec<Range<u64>>,
    /// Whether there may be memory that nobody ever touched.
    pub(crate) bulk: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that are at a job.
    busy: usize,
    /// How often all were asked to send a packet to wait after, and how many have not yet.
    flushes: u64,
    to_flush: usize,
    /// Nothing more comes.
    done: bool,
    error: Option<(io::ErrorKind, String)>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    most: usize,
}

/// All channels.
pub(crate) struct Senders {
    shared: Arc<Shared>,
    channels: Vec<Arc<Channel>>,
    threads: Vec<JoinHandle<()>>,
    /// Nothing is to be sent any more, and all was.
    finished: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Changed by whole steps that do not panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: &io::Error) {
        let mut queue = self.lock();
        queue.error.get_or_insert((error.kind(), qapi::strerror(error)));
        queue.jobs.clear();
        drop(queue);
        self.changed.notify_all();
    }
}

/// What a thread does next.
enum Step {
    Job(Job),
    Flush,
    End,
}

/// Where a thread's pages go.
pub(crate) enum Sink {
    /// Into packets on a channel of its own, which begins with the machine's UUID and a number.
    Packets([u8; 16], u8, Compression),
    /// To places of their own in a file.
    Places,
}

impl Senders {
    /// Starts a thread for each channel.
    ///
    /// # Errors
    /// The host has no thread.
    pub(crate) fn start(channels: Vec<(Arc<Channel>, Sink)>, counters: &Arc<Counters>) -> io::Result<Self> {
        let count = channels.len();
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), most: 2 * count });
        let mut senders = Self { shared, channels: Vec::new(), threads: Vec::new(), finished: false };
        for (number, (channel, sink)) in channels.into_iter().enumerate() {
            let (shared, counters) = (Arc::clone(&senders.shared), Arc::clone(counters));
            senders.channels.push(Arc::clone(&channel));
            let run = move || {
                let out = Output::new(channel, Arc::clone(&counters.multifd));
                let mut worker = Worker { shared: &shared, out, counters: &counters, number: 0, flushed: 0 };
                if let Err(error) = worker.run(&sink) {
                    shared.fail(&error);
                }
            };
            let thread = std::thread::Builder::new().name(format!("mig/src/send_{number}")).spawn(run)?;
            senders.threads.push(thread);
        }
        Ok(senders)
    }

    /// Hands pages to a thread, waiting for one that has room.
    ///
    /// # Errors
    /// A channel broke.
    pub(crate) fn send(&self, job: Job) -> io::Result<()> {
        let mut queue = self.shared.lock();
        while queue.jobs.len() >= self.shared.most && queue.error.is_none() {
            queue = self.shared.wait(queue);
        }
        Self::check(&queue)?;
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.changed.notify_all();
        Ok(())
    }

    fn check(queue: &Queue) -> io::Result<()> {
        match &queue.error {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => Ok(()),
        }
    }

    /// Waits until all that was handed over is written, and has every channel say so.
    ///
    /// # Errors
    /// A channel broke.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut queue = self.shared.lock();
        while (!queue.jobs.is_empty() || queue.busy > 0) && queue.error.is_none() {
            queue = self.shared.wait(queue);
        }
        queue.flushes += 1;
        queue.to_flush = self.threads.len();
        self.shared.changed.notify_all();
        while queue.to_flush > 0 && queue.error.is_none() {
            queue = self.shared.wait(queue);
        }
        Self::check(&queue)
    }

    /// All was flushed, and nothing comes.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.shared.lock().done = true;
        self.shared.changed.notify_all();
        if !self.finished {
            // Otherwise a peer that reads no more would be waited for.
            self.channels.iter().for_each(|channel| channel.shut());
        }
        for thread in self.threads.drain(..) {
            // What it ended with was told to whoever sent.
            let _ = thread.join();
        }
        for channel in self.channels.drain(..) {
            if let Some(channel) = Arc::into_inner(channel) {
                let _ = channel.finish();
            }
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    out: Output,
    counters: &'a Counters,
    /// Packets so far.
    number: u64,
    /// Flushes so far.
    flushed: u64,
}

impl Worker<'_> {
    fn next(&mut self) -> Step {
        let mut queue = self.shared.lock();
        loop {
            if queue.error.is_some() {
                return Step::End;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.busy += 1;
                drop(queue);
                self.shared.changed.notify_all();
                return Step::Job(job);
            }
            if queue.flushes > self.flushed {
                self.flushed = queue.flushes;
                return Step::Flush;
            }
            if queue.done {
                return Step::End;
            }
            queue = self.shared.wait(queue);
        }
    }

    fn run(&mut self, sink: &Sink) -> io::Result<()> {
        let mut packer = None;
        if let Sink::Packets(uuid, number, compression) = sink {
            packer = Packer::new(*compression)?;
            self.out.bytes(&begin(*uuid, *number))?;
            self.out.flush()?;
        }
        loop {
            match self.next() {
                Step::End => return Ok(()),
                Step::Job(job) => {
                    let result = match sink {
                        Sink::Packets(_, _, compression) => self.packet(&job, *compression, &mut packer),
                        Sink::Places => self.places(&job),
                    };
                    self.shared.lock().busy -= 1;
                    self.shared.changed.notify_all();
                    result?;
                }
                Step::Flush => {
                    if let Sink::Packets(..) = sink {
                        let head = Head { sync: true, number: self.count(), ..Head::default() };
                        self.out.bytes(&head.to_bytes())?;
                        self.out.flush()?;
                    }
                    self.shared.lock().to_flush -= 1;
                    self.shared.changed.notify_all();
                }
            }
        }
    }

    fn count(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    fn packet(&mut self, job: &Job, compression: Compression, packer: &mut Option<Packer>) -> io::Result<()> {
        let mut runs = Vec::new();
        let mut head = Head {
            number: self.count(),
            compression: compression.flag(),
            block: job.block.name.clone(),
            ..Head::default()
        };
        let mut scan = Scan::new(&job.block, job.bulk);
        for range in &job.pages {
            scan.range(range.clone(), |run, zero| {
                let pages = run.clone().step_by(PAGE as usize);
                if zero {
                    head.zero.extend(pages);
                } else {
                    head.normal.extend(pages);
                    runs.push(run);
                }
                Ok(())
            })?;
        }
        match packer {
            None => {
                head.size = head.normal.len() as u32 * PAGE as u32;
                self.out.bytes(&head.to_bytes())?;
                for run in runs {
                    self.out.guest(&job.block.block, run.start, run.end - run.start)?;
                }
            }
            Some(packer) => {
                let contents = packer.pack(&job.block.block, &runs)?;
                head.size = contents.len() as u32;
                self.out.bytes(&head.to_bytes())?;
                self.out.bytes(contents)?;
            }
        }
        self.out.flush()?;
        self.counters.zero_pages.fetch_add(head.zero.len() as u64, Ordering::Relaxed);
        self.counters.pages.fetch_add(head.normal.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn places(&mut self, job: &Job) -> io::Result<()> {
        let mut scan = Scan::new(&job.block, job.bulk);
        for range in &job.pages {
            scan.range(range.clone(), |run, zero| {
                let counter = if zero { &self.counters.zero_pages } else { &self.counters.pages };
                counter.fetch_add((run.end - run.start) / PAGE, Ordering::Relaxed);
                match job.block.place() {
                    Some(place) => place.put_pages(&mut self.out, &job.block.block, &run, zero),
                    None => Ok(()),
                }
            })?;
        }
        Ok(())
    }
}
