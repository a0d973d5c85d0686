//! A world for tests of the machine: instances, disks, settings files, a control topic, and a clock.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use super::toy_settings::{ToyPlan, ToyPlanner, settings};
use super::{
    Applied, AuditEntry, Beginning, CommandRequest, ControlError, Effect, Event, Machine, MachineOptions, Memory,
    PendingCommand, Phase, Planner, ReplyId, Snapshot, Sync, Ticket,
};
use crate::control::{AuditInfo, Command, TopicContents, join::join, state_file, wire};

const TOPIC: &str = "control";
const HISTORY_MAX: usize = 5;

/// A preparation in progress.
pub(super) struct Load {
    pub(super) ticket: Ticket,
    pub(super) plan: ToyPlan,
    pub(super) recheck: bool,
    pub(super) cancelled: bool,
}

/// A record on its way to the topic.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) id: String,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Instance {
    pub(super) machine: Machine<ToyPlanner>,
    /// The content of `state.json`.
    pub(super) disk: Vec<u8>,
    pub(super) disk_fails: bool,
    /// The settings file.
    pub(super) file: String,
    /// The next record to read.
    pub(super) position: usize,
    pub(super) loads: Vec<Load>,
    pub(super) sent: Vec<Sent>,
    pub(super) serving: Arc<ToyPlan>,
    /// A version that does not load here.
    pub(super) lacks: Option<&'static str>,
    /// The weights in the folders of versions.
    pub(super) weights: u64,
    pub(super) audit: Vec<AuditEntry>,
    pub(super) warnings: Vec<(&'static str, String)>,
    has_topic: bool,
}

/// The answer to a command.
pub(super) type Answer = Result<Applied, ControlError>;

pub(super) struct World {
    pub(super) instances: Vec<Instance>,
    /// The control topic.
    pub(super) log: Vec<Vec<u8>>,
    pub(super) now: Instant,
    pub(super) answers: BTreeMap<ReplyId, Answer>,
    replies: ReplyId,
    seed: u64,
}

impl World {
    /// Instances that start on an empty topic with the same settings file.
    pub(super) fn new(count: usize, seed: u64) -> Self {
        let mut world = Self {
            instances: Vec::new(),
            log: Vec::new(),
            now: Instant::now(),
            answers: BTreeMap::new(),
            replies: 0,
            seed,
        };
        for _ in 0..count {
            world.start(&settings("a", "first"), true);
        }
        world
    }

    /// Instances that have nothing left to do.
    pub(super) fn settled(count: usize) -> Self {
        let mut world = Self::new(count, 1);
        world.settle();
        world
    }

    /// Starts one more instance; returns its number.
    pub(super) fn start(&mut self, file: &str, has_topic: bool) -> usize {
        let instance = self.boot(self.instances.len(), None, file, has_topic, self.log.len());
        self.instances.push(instance);
        self.instances.len() - 1
    }

    /// Starts an instance again with what its disk and the topic have. `seen` records are left by
    /// compaction at the end of the topic.
    pub(super) fn restart(&mut self, at: usize, has_topic: bool, seen: usize) {
        let old = &self.instances[at];
        let (disk, file, lacks) = (old.disk.clone(), old.file.clone(), old.lacks);
        let (audit, weights) = (old.audit.clone(), old.weights);
        let memory = state_file::read(&disk).unwrap();
        let mut instance = self.boot(at, Some(memory), &file, has_topic, seen);
        (instance.lacks, instance.audit, instance.weights) = (lacks, audit, weights);
        self.instances[at] = instance;
    }

