//! How far the preallocation of memory is, on the terminal that the program was started on.
//!
//! Only while the program starts, only if standard error is a terminal, and only if it takes long enough to matter. The line is
//! erased when it is over.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use memory::PreallocObserver;
use monitor::TerminalSettings;
use monitor::progress::{Meter, PACE};
use rustix::termios::{isatty, tcgetwinsize};

/// Draws the line.
pub(crate) struct ProgressLine {
    state: Mutex<State>,
    unicode: bool,
    write: Box<dyn Fn(&str) + Send + Sync>,
    columns: Box<dyn Fn() -> usize + Send + Sync>,
    afterwards: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    meter: Option<Meter>,
    drawn: Option<Instant>,
}

impl ProgressLine {
    /// One on standard error, if somebody looks at it.
    pub(crate) fn on_stderr(settings: &TerminalSettings) -> Option<Self> {
        let stderr = rustix::stdio::stderr();
        let write = |text: &str| {
            // There is nobody to tell when stderr is gone.
            let _ = std::io::stderr().write_all(text.as_bytes());
        };
        let columns =
            || tcgetwinsize(rustix::stdio::stderr()).map_or(80, |size| usize::from(size.ws_col.max(1)));
        (settings.moves && isatty(stderr)).then(|| Self::new(settings.utf8, write, columns))
    }

    fn new(
        unicode: bool,
        write: impl Fn(&str) + Send + Sync + 'static,
        columns: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Self {
        Self {
            state: Mutex::default(),
            unicode,
            write: Box::new(write),
            columns: Box::new(columns),
            afterwards: Box::new(|| {}),
        }
    }

    /// Has `draw` called when a line was erased, for whoever wrote there before.
    pub(crate) fn afterwards(&mut self, draw: impl Fn() + Send + Sync + 'static) {
        self.afterwards = Box::new(draw);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, now: Instant, done: u64, total: u64) {
        // Whoever comes while another thread draws has nothing newer to say.
        let Ok(mut state) = self.state.try_lock() else { return };
        let State { meter, drawn } = &mut *state;
        let meter = meter.get_or_insert_with(|| Meter::new("preallocating", now));
        if drawn.is_some_and(|at| now.saturating_duration_since(at) < PACE) {
            return;
        }
        meter.update(now, done, total);
        if meter.is_due(now) {
            (self.write)(&format!("\r{}\x1b[K", meter.line((self.columns)(), self.unicode)));
            *drawn = Some(now);
        }
    }
}

impl PreallocObserver for ProgressLine {
    fn progress(&self, done: u64, total: u64) {
        self.update(Instant::now(), done, total);
    }

    fn ended(&self) {
        let state = std::mem::take(&mut *self.state());
        if state.drawn.is_some() {
            (self.write)("\r\x1b[K");
            (self.afterwards)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn line() -> (ProgressLine, Arc<Mutex<String>>) {
        let screen = Arc::new(Mutex::new(String::new()));
        let twin = Arc::clone(&screen);
        (ProgressLine::new(false, move |text| *twin.lock().unwrap() += text, || 80), screen)
    }

    #[test]
    fn what_is_over_soon_is_not_told() {
        let (line, screen) = line();
        let start = Instant::now();
        line.update(start, 0, 1 << 30);
        line.update(start + Duration::from_millis(200), 1 << 30, 1 << 30);
        line.ended();
        assert_eq!(*screen.lock().unwrap(), "");
    }

    #[test]
    fn what_takes_long_is_told_now_and_then_and_erased() {
        let (line, screen) = line();
        let start = Instant::now();
        for ms in 0..1000 {
            line.update(start + Duration::from_millis(ms), ms << 20, 1000 << 20);
        }
        assert_eq!(
            screen.lock().unwrap().matches('\r').count(),
            7,
            "each tenth of a second, after the first three"
        );
        let shown = screen.lock().unwrap().clone();
        assert!(shown.contains(
            "\rpreallocating [####..........]  30%  300 MiB of 1000 MiB, 1000 MiB/s, 0:01 left\x1b[K"
        ));
        line.ended();
        assert!(screen.lock().unwrap().ends_with("left\x1b[K\r\x1b[K"));
        // The next one begins anew.
        line.update(start + Duration::from_secs(9), 0, 1);
        line.ended();
        assert!(screen.lock().unwrap().ends_with("left\x1b[K\r\x1b[K"));
    }
}
