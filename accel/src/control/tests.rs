//! Claims about pausing, resuming and resetting vCPU threads.

use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// Registers by which a vCPU of a test is known.
fn snapshot_of(cpu: usize) -> Snapshot {
    let registers = Registers { rip: 0x1000 + cpu as u64, ..Registers::at_reset() };
    Snapshot { registers, apic: None }
}

/// A vCPU thread that "executes" by waiting on a channel: each kick wakes it, and it reports every step it takes.
struct Model {
    control: Arc<Control>,
    kicks: Vec<mpsc::Sender<()>>,
    steps: mpsc::Receiver<(usize, Step)>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Model {
    fn new(count: usize) -> Self {
        let control = Arc::new(Control::new());
        let (report, steps) = mpsc::channel();
        let (mut kicks, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (cpu, stop) = control.add();
            let (kick, kicked) = mpsc::channel::<()>();
            kicks.push(kick);
            let (control, report) = (Arc::clone(&control), report.clone());
            threads.push(thread::spawn(move || {
                loop {
                    let step = control.next(cpu);
                    report.send((cpu, step)).unwrap();
                    match step {
                        Step::Run => {
                            while !stop.is_set() {
                                kicked.recv().unwrap();
                            }
                        }
                        Step::Reset => control.reset_done(cpu),
                        Step::Save => control.save_done(cpu),
                        Step::Load => control.load_done(cpu, cpu == 1),
                        Step::Report => control.report(cpu, Some(snapshot_of(cpu))),
                        Step::Nmi => {}
                        Step::Leave | Step::Exit => return,
                    }
                }
            }));
        }
        Self { control, kicks, steps, threads }
    }

    fn kick(&self) -> impl Fn(usize) + '_ {
        |cpu| self.kicks[cpu].send(()).unwrap()
    }

