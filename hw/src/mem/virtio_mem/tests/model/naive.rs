//! The model: what each step answers, and what is different afterwards.
//!
//! What comes of a step that somebody refuses is what was there before; only the contents of blocks that were to be plugged are gone.

use std::ops::Range;

use super::super::super::request::{Request, Response};
use super::device::Device;
use super::picture::Views;
use super::steps::{Act, Life, SLICE, Step};

/// A user of part of a device's memory.
#[derive(Debug, Clone, Default)]
pub(super) struct User {
    pub(super) registered: Option<(usize, Range<u64>)>,
    /// What it vetoes, if it is registered.
    pub(super) vetoes: Option<u64>,
}

/// A device with DMA.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapper {
    /// Which address space, how many mappings at most.
    pub(super) attached: Option<(usize, Option<u64>)>,
    /// An address in the first address space.
    pub(super) refuses: Option<u64>,
}

/// What a step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Response(Response),
    /// Whether somebody or something was let in.
    Accepted(bool),
    /// Whether an access went well.
    Access(bool),
}

/// What came of a step.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) answer: Answer,
    /// What the address spaces looked like, one after the other; the last is how they look now.
    pub(super) trail: Vec<Views>,
    /// Blocks of which the host must have nothing now.
    pub(super) freed: Vec<(usize, Range<usize>)>,
    /// Whether users were asked or told, and changed their mind again.
    pub(super) undone: bool,
    /// Devices with DMA whose map is not complete any more; their owners stop them.
    pub(super) stopped: Vec<usize>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Naive {
    pub(super) devices: Vec<Device>,
    pub(super) frozen: bool,
    pub(super) users: Vec<User>,
    pub(super) mappers: Vec<Mapper>,
    /// Slots of those who are connected, in the order in which they came.
    pub(super) backends: Vec<(usize, u64)>,
    pub(super) hypervisor: Option<u64>,
    pub(super) window: Range<u64>,
}

impl Naive {
    pub(super) fn new(life: &Life) -> Self {
        Self {
            devices: life
                .shapes
                .iter()
                .enumerate()
                .map(|(number, shape)| Device::new(number, *shape))
                .collect(),
            frozen: false,
            users: vec![User::default(); 3],
            mappers: vec![Mapper::default(); 3],
            backends: Vec::new(),
            hypervisor: life.hypervisor,
            window: life.window.clone(),
        }
    }

    /// What a step means now.
    pub(super) fn act(&self, step: &Step) -> Act {
        match *step {
            Step::Reset => Act::Reset,
            Step::Freeze(on) => Act::Freeze(on),
            Step::Unlisten(user) => Act::Unlisten(user),
            Step::Veto(pick, part) => {
                let registered = |(number, user): (usize, &User)| Some((number, user.registered.as_ref()?.0));
                let all: Vec<_> = self.users.iter().enumerate().filter_map(registered).collect();
                let Some((user, device)) = all.get(pick % all.len().max(1)) else { return Act::Nothing };
                Act::Veto(*user, part.map(|part| self.devices[*device].place(part)))
            }
            Step::Attach(mapper, space, max) => Act::Attach(mapper, space, max),
            Step::Detach(mapper) => Act::Detach(mapper),
            Step::Refuse(mapper, None) => Act::Refuse(mapper, None),
            Step::Connect(backend, limit) => Act::Connect(backend, limit),
            Step::Lose(backend) => Act::Lose(backend),
            Step::Ask(device, ..)
            | Step::UnplugAll(device)
            | Step::Prepare(device, _)
            | Step::DriverReset(device)
            | Step::Resize(device, _)
            | Step::Store(device, ..)
            | Step::Peek(device, ..)
            | Step::Listen(_, device, ..)
            | Step::Refuse(_, Some((device, _)))
            | Step::Add(device)
            | Step::Remove(device) => {
                let number = device % self.devices.len();
                let device = &self.devices[number];
                // Something with a device that is not there yet: it comes.
                if device.present { device.act(number, step) } else { Act::Add(number) }
            }
        }
    }

    /// Everything is unplugged.
    pub(super) fn ending(&self) -> Vec<Act> {
        let all = (0..self.devices.len()).filter(|number| self.devices[*number].present);
        std::iter::once(Act::Freeze(false))
            .chain(all.map(|number| Act::Serve(number, Request::UnplugAll)))
            .collect()
    }