    fn boot(&mut self, number: usize, saved: Option<Memory>, file: &str, has_topic: bool, seen: usize) -> Instance {
        let mut contents = TopicContents { topic: TOPIC.to_owned(), ..TopicContents::default() };
        for record in &self.log[self.log.len().saturating_sub(seen)..] {
            contents.take(wire::read(record));
        }
        let joined = join(saved, has_topic.then_some(&contents), file, HISTORY_MAX);
        let planner = ToyPlanner;
        let desired = joined.memory.desired();
        let own = planner.plan(&Snapshot::default(), file).unwrap();
        let planned = planner.plan(&desired, file);
        let unreadable = joined.memory.unreadable.as_ref().map(|record| record.reason.clone());
        let out_of_sync = unreadable.or_else(|| planned.as_ref().err().map(ToString::to_string));
        let serving = Arc::new(planned.unwrap_or(own));
        let options = MachineOptions {
            instance: format!("instance-{number}"),
            history_max: HISTORY_MAX,
            queue_max: 8,
            has_topic,
            seed: self.seed + number as u64,
        };
        let beginning = Beginning {
            memory: joined.memory,
            file: file.to_owned(),
            serving: serving.clone(),
            out_of_sync,
            republish: joined.republish,
            ask: joined.ask,
        };
        let (machine, effects) = Machine::new(planner, options, beginning, self.now);
        let mut instance = Instance {
            machine,
            disk: Vec::new(),
            disk_fails: false,
            file: file.to_owned(),
            position: self.log.len(),
            loads: Vec::new(),
            sent: Vec::new(),
            serving,
            lacks: None,
            weights: 0,
            audit: Vec::new(),
            warnings: Vec::new(),
            has_topic,
        };
        let answered = instance.carry_out(effects);
        assert!(answered.is_empty(), "a start answers no command");
        instance
    }

    /// One instance takes an event.
    pub(super) fn step(&mut self, at: usize, event: Event<ToyPlanner>) {
        let before = self.instances[at].machine.memory().accepted.revision;
        let effects = self.instances[at].machine.step(event, self.now);
        let answered = self.instances[at].carry_out(effects);
        let after = self.instances[at].machine.memory().accepted.revision;
        assert!(after >= before, "the accepted revision fell from {before} to {after}");
        for (id, answer) in answered {
            assert!(self.answers.insert(id, answer).is_none(), "command {id} is answered twice");
        }
    }

    /// Sends a command to an instance; returns the number of its answer.
    pub(super) fn send(&mut self, at: usize, request: CommandRequest) -> ReplyId {
        self.replies += 1;
        let reply = self.replies;
        self.step(at, Event::Command(Box::new(PendingCommand { request, reply, received: self.now })));
        reply
    }

    pub(super) fn command(&mut self, at: usize, command: Command) -> ReplyId {
        self.send(at, request(command))
    }

    /// A command whose answer is awaited while everything else happens.
    pub(super) fn carry_out(&mut self, at: usize, command: Command) -> Applied {
        let reply = self.command(at, command);
        self.settle();
        self.answer(reply).unwrap()
    }

    /// The answer of a command, which must be there.
    pub(super) fn answer(&mut self, reply: ReplyId) -> Answer {
        self.answers.remove(&reply).expect("the command is not answered")
    }

    pub(super) fn code(&mut self, reply: ReplyId) -> &'static str {
        self.answer(reply).expect_err("it is carried out").code()
    }

    /// The settings file of an instance gets another text.
    pub(super) fn write_file(&mut self, at: usize, text: &str) {
        text.clone_into(&mut self.instances[at].file);
        self.step(at, Event::FileChanged(text.to_owned()));
    }

    /// Ends a preparation.
    pub(super) fn finish_load(&mut self, at: usize, load: usize) {
        let instance = &mut self.instances[at];
        let Load { ticket, mut plan, recheck, cancelled } = instance.loads.remove(load);
        let lacks = instance.lacks.filter(|version| plan.table.default == *version);
        plan.weights = if recheck { instance.weights } else { instance.serving.weights };
        let result = match lacks {
            _ if cancelled => Err(ControlError::Busy),
            Some(version) => {
                let reason = format!("version `{version}` is not here");
                Err(ControlError::Unreadable { place: "models".to_owned(), reason })
            }
            None => Ok(Arc::new(plan)),
        };
        self.step(at, Event::Prepared(ticket, result));
    }

    /// The topic takes a record that an instance sent.
    pub(super) fn deliver(&mut self, at: usize) {
        let sent = self.instances[at].sent.remove(0);
        self.log.push(sent.payload);
    }

    /// An instance reads its next record; false if there is none.
    pub(super) fn read(&mut self, at: usize) -> bool {
        let position = self.instances[at].position;
        if !self.instances[at].has_topic || position >= self.log.len() {
            return false;
        }
        self.instances[at].position += 1;
        let record = wire::read(&self.log[position]);
        self.step(at, Event::Record(Box::new(record)));
        true
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        self.now += duration;
        for at in 0..self.instances.len() {
            self.step(at, Event::Tick);
        }
    }

    /// Everything that is in progress happens, until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.is_quiet() {
                return;
            }
            for at in 0..self.instances.len() {
                while !self.instances[at].sent.is_empty() {
                    self.deliver(at);
                }
            }
            for at in 0..self.instances.len() {
                while self.read(at) {}
                while !self.instances[at].loads.is_empty() {
                    self.finish_load(at, 0);
                }
            }
            if self.instances.iter().all(Instance::has_nothing_to_do) {
                self.wait(Duration::from_millis(100));
            }
        }
        let phases: Vec<String> = self.instances.iter().map(Instance::describe).collect();
        panic!("it does not end: {phases:?}");
    }

    fn is_quiet(&self) -> bool {
        let has_read = |it: &Instance| !it.has_topic || it.position == self.log.len();
        let rests = |it: &Instance| it.machine.next_tick().is_none() && it.has_nothing_to_do();
        self.instances.iter().all(|instance| has_read(instance) && rests(instance))
    }

    pub(super) fn memory(&self, at: usize) -> &Memory {
        self.instances[at].machine.memory()
    }

    pub(super) fn is_paused(&self, at: usize, experiment: &str) -> bool {
        let table = &self.instances[at].serving.table;
        table.experiments.iter().any(|spec| spec.name == experiment && spec.paused)
    }

    pub(super) fn default(&self, at: usize) -> &str {
        &self.instances[at].serving.table.default
    }
}