    fn step(&self) -> (usize, Step) {
        self.steps.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn end(self) {
        self.control.shutdown(self.kick());
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn nobody_runs_before_the_first_resume_and_everybody_after() {
    let model = Model::new(3);
    assert!(model.steps.try_recv().is_err());
    model.control.resume();
    let mut ran: Vec<_> = (0..3).map(|_| model.step()).collect();
    ran.sort_by_key(|(cpu, _)| *cpu);
    assert_eq!(ran, [(0, Step::Run), (1, Step::Run), (2, Step::Run)]);
    model.end();
}

#[test]
fn pause_and_resume_can_alternate_without_losing_a_wake_up() {
    let model = Model::new(2);
    for _ in 0..500 {
        model.control.resume();
        model.control.pause(model.kick());
        assert!(model.control.lock().cpus.iter().all(|cpu| cpu.phase == Phase::Parked));
    }
    model.end();
}

#[test]
fn a_reset_is_taken_while_paused_and_once() {
    let model = Model::new(1);
    model.control.reset();
    assert_eq!(model.step(), (0, Step::Reset));
    model.control.resume();
    assert_eq!(model.step(), (0, Step::Run));
    model.control.pause(model.kick());
    model.control.reset();
    assert_eq!(model.step(), (0, Step::Reset));
    assert!(model.steps.try_recv().is_err());
    model.end();
}

#[test]
fn a_broken_cpu_stays_parked_until_its_reset() {
    let control = Arc::new(Control::new());
    let (cpu, stop) = control.add();
    control.resume();
    assert_eq!(control.next(cpu), Step::Run);
    control.break_down(cpu);
    assert!(stop.is_set());
    let (sender, steps) = mpsc::channel();
    let inner = Arc::clone(&control);
    let thread = thread::spawn(move || {
        loop {
            let step = inner.next(cpu);
            sender.send(step).unwrap();
            match step {
                Step::Reset => inner.reset_done(cpu),
                _ => return,
            }
        }
    });
    // It parks although the goal is Run: only then does pause return.
    control.pause(|_| ());
    control.resume();
    assert!(steps.try_recv().is_err());
    control.pause(|_| ());
    control.reset();
    control.resume();
    assert_eq!(steps.recv(), Ok(Step::Reset));
    assert_eq!(steps.recv(), Ok(Step::Run));
    thread.join().unwrap();
}

#[test]
fn two_cpus_that_pause_from_inside_do_not_wait_for_each_other() {
    let control = Arc::new(Control::new());
    let cpus: Vec<_> = (0..2).map(|_| control.add()).collect();
    control.resume();
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let threads: Vec<_> = cpus
        .into_iter()
        .map(|(cpu, stop)| {
            let (control, barrier) = (Arc::clone(&control), Arc::clone(&barrier));
            thread::spawn(move || {
                assert_eq!(control.next(cpu), Step::Run);
                barrier.wait();
                control.pause(|_| ());
                assert!(stop.is_set());
                assert_eq!(control.next(cpu), Step::Exit);
            })
        })
        .collect();
    // Parks both, then lets them go.
    barrier_free_wait(&control);
    control.shutdown(|_| ());
    for thread in threads {
        thread.join().unwrap();
    }
}

fn barrier_free_wait(control: &Control) {
    let mut inner = control.lock();
    while inner.cpus.iter().any(|cpu| cpu.thread.is_none() || cpu.phase != Phase::Parked) {
        inner = control.wait(inner);
    }
}

#[test]
fn a_cpu_whose_thread_panicked_holds_nobody_up() {
    let control = Arc::new(Control::new());
    let (cpu, _) = control.add();
    control.resume();
    let inner = Arc::clone(&control);
    let thread = thread::spawn(move || {
        let _gone = inner.gone_on_drop(cpu);
        assert_eq!(inner.next(cpu), Step::Run);
        panic!("a device's bug");
    });
    assert!(thread.join().is_err());
    assert!(control.pause(|_| panic!("nobody to kick")));
    assert!(!control.pause(|_| ()));
    control.reset();
}

#[test]
fn a_cpu_whose_thread_never_started_holds_nobody_up() {
    let control = Control::new();
    let (cpu, _) = control.add();
    control.give_up(cpu);
    control.pause(|_| ());
    control.reset();
}

#[test]
fn a_running_cpu_reports_its_registers_and_runs_on() {
    let model = Model::new(2);
    model.control.resume();
    let mut ran = [model.step(), model.step()];
    ran.sort_by_key(|(cpu, _)| *cpu);
    assert_eq!(ran, [(0, Step::Run), (1, Step::Run)]);
    for _ in 0..100 {
        assert_eq!(model.control.snapshot(1, model.kick()), Some(snapshot_of(1)));
        assert_eq!(model.step(), (1, Step::Report));
        assert_eq!(model.step(), (1, Step::Run));
    }
    model.end();
}

#[test]
fn a_paused_cpu_reports_its_registers_and_stays_paused() {
    let model = Model::new(1);
    for _ in 0..100 {
        let nobody_runs = |_| panic!("nobody to kick");
        assert_eq!(model.control.snapshot(0, nobody_runs), Some(snapshot_of(0)));
        assert_eq!(model.step(), (0, Step::Report));
    }
    assert!(model.steps.try_recv().is_err());
    model.end();
}

#[test]
fn everybody_who_asks_for_registers_is_answered_while_the_cpu_is_paused_and_resumed() {
    let model = Model::new(1);
    let control = &model.control;
    // An asker that is left out waits for ever.
    thread::scope(|scope| {
        for _ in 0..3 {
            let kick = model.kicks[0].clone();
            scope.spawn(move || {
                for _ in 0..300 {
                    let kick = |_| kick.send(()).unwrap();
                    assert_eq!(control.snapshot(0, kick), Some(snapshot_of(0)));
                }
            });
        }
        for _ in 0..300 {
            control.resume();
            control.pause(model.kick());
        }
    });
    model.end();
}

#[test]
fn nobody_waits_for_registers_that_cannot_come() {
    let control = Arc::new(Control::new());
    let (own, _) = control.add();
    let (gone, _) = control.add();
    control.give_up(gone);
    assert_eq!(control.snapshot(gone, |_| ()), None);
    assert_eq!(control.snapshot(7, |_| ()), None);
    // A vCPU that asks for its own from inside a device callback.
    control.resume();
    assert_eq!(control.next(own), Step::Run);
    assert_eq!(control.snapshot(own, |_| panic!("its own thread")), None);
    control.shutdown(|_| ());
    assert_eq!(control.snapshot(own, |_| ()), None);
}

#[test]
fn a_non_maskable_interrupt_is_taken_paused_or_running() {
    let model = Model::new(1);
    model.control.inject_nmi(0, |_| panic!("nobody runs"));
    assert_eq!(model.step(), (0, Step::Nmi));
    model.control.resume();
    assert_eq!(model.step(), (0, Step::Run));
    model.control.inject_nmi(0, model.kick());
    assert_eq!((model.step(), model.step()), ((0, Step::Nmi), (0, Step::Run)));
    // There is no such vCPU: nothing happens.
    model.control.inject_nmi(7, model.kick());
    model.end();
}

#[test]
fn a_reset_comes_before_a_non_maskable_interrupt_and_forgets_it() {
    let control = Control::new();
    let (cpu, _) = control.add();
    control.inject_nmi(cpu, |_| ());
    control.lock().cpus[cpu].task = Some(Task::Reset);
    assert_eq!(control.next(cpu), Step::Reset);
    control.reset_done(cpu);
    control.resume();
    assert_eq!(control.next(cpu), Step::Run);
}

#[test]
fn all_are_saved_and_loaded_at_once_after_what_was_sent_and_loading_breaks_or_mends() {
    let model = Model::new(2);
    model.control.inject_nmi(0, model.kick());
    model.control.begin_save();
    model.control.await_done();
    let mut steps: Vec<_> = (0..3).map(|_| model.step()).collect();
    steps.sort_by_key(|(cpu, _)| *cpu);
    assert_eq!(steps, [(0, Step::Nmi), (0, Step::Save), (1, Step::Save)]);
    model.control.begin_load();
    model.control.await_done();
    assert_eq!((0..2).map(|_| model.step().1).collect::<Vec<_>>(), [Step::Load; 2]);
    // The second came broken: it does not run.
    assert_eq!([0, 1].map(|cpu| model.control.is_broken(cpu)), [false, true]);
    model.control.resume();
    assert_eq!(model.step(), (0, Step::Run));
    model.control.pause(model.kick());
    assert!(model.steps.try_recv().is_err());
    model.end();
}

#[test]
fn who_has_a_vcpu_save_does_not_wait_for_one_that_is_gone() {
    let control = Control::new();
    let (cpu, _) = control.add();
    control.give_up(cpu);
    control.begin_save();
    control.await_done();
    control.begin_load();
    control.await_done();
}

#[test]
fn a_vcpu_that_rests_is_parked_until_its_time_or_until_it_is_woken() {
    let model = Model::new(1);
    model.control.resume();
    assert_eq!(model.step(), (0, Step::Run));
    let rest = |time| {
        model.control.rest(time);
        model.kick()(0);
    };
    rest(Duration::from_millis(1));
    assert_eq!(model.step(), (0, Step::Run));
    rest(Duration::from_secs(3600));
    // It stops before it reads its registers, and rests on.
    assert_eq!(model.control.snapshot(0, model.kick()), Some(snapshot_of(0)));
    assert_eq!(model.step(), (0, Step::Report));
    // What is stopped does not rest.
    model.control.rest(Duration::from_secs(3600));
    model.control.pause(model.kick());
    model.control.resume();
    assert!(model.steps.try_recv().is_err());
    model.control.wake();
    assert_eq!(model.step(), (0, Step::Run));
    model.end();
}