    /// Lets a step happen.
    pub(super) fn carry_out(&mut self, act: &Act) -> Story {
        let mut story = Story {
            answer: Answer::Nothing,
            trail: vec![self.views()],
            freed: vec![],
            undone: false,
            stopped: vec![],
        };
        story.answer = match act.clone() {
            Act::Nothing => Answer::Nothing,
            Act::Serve(number, request) => Answer::Response(self.serve(number, request, &mut story)),
            Act::Prepare(number, request) => Answer::Accepted(self.prepare(number, request, &mut story)),
            Act::DriverReset(number) => {
                self.abandon(number, &mut story);
                Answer::Nothing
            }
            Act::Resize(number, requested) => {
                self.devices[number].resize(requested);
                Answer::Nothing
            }
            Act::Reset => {
                for number in 0..self.devices.len() {
                    if self.devices[number].present {
                        self.serve(number, Request::UnplugAll, &mut story);
                    }
                }
                Answer::Nothing
            }
            Act::Freeze(on) => {
                self.frozen = on;
                Answer::Nothing
            }
            Act::Store(number, block, value) => {
                let reaches = self.devices[number].reach()[block as usize] == Some(true);
                if reaches {
                    self.devices[number].content[block as usize] = value;
                }
                Answer::Access(reaches)
            }
            Act::Peek(number, range) => {
                let block = self.devices[number].shape.block;
                let blocks = (range.start / block) as usize..range.end.div_ceil(block) as usize;
                Answer::Access(self.devices[number].reach()[blocks].iter().all(|reach| *reach == Some(true)))
            }
            Act::Listen(user, number, range) => {
                self.users[user] =
                    User { registered: Some((number, range)), vetoes: self.users[user].vetoes };
                let agrees = !self.vetoed(user, &vec![false; self.devices[number].plugged.len()]);
                if !agrees {
                    self.users[user].registered = None;
                }
                Answer::Accepted(agrees)
            }
            Act::Unlisten(user) => {
                self.users[user].registered = None;
                Answer::Nothing
            }
            Act::Veto(user, at) => {
                self.users[user].vetoes = at;
                Answer::Nothing
            }
            Act::Attach(mapper, space, max) => {
                self.mappers[mapper].attached = Some((space, max));
                let fits = self.fits(mapper, 0, &self.map(space));
                if !fits {
                    self.mappers[mapper].attached = None;
                }
                Answer::Accepted(fits)
            }
            Act::Detach(mapper) => {
                self.mappers[mapper].attached = None;
                Answer::Nothing
            }
            Act::Refuse(mapper, addr) => {
                self.mappers[mapper].refuses = addr;
                Answer::Nothing
            }
            Act::Connect(backend, limit) => {
                self.backends.retain(|(number, _)| *number != backend);
                let accepted = self.may_connect(limit);
                self.backends.extend(accepted.then_some((backend, limit)));
                Answer::Accepted(accepted)
            }
            Act::Lose(backend) => {
                self.backends.retain(|(number, _)| *number != backend);
                Answer::Nothing
            }
            Act::Add(number) => {
                let accepted = self.may_add(self.devices[number].shape.part_count());
                if accepted {
                    self.devices[number].realize();
                }
                Answer::Accepted(accepted)
            }
            Act::Remove(number) => {
                self.devices[number].present = false;
                for user in &mut self.users {
                    user.registered.take_if(|(device, _)| *device == number);
                }
                Answer::Nothing
            }
        };
        story.trail.push(self.views());
        story
    }

    fn serve(&mut self, number: usize, request: Request, story: &mut Story) -> Response {
        let judged = self.devices[number].judge(request, self.frozen);
        let at_work = self.devices[number].preparing.as_ref().map(|(blocks, _)| blocks);
        if !(matches!(request, Request::Plug(_)) && judged.as_ref().ok() == at_work) {
            self.abandon(number, story);
        }
        let blocks = match judged {
            Ok(blocks) => blocks,
            Err(response) => return response,
        };
        match request {
            Request::Plug(_) => self.plug(number, blocks, story),
            Request::Unplug(_) => self.unplug(number, blocks, story),
            Request::UnplugAll => self.unplug_all(number, story),
            Request::State(_) => unreachable!("answered already"),
        }
    }

    /// A part of what a request takes is done before it is served; whether that was all.
    fn prepare(&mut self, number: usize, request: Request, story: &mut Story) -> bool {
        let device = &self.devices[number];
        let Ok(blocks) = device.judge(request, self.frozen) else { return true };
        let len = blocks.len() as u64 * device.shape.block;
        if !matches!(request, Request::Plug(_)) || !device.shape.prealloc || len <= SLICE {
            return true;
        }
        if device.preparing.as_ref().is_none_or(|(others, _)| *others != blocks) {
            self.abandon(number, story);
        }
        let device = &mut self.devices[number];
        let size = device.shape.block;
        let (blocks, done) = device.preparing.get_or_insert((blocks, 0)).clone();
        let (next, first) = (len.min(done + SLICE), blocks.start as u64);
        // Serving it says what is wrong.
        if (first + done / size..first + next / size).any(|block| !device.has_memory(block as usize)) {
            return true;
        }
        device.preparing = Some((blocks, next));
        next == len
    }

