//! Claims about the loop, on real pipes and eventfds.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::pipe;

use crate::{Clock, Handle, Interest, LoopGone, MainLoop, Signal, Watch};

/// A log that callbacks append to.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: impl ToString) {
        self.0.lock().unwrap().push(line.to_string());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn turn(main: &mut MainLoop) {
    main.turn(Some(Duration::ZERO)).unwrap();
}

fn read_byte(fd: impl AsFd) -> usize {
    let mut byte = [0];
    rustix::io::read(fd, &mut byte).unwrap()
}

fn counting_watch(handle: &Handle, fd: &OwnedFd, interest: Interest) -> (Watch, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let watch = handle.watch(fd, interest, move |_| _ = counter.fetch_add(1, Ordering::Relaxed)).unwrap();
    (watch, count)
}

#[test]
fn run_returns_the_first_code_it_was_asked_to_quit_with() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    handle.post({
        let handle = handle.clone();
        move || {
            handle.quit(3);
            handle.quit(4);
        }
    });
    assert_eq!(main.run(), 3);
}

#[test]
fn posts_of_other_threads_wake_the_loop_and_keep_their_order() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    let log = Log::default();
    let poster = thread::spawn({
        let log = log.clone();
        move || {
            for n in 0..100 {
                let log = log.clone();
                handle.post(move || log.push(n));
            }
            let quitter = handle.clone();
            handle.post(move || quitter.quit(0));
        }
    });
    main.run();
    poster.join().unwrap();
    assert_eq!(log.take(), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn work_posted_by_posted_work_waits_for_the_next_turn() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    let log = Log::default();
    handle.post({
        let (handle, log) = (handle.clone(), log.clone());
        move || {
            log.push("first");
            handle.post(move || log.push("second"));
        }
    });
    turn(&mut main);
    assert_eq!(log.take(), ["first"]);
    turn(&mut main);
    assert_eq!(log.take(), ["second"]);
}

#[test]
fn run_on_loop_gives_the_value_back_to_another_thread_and_calls_directly_on_its_own() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    assert_eq!(handle.run_on_loop(|| 1), Ok(1));
    let asker = thread::spawn(move || {
        let loop_thread = handle.run_on_loop(|| thread::current().id());
        handle.quit(0);
        loop_thread
    });
    main.run();
    assert_eq!(asker.join().unwrap(), Ok(thread::current().id()));
}

#[test]
fn run_on_loop_fails_once_the_loop_has_ended() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    // Asked before the end: dropped by it. Asked after the end: refused.
    let (started, wait) = mpsc::channel();
    let asker = thread::spawn({
        let handle = handle.clone();
        move || {
            started.send(()).unwrap();
            handle.run_on_loop(|| ())
        }
    });
    wait.recv().unwrap();
    handle.quit(0);
    main.run();
    let early = asker.join().unwrap();
    assert!(early == Ok(()) || early == Err(LoopGone));
    drop(main);
    assert_eq!(thread::spawn(move || handle.run_on_loop(|| ())).join().unwrap(), Err(LoopGone));
}