impl Instance {
    fn has_nothing_to_do(&self) -> bool {
        self.sent.is_empty() && self.loads.is_empty() && !matches!(self.machine.phase, Phase::Preparing { .. })
    }

    pub(super) fn describe(&self) -> String {
        let memory = self.machine.memory();
        format!(
            "revision {} {:?} sync {:?} candidate {} sent {} loads {} tick {:?}",
            memory.revision(),
            memory.file.mode,
            self.machine.sync(),
            self.machine.has_candidate(),
            self.sent.len(),
            self.loads.len(),
            self.machine.next_tick()
        )
    }

    fn carry_out(&mut self, effects: Vec<Effect<ToyPlanner>>) -> Vec<(ReplyId, Answer)> {
        let mut answered = Vec::new();
        for effect in effects {
            match effect {
                Effect::Prepare { ticket, plan, recheck } => {
                    self.loads.push(Load { ticket, plan: *plan, recheck, cancelled: false });
                }
                Effect::CancelPrepare(ticket) => {
                    let load = self.loads.iter_mut().find(|load| load.ticket == ticket);
                    load.expect("a preparation that does not run was cancelled").cancelled = true;
                }
                Effect::ReleaseUnused => {}
                Effect::Publish(state, format) => {
                    assert!(self.has_topic, "there is no topic");
                    let (id, payload) = (state.change_id().to_owned(), wire::write(&state, format));
                    let text = String::from_utf8_lossy(&payload);
                    assert!(!text.contains("secret"), "a secret left the instance: {text}");
                    self.sent.push(Sent { id, payload });
                }
                Effect::Serve(plan) => self.serving = plan,
                Effect::Save => {
                    if !self.disk_fails {
                        self.disk = state_file::write(self.machine.memory());
                    }
                }
                Effect::Audit(entry) => self.audit.push(*entry),
                Effect::Reply(id, answer) => answered.push((id, *answer)),
                Effect::Warn(event, text) => self.warnings.push((event, text)),
            }
        }
        let in_sync = *self.machine.sync() == Sync::InSync;
        assert!(!in_sync || self.machine.memory().unreadable.is_none(), "in sync with an unreadable record");
        answered
    }
}

pub(super) fn request(command: Command) -> CommandRequest {
    let info = AuditInfo { by: "ann".to_owned(), why: "a test".to_owned(), ..AuditInfo::default() };
    CommandRequest::new(command, info)
}

pub(super) fn pause(experiment: &str) -> Command {
    Command::Pause { experiment: experiment.to_owned() }
}

pub(super) fn set_default(version: &str) -> Command {
    Command::SetDefault { version: version.to_owned() }
}

pub(super) fn apply(text: &str) -> Command {
    Command::Apply { text: text.to_owned() }
}