    fn abandon(&mut self, number: usize, story: &mut Story) {
        if let Some((blocks, _)) = self.devices[number].preparing.take() {
            self.free(number, blocks, story);
        }
    }

    fn plug(&mut self, number: usize, blocks: Range<usize>, story: &mut Story) -> Response {
        self.devices[number].preparing = None;
        let before = self.devices[number].plugged.clone();
        self.devices[number].plugged[blocks.clone()].fill(true);
        // Parts are there before anybody is asked.
        story.trail.push(self.views());
        let missing = blocks.clone().any(|block| !self.devices[number].has_memory(block));
        if !missing && !self.refused(number, &before) {
            return Response::Ack;
        }
        story.undone = true;
        self.devices[number].plugged = before;
        self.free(number, blocks, story);
        Response::Busy
    }

    fn unplug(&mut self, number: usize, blocks: Range<usize>, story: &mut Story) -> Response {
        let before = self.devices[number].plugged.clone();
        self.devices[number].plugged[blocks.clone()].fill(false);
        self.release(number, &before, blocks, story)
    }

    fn unplug_all(&mut self, number: usize, story: &mut Story) -> Response {
        let device = &mut self.devices[number];
        let (before, usable, all) = (device.plugged.clone(), device.usable, 0..device.plugged.len());
        device.usable = device.wanted();
        story.trail.push(self.views());
        let device = &mut self.devices[number];
        if device.size() == 0 {
            return Response::Ack;
        }
        device.plugged.fill(false);
        let response = self.release(number, &before, all, story);
        if response == Response::Busy {
            // What became unusable comes back, and who cannot map it then has to stop.
            let maps: Vec<_> = (0..2).map(|space| self.map(space)).collect();
            self.devices[number].usable = usable;
            story.trail.push(self.views());
            for mapper in 0..self.mappers.len() {
                if let Some((space, _)) = self.mappers[mapper].attached {
                    let mut now = self.map(space);
                    now.retain(|iova, _| !maps[space].contains_key(iova));
                    if !self.fits(mapper, maps[space].len(), &now) {
                        story.stopped.push(mapper);
                        self.mappers[mapper].attached = None;
                    }
                }
            }
        }
        response
    }

    /// The blocks that are not plugged any more go back to the host, with all that is in `blocks`. If it does not take them they are still
    /// plugged, unless somebody does not want them back.
    fn release(
        &mut self,
        number: usize,
        before: &[bool],
        blocks: Range<usize>,
        story: &mut Story,
    ) -> Response {
        story.trail.push(self.views());
        if self.devices[number].can_discard() {
            self.free(number, blocks, story);
            return Response::Ack;
        }
        story.undone = true;
        let gone = std::mem::replace(&mut self.devices[number].plugged, before.to_vec());
        story.trail.push(self.views());
        if !self.refused(number, &gone) {
            return Response::Busy;
        }
        self.devices[number].plugged = gone;
        story.trail.push(self.views());
        Response::Ack
    }

    fn free(&mut self, number: usize, blocks: Range<usize>, story: &mut Story) {
        let device = &mut self.devices[number];
        if device.can_discard() {
            device.content[blocks.clone()].fill(0);
            story.freed.push((number, blocks));
        }
    }

    /// Whether somebody refuses what is plugged of a device now and was not in `before`.
    fn refused(&mut self, number: usize, before: &[bool]) -> bool {
        let now = self.devices[number].plugged.clone();
        let mut vetoes = (0..self.users.len()).filter(|user| {
            self.users[*user].registered.as_ref().is_some_and(|(device, _)| *device == number)
        });
        if vetoes.any(|user| self.vetoed(user, before)) {
            return true;
        }
        let views = self.views();
        let full = [self.map_of(&views[0]), self.map_of(&views[1])];
        self.devices[number].plugged = before.to_vec();
        // Where parts are is not what is asked about.
        let old = [self.map_of(&views[0]), self.map_of(&views[1])];
        self.devices[number].plugged = now;
        (0..self.mappers.len()).any(|mapper| {
            self.mappers[mapper].attached.is_some_and(|(space, _)| {
                let mut more = full[space].clone();
                more.retain(|iova, _| !old[space].contains_key(iova));
                !self.fits(mapper, old[space].len(), &more)
            })
        })
    }

    /// Whether a user vetoes what is plugged and was not in `before`.
    fn vetoed(&self, user: usize, before: &[bool]) -> bool {
        let User { registered: Some((number, range)), vetoes: Some(at) } = &self.users[user] else {
            return false;
        };
        let device = &self.devices[*number];
        let block = (at / device.shape.block) as usize;
        range.contains(at) && device.plugged[block] && !before[block]
    }
}