#[test]
fn a_watch_is_level_triggered() {
    let mut main = MainLoop::new().unwrap();
    let (reader, writer) = pipe().unwrap();
    let (_watch, count) = counting_watch(&main.handle(), &reader, Interest::READ);
    turn(&mut main);
    assert_eq!(count.load(Ordering::Relaxed), 0);
    rustix::io::write(&writer, b"x").unwrap();
    turn(&mut main);
    turn(&mut main);
    assert_eq!(count.load(Ordering::Relaxed), 2, "not consumed, so called again");
    read_byte(&reader);
    turn(&mut main);
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_closed_peer_is_reported_as_a_hang_up_unless_the_watch_sleeps() {
    let mut main = MainLoop::new().unwrap();
    let (reader, writer) = pipe().unwrap();
    let log = Log::default();
    let watch = main
        .handle()
        .watch(&reader, Interest::HANGUP, {
            let log = log.clone();
            move |ready| log.push(ready.hangup)
        })
        .unwrap();
    rustix::io::write(&writer, b"x").unwrap();
    turn(&mut main);
    assert!(log.take().is_empty(), "data does not interest this watch");
    drop(writer);
    turn(&mut main);
    assert_eq!(log.take(), ["true"]);
    watch.set_interest(Interest::NONE);
    turn(&mut main);
    assert!(log.take().is_empty());
    watch.set_interest(Interest::READ);
    turn(&mut main);
    assert_eq!(log.take(), ["true"]);
}

#[test]
fn a_watch_dropped_by_its_own_callback_is_not_called_again_and_frees_the_descriptor() {
    let mut main = MainLoop::new().unwrap();
    let (reader, writer) = pipe().unwrap();
    let slot: Arc<Mutex<Option<Watch>>> = Arc::default();
    let log = Log::default();
    let watch = main
        .handle()
        .watch(&reader, Interest::READ, {
            let (slot, log) = (Arc::clone(&slot), log.clone());
            move |_| {
                log.push("called");
                slot.lock().unwrap().take();
            }
        })
        .unwrap();
    *slot.lock().unwrap() = Some(watch);
    rustix::io::write(&writer, b"x").unwrap();
    turn(&mut main);
    turn(&mut main);
    assert_eq!(log.take(), ["called"]);
    drop(reader);
    assert_eq!(
        rustix::io::write(&writer, b"x"),
        Err(rustix::io::Errno::PIPE),
        "no copy of the reader is left"
    );
}

#[test]
fn an_event_already_collected_for_a_watch_removed_meanwhile_is_not_delivered() {
    let mut main = MainLoop::new().unwrap();
    let log = Log::default();
    let slots: Arc<Mutex<Vec<Watch>>> = Arc::default();
    let pipes: Vec<_> = (0..4).map(|_| pipe().unwrap()).collect();
    for (reader, writer) in &pipes {
        rustix::io::write(writer, b"x").unwrap();
        let (slots_of_all, log) = (Arc::clone(&slots), log.clone());
        let watch = main.handle().watch(reader, Interest::READ, move |_| {
            log.push("called");
            slots_of_all.lock().unwrap().clear();
        });
        slots.lock().unwrap().push(watch.unwrap());
    }
    turn(&mut main);
    assert_eq!(log.take(), ["called"], "the first one removed all, itself included");
}

#[test]
fn two_watches_on_one_descriptor_are_independent() {
    let mut main = MainLoop::new().unwrap();
    let (reader, writer) = pipe().unwrap();
    let (first, first_count) = counting_watch(&main.handle(), &reader, Interest::READ);
    let (_second, second_count) = counting_watch(&main.handle(), &reader, Interest::READ);
    rustix::io::write(&writer, b"x").unwrap();
    turn(&mut main);
    drop(first);
    turn(&mut main);
    assert_eq!((first_count.load(Ordering::Relaxed), second_count.load(Ordering::Relaxed)), (1, 2));
}

#[test]
fn a_regular_file_counts_as_always_ready() {
    let mut main = MainLoop::new().unwrap();
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let (watch, count) = counting_watch(&main.handle(), &null, Interest::READ);
    main.turn(None).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    watch.set_interest(Interest::NONE);
    turn(&mut main);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn dropping_the_loop_drops_what_callbacks_own_even_in_cycles() {
    let main = MainLoop::new().unwrap();
    let (reader, _writer) = pipe().unwrap();
    let witness = Arc::new(());
    let slot: Arc<Mutex<Option<Watch>>> = Arc::default();
    let handle = main.handle();
    let watch = handle.watch(&reader, Interest::READ, {
        let (slot, witness, handle) = (Arc::clone(&slot), Arc::clone(&witness), handle.clone());
        move |_| drop((slot.lock().unwrap().take(), Arc::clone(&witness), handle.clone()))
    });
    *slot.lock().unwrap() = Some(watch.unwrap());
    let (kept, posted) = (Arc::clone(&witness), Arc::clone(&witness));
    handle.timer(Clock::Realtime, i64::MAX, move || drop(kept)).detach();
    handle.post(move || drop(posted));
    drop((main, slot));
    assert_eq!(Arc::strong_count(&witness), 1);
    assert!(handle.watch(&reader, Interest::READ, |_| ()).is_err());
}

#[test]
fn a_realtime_timer_fires_after_its_deadline_and_only_once() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    let deadline = handle.now_ns(Clock::Realtime) + 2_000_000;
    let timer = handle.timer(Clock::Realtime, deadline, {
        let handle = handle.clone();
        move || handle.quit(i32::from(handle.now_ns(Clock::Realtime) >= deadline))
    });
    assert!(timer.is_pending());
    assert_eq!(main.run(), 1);
    assert!(!timer.is_pending());
}

#[test]
fn a_cancelled_timer_never_fires_and_a_detached_one_does() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    let log = Log::default();
    let timer = |name: &'static str| {
        let log = log.clone();
        handle.timer(Clock::Realtime, 0, move || log.push(name))
    };
    timer("cancelled").cancel();
    timer("detached").detach();
    let second = Arc::new(Mutex::new(None));
    let canceller = Arc::clone(&second);
    let first = handle.timer(Clock::Realtime, 1, move || drop(canceller.lock().unwrap().take()));
    *second.lock().unwrap() = Some(timer("cancelled by another"));
    let third = handle.timer(Clock::Realtime, 2, {
        let log = log.clone();
        move || log.push("third")
    });
    turn(&mut main);
    // Deadline 0 precedes deadline 1, so the canceller comes too late for that one.
    assert_eq!(log.take(), ["detached", "cancelled by another", "third"]);
    drop((first, third));
}

#[test]
fn virtual_time_runs_only_between_start_and_stop() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    let clock = handle.virtual_clock();
    assert_eq!(clock.now_ns(), 0);
    let log = Log::default();
    let _timer = handle.timer(Clock::Virtual, 1, {
        let (log, handle) = (log.clone(), handle.clone());
        move || {
            log.push("fired");
            handle.quit(0);
        }
    });
    turn(&mut main);
    assert_eq!((clock.now_ns(), log.take().len()), (0, 0));
    clock.start();
    main.run();
    assert_eq!(log.take(), ["fired"]);
    clock.stop();
    let stopped = clock.now_ns();
    assert!(stopped >= 1);
    let _due = handle.timer(Clock::Virtual, 0, || panic!("guest time is stopped"));
    turn(&mut main);
    assert_eq!(clock.now_ns(), stopped);
}

