//! Something between two machines that breaks when it is told to.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// Takes connections at one path and hands what comes on to another.
pub(super) struct Relay {
    uri: String,
    ends: Arc<Mutex<Vec<UnixStream>>>,
}

impl Relay {
    /// From `dir/from` to whoever listens at `to`. Breaks by itself after `limit` bytes of the side that connects, over all connections.
    pub(super) fn start(dir: &Path, to: &str, limit: Option<usize>) -> Self {
        let from = dir.join(format!("{}-relay", Path::new(to).file_name().unwrap().to_string_lossy()));
        let listener = UnixListener::bind(&from).unwrap();
        let ends = Arc::<Mutex<Vec<UnixStream>>>::default();
        let (kept, to) = (Arc::clone(&ends), PathBuf::from(to));
        let left = Arc::new(Mutex::new(limit));
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = UnixStream::connect(&to) else { return };
                let copy = |stream: &UnixStream| stream.try_clone().unwrap();
                kept.lock().unwrap().extend([copy(&near), copy(&far)]);
                let (there, back) = ((copy(&near), copy(&far)), (far, near));
                let left = Arc::clone(&left);
                let ends = Arc::clone(&kept);
                thread::spawn(move || pump(there.0, there.1, &left, &ends));
                let ends = Arc::clone(&kept);
                thread::spawn(move || pump(back.0, back.1, &Mutex::new(None), &ends));
            }
        });
        Self { uri: format!("unix:{}", from.display()), ends }
    }

    /// Where to connect to.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// Breaks all connections.
    pub(super) fn cut(&self) {
        cut(&self.ends);
    }
}

fn cut(ends: &Mutex<Vec<UnixStream>>) {
    for end in ends.lock().unwrap().drain(..) {
        // It may be closed already.
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// Hands on until one end is closed, which closes the other, or so many bytes have passed.
fn pump(
    mut from: UnixStream,
    mut to: UnixStream,
    left: &Mutex<Option<usize>>,
    ends: &Mutex<Vec<UnixStream>>,
) {
    let mut bytes = [0; 4096];
    loop {
        let mut count = match from.read(&mut bytes) {
            Ok(count) if count > 0 => count,
            _ => break,
        };
        let mut left = left.lock().unwrap();
        if let Some(left) = &mut *left {
            count = count.min(*left);
            *left -= count;
        }
        let over = *left == Some(0);
        drop(left);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
        if over {
            cut(ends);
            break;
        }
    }
    // Either may be closed already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