#[test]
fn under_qtest_a_step_goes_to_the_next_deadline_and_an_advance_visits_every_one_in_order() {
    let main = MainLoop::new().unwrap();
    let handle = main.handle();
    let clock = handle.virtual_clock();
    clock.set_manual();
    let log = Log::default();
    for deadline in [30, 10, 20, 20] {
        let (log, handle) = (log.clone(), handle.clone());
        handle
            .clone()
            .timer(Clock::Virtual, deadline, move || {
                log.push(format!("{deadline}@{}", handle.now_ns(Clock::Virtual)));
            })
            .detach();
    }
    assert_eq!(clock.step_to_next(), 10);
    assert_eq!(log.take(), ["10@10"]);
    assert_eq!(clock.advance_to(25), 25);
    assert_eq!(log.take(), ["20@20", "20@20"]);
    assert_eq!(clock.advance_to(5), 25, "never backwards");
    assert_eq!(clock.advance_to(100), 100);
    assert_eq!(log.take(), ["30@30"]);
    assert_eq!(clock.step_to_next(), 100, "no timer, no step");
}

#[test]
fn an_advance_runs_a_periodic_timer_once_a_period_and_survives_one_that_re_arms_for_now() {
    fn every(handle: Handle, at: i64, period: i64, count: Arc<AtomicUsize>) {
        let again = handle.clone();
        let callback = move || {
            count.fetch_add(1, Ordering::Relaxed);
            every(again, at + period, period, count);
        };
        handle.timer(Clock::Virtual, at, callback).detach();
    }
    let main = MainLoop::new().unwrap();
    let clock = main.handle().virtual_clock();
    clock.set_manual();
    let count = Arc::new(AtomicUsize::new(0));
    every(main.handle(), 10, 10, Arc::clone(&count));
    assert_eq!(clock.advance_to(1000), 1000);
    assert_eq!(count.load(Ordering::Relaxed), 100);
    every(main.handle(), 1500, 0, Arc::default());
    assert_eq!(clock.advance_to(2000), 2000);
}

#[test]
fn a_blocked_signal_arrives_as_an_event_with_its_sender() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    let log = Log::default();
    let _signals = handle
        .watch_signals(&[Signal::USR1], {
            let (log, handle) = (log.clone(), handle.clone());
            move |info| {
                log.push(format!("{} from {}", info.signo, info.pid));
                handle.quit(0);
            }
        })
        .unwrap();
    // Threads of the test harness do not block it, so it is sent to this very thread.
    send_to_this_thread(Signal::USR1);
    main.run();
    assert_eq!(log.take(), [format!("{} from {}", Signal::USR1.as_raw(), std::process::id())]);
}

#[test]
fn start_up_that_blocks_can_see_that_a_signal_is_pending() {
    let mut main = MainLoop::new().unwrap();
    let handle = main.handle();
    let quitter = handle.clone();
    let signals = handle.watch_signals(&[Signal::USR2], move |_| quitter.quit(7)).unwrap();
    let fds = handle.signal_fds().unwrap();
    let pending = || {
        let mut polled = [PollFd::new(&fds[0], PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap()
    };
    assert_eq!((fds.len(), pending()), (1, 0));
    send_to_this_thread(Signal::USR2);
    assert_eq!(pending(), 1);
    assert_eq!(main.run(), 7);
    drop(signals);
    assert!(handle.signal_fds().unwrap().is_empty());
}

#[expect(unsafe_code, reason = "rustix cannot send a signal to one thread")]
fn send_to_this_thread(signal: Signal) {
    // SAFETY: pthread_self is the calling thread, which lives; the signal number is valid.
    unsafe { libc::pthread_kill(libc::pthread_self(), signal.as_raw()) };
}

proptest! {
    /// Whatever is armed and cancelled, an advance runs exactly what is due, by deadline and then by age.
    #[test]
    fn an_advance_agrees_with_a_sorted_list(
        timers in proptest::collection::vec((0i64..50, any::<bool>()), 0..40), target in 0i64..60,
    ) {
        let main = MainLoop::new().unwrap();
        let handle = main.handle();
        let clock = handle.virtual_clock();
        clock.set_manual();
        let log = Log::default();
        let mut expected = Vec::new();
        for (index, (deadline, cancel)) in timers.iter().enumerate() {
            let log = log.clone();
            let timer = handle.timer(Clock::Virtual, *deadline, move || log.push(index));
            if *cancel { timer.cancel() } else {
                timer.detach();
                if *deadline <= target { expected.push((*deadline, index)); }
            }
        }
        expected.sort_unstable();
        prop_assert_eq!(clock.advance_to(target), target);
        prop_assert_eq!(log.take(), expected.iter().map(|(_, index)| index.to_string()).collect::<Vec<_>>());
    }
}
