use std::{path::Path, sync::mpsc::channel};

use super::*;
use crate::{
    engine::{
        Answer, AnswerKey, InferenceError, Job, Judged, Lane, PassError, Prepared, Reply, prepare::tests::numbered,
    },
    message::Scores,
    ofa::Interrupt,
    vision::Limits,
};

/// Answers each request with the number of requests in its batch; number 7 is not answered.
struct Counting;

impl Judge for Counting {
    fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        let scores = Scores { yes: batch.len() as f32, maybe: 0.0, no: 0.0 };
        let answer = |request: &&Prepared| match request.sources[0][0] {
            7 => Err(InferenceError::NotFinite),
            _ => Ok(vec![scores]),
        };
        Ok(batch.iter().map(answer).collect())
    }
}

fn spec() -> VersionSpec {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ofa_small");
    VersionSpec { restart_delay: Duration::from_millis(1), ..VersionSpec::new("v", folder, Device::Flex) }
}

const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 1 << 20, decode_bytes_max: u64::MAX };

/// A job whose answer is sent with its number.
fn job(number: u32, sender: &std::sync::mpsc::Sender<(u32, Result<Judged, InferenceError>)>) -> Job {
    let sender = sender.clone();
    Job {
        prepared: numbered(number),
        wanted: Box::new(move || number != 9),
        reply: Reply::new(move |judged| sender.send((number, judged)).unwrap()),
        answer_key: None,
    }
}

#[test]
fn every_job_is_answered_and_no_batch_exceeds_its_size() {
    let engine = Engine::start_with(&[spec()], LIMITS, |_, _| Ok(Counting)).unwrap();
    let (sender, answers) = channel();
    for number in 0..50 {
        engine.version("v").unwrap().submit(job(number, &sender));
    }
    engine.stop();
    drop(sender);
    let answers: BTreeMap<u32, Result<Judged, InferenceError>> = answers.iter().collect();
    assert_eq!(answers.len(), 49, "all but the one that nobody wanted");
    assert_eq!(answers[&7], Err(InferenceError::NotFinite));
    for judged in answers.into_values().flatten() {
        assert!(judged.batch <= 4 && judged.scores[0].yes == judged.batch as f32);
    }
}

#[test]
fn a_request_whose_worker_is_gone_is_answered_all_the_same() {
    let (sender, answers) = channel();
    drop(Reply::new(move |judged| sender.send(judged).unwrap()));
    assert!(matches!(answers.recv().unwrap(), Err(InferenceError::Stopped(_))));
    let engine = Engine::start_with(&[spec()], LIMITS, |_, _| Ok(Counting)).unwrap();
    engine.stop();
    let (sender, answers) = channel();
    engine.version("v").unwrap().submit(job(1, &sender));
    assert!(matches!(answers.recv().unwrap(), (1, Err(InferenceError::Stopped(_)))));
}

#[test]
fn a_version_that_does_not_load_is_named() {
    let missing = VersionSpec { folder: "no/such/folder".into(), ..spec() };
    let error = Engine::start(&[missing], LIMITS).err().unwrap().to_string();
    assert!(error.starts_with("version `v`: no/such/folder is not a folder"), "{error}");
}

/// Panics over some requests, as a network does whose device is lost.
struct Mortal {
    poison: fn(u32) -> bool,
}

impl Judge for Mortal {
    fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        assert!(!batch.iter().any(|request| (self.poison)(request.sources[0][0])), "the device is lost");
        Ok(batch.iter().map(|_| Ok(vec![Scores::default()])).collect())
    }
}

#[test]
fn a_request_that_breaks_the_version_twice_is_refused_and_costs_no_other() {
    let engine =
        Engine::start_with(&[spec()], LIMITS, |_, _| Ok(Mortal { poison: |number| number % 20 == 13 })).unwrap();
    let (sender, answers) = channel();
    for number in 0..60 {
        engine.version("v").unwrap().submit(job(number, &sender));
    }
    drop(sender);
    let answers: BTreeMap<u32, Result<Judged, InferenceError>> = answers.iter().take(59).collect();
    engine.stop();
    for (number, answer) in answers {
        match number % 20 {
            13 => assert!(matches!(answer, Err(InferenceError::Device(_))), "{number}: {answer:?}"),
            _ => assert!(answer.is_ok(), "{number}: {answer:?}"),
        }
    }
}

#[test]
fn a_version_that_keeps_breaking_is_given_up_and_what_waits_is_told_so() {
    let mortal = VersionSpec { restarts_max: 3, ..spec() };
    let loads = Arc::new(Mutex::new(0));
    let counting = loads.clone();
    let engine = Engine::start_with(&[mortal], LIMITS, move |_, _| {
        *counting.lock().unwrap() += 1;
        // It works once, and then not even for a moment.
        match *counting.lock().unwrap() {
            1 => Ok(Mortal { poison: |_| true }),
            _ => Err(ModelError::WarmUp("the device is lost".to_owned())),
        }
    })
    .unwrap();
    let (sender, answers) = channel();
    (0..5).for_each(|number| engine.version("v").unwrap().submit(job(number, &sender)));
    drop(sender);
    for (_, answer) in answers.iter().take(5) {
        assert!(matches!(answer, Err(InferenceError::Stopped(_))), "{answer:?}");
    }
    assert_eq!(*loads.lock().unwrap(), 4, "once, and three times again");
    assert_eq!(engine.unhealthy().len(), 1);
}

/// Passes that begin and do not end until they are let.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Passes>>);

#[derive(Clone, Copy, Default)]
struct Passes {
    begun: usize,
    given_up: usize,
    open: bool,
}

impl Gate {
    fn open(&self) {
        self.0.lock().unwrap().open = true;
    }

    fn wait_until(&self, come: impl Fn(&Passes) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !come(&self.0.lock().unwrap()) {
            assert!(std::time::Instant::now() < deadline, "it did not come within half a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Judge for Gate {
    fn attempt(&mut self, batch: &[&Prepared], interrupt: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        self.0.lock().unwrap().begun += 1;
        while !self.0.lock().unwrap().open {
            if interrupt.is_some_and(Interrupt::is_raised) {
                self.0.lock().unwrap().given_up += 1;
                return Err(PassError::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(batch.iter().map(|_| Ok(vec![Scores::default()])).collect())
    }
}

#[test]
fn a_shadow_pass_gives_way_to_live_requests_of_its_own_version_and_of_others_and_is_done_afterwards() {
    for name in ["live", "shadow"] {
        let gates: BTreeMap<&str, Gate> = ["live", "shadow"].into_iter().map(|name| (name, Gate::default())).collect();
        let specs = ["live", "shadow"].map(|name| VersionSpec { name: name.to_owned(), ..spec() });
        let judges = gates.clone();
        let engine = Engine::start_with(&specs, LIMITS, move |spec, _| Ok(judges[spec.name.as_str()].clone())).unwrap();
        let (sender, answers) = channel();
        assert!(engine.version("shadow").unwrap().offer_shadow(job(1, &sender)));
        gates["shadow"].wait_until(|passes| passes.begun == 1);
        engine.version(name).unwrap().submit(job(2, &sender));
        gates["shadow"].wait_until(|passes| passes.given_up == 1);
        gates["live"].open();
        if name == "live" {
            assert_eq!(answers.recv().unwrap().0, 2, "the live one first");
        }
        gates["shadow"].open();
        let (number, answer) = answers.recv().unwrap();
        assert!(answer.is_ok() && number == if name == "live" { 1 } else { 2 });
        if name == "shadow" {
            assert_eq!(answers.recv().unwrap().0, 1, "and the shadow afterwards");
        }
    }
}

#[test]
fn shadows_beyond_their_queue_are_dropped_and_none_is_waited_for_at_the_end() {
    let small = VersionSpec { knobs: Knobs { shadow_queue_size: 3, ..spec().knobs }, ..spec() };
    let gate = Gate::default();
    let judge = gate.clone();
    let engine = Engine::start_with(&[small], LIMITS, move |_, _| Ok(judge.clone())).unwrap();
    let (sender, answers) = channel();
    let version = engine.version("v").unwrap();
    assert!(version.offer_shadow(job(1, &sender)));
    gate.wait_until(|passes| passes.begun == 1);
    assert_eq!((0..20).filter(|_| version.offer_shadow(job(1, &sender))).count(), 3);
    // The gate stays shut: this would wait for ever for the pass, were it not given up.
    engine.stop();
    drop(sender);
    assert_eq!(answers.iter().count(), 0);
}

#[test]
fn nobody_is_held_up_by_a_version_that_does_not_answer() {
    let small = VersionSpec { knobs: Knobs { queue_size: 2, ..spec().knobs }, load: Load::FirstUse, ..spec() };
    let gate = Gate::default();
    let judge = gate.clone();
    let engine = Engine::start_with(&[small], LIMITS, move |_, _| {
        judge.wait_until(|passes| passes.open);
        Ok(judge.clone())
    })
    .unwrap();
    let (sender, answers) = channel();
    // More than the lane holds, while the version loads: this would never come back otherwise.
    (0..9).for_each(|number| engine.version("v").unwrap().submit(job(number, &sender)));
    gate.open();
    drop(sender);
    assert_eq!(answers.iter().count(), 9);
}

#[test]
fn an_end_frees_whoever_is_held_up_by_a_full_lane() {
    let small = VersionSpec { knobs: Knobs { queue_size: 1, batch_size: 1, ..spec().knobs }, ..spec() };
    let gate = Gate::default();
    let judge = gate.clone();
    let engine = Engine::start_with(&[small], LIMITS, move |_, _| Ok(judge.clone())).unwrap();
    let (sender, answers) = channel();
    engine.version("v").unwrap().submit(job(1, &sender));
    gate.wait_until(|passes| passes.begun == 1);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| (2..5).for_each(|number| engine.version("v").unwrap().submit(job(number, &sender))));
        while engine.version("v").unwrap().queue_depth(Lane::Live) < 1 {
            std::thread::yield_now();
        }
        engine.close();
        held.join().unwrap();
    });
    gate.open();
    engine.stop();
    drop(sender);
    assert_eq!(answers.iter().count(), 4, "all are answered, those that came too late with an error");
}

#[test]
fn a_kept_answer_is_given_back_for_the_same_request_alone() {
    let keeping = VersionSpec { answer_cache_bytes: 1 << 16, ..spec() };
    let engine = Engine::start_with(&[keeping], LIMITS, |_, _| Ok(Counting)).unwrap();
    let version = engine.version("v").unwrap();
    let key = |number| AnswerKey::new(&numbered(number).image, &["a mug".to_owned()], None);
    let (sender, answers) = channel();
    for number in [1, 7] {
        version.submit(Job { answer_key: Some(key(number)), ..job(number, &sender) });
        answers.recv().unwrap().1.ok();
    }
    let kept = version.kept_answer(&key(1)).unwrap();
    assert!(kept.cached && kept.scores.len() == 1);
    assert_eq!(version.kept_answer(&key(2)), None);
    assert_eq!(version.kept_answer(&key(7)), None, "failures are not kept");
}

#[test]
fn knobs_change_while_the_version_runs() {
    let gate = Gate::default();
    let judge = gate.clone();
    let engine = Engine::start_with(&[spec()], LIMITS, move |_, _| Ok(judge.clone())).unwrap();
    let (sender, answers) = channel();
    engine.version("v").unwrap().submit(job(20, &sender));
    gate.wait_until(|passes| passes.begun == 1);
    (21..40).for_each(|number| engine.version("v").unwrap().submit(job(number, &sender)));
    let alone = VersionSpec { knobs: Knobs { batch_size: 1, ..spec().knobs }, ..spec() };
    engine.adopt(&Arc::new(engine.prepare(&[alone], Reuse::SameFiles).unwrap()));
    gate.open();
    drop(sender);
    let batches: Vec<usize> = answers.iter().map(|(_, judged)| judged.unwrap().batch).collect();
    assert_eq!(batches, [1; 20], "four would have gone together");
}

type Loads = Arc<Mutex<Vec<String>>>;

/// The names of what an engine loads; with 99 threads it does not.
fn loads() -> (Loads, impl Fn(&VersionSpec, &VersionFolder) -> Result<Counting, ModelError>) {
    let loads = Arc::new(Mutex::new(Vec::new()));
    let told = loads.clone();
    (loads, move |spec, _| match spec.options.threads {
        99 => Err(ModelError::WarmUp("it breaks".to_owned())),
        _ => {
            told.lock().unwrap().push(spec.name.clone());
            Ok(Counting)
        }
    })
}

fn named(name: &str) -> VersionSpec {
    VersionSpec { name: name.to_owned(), ..spec() }
}

#[test]
fn a_fleet_loads_what_is_new_and_goes_on_with_what_runs() {
    let (loads, load) = loads();
    let engine = Engine::start_with(&[named("a"), named("b")], LIMITS, load).unwrap();
    let before = engine.current();
    let slower = VersionSpec { knobs: Knobs { max_delay: Duration::from_millis(5), ..spec().knobs }, ..named("b") };
    let mut other = named("c");
    other.options.threads = 1;
    let after = Arc::new(engine.prepare(&[slower, other.clone()], Reuse::SameFiles).unwrap());
    assert!(engine.version("c").is_none(), "what is prepared is not current");
    engine.adopt(&after);
    assert!(Arc::ptr_eq(before.version("b").unwrap(), after.version("b").unwrap()));
    other.options.threads = 2;
    let again = engine.prepare(&[other], Reuse::SameFiles).unwrap();
    assert!(!Arc::ptr_eq(again.version("c").unwrap(), after.version("c").unwrap()), "it runs in another way");
    let mut loaded = loads.lock().unwrap().clone();
    loaded.sort();
    assert_eq!(loaded, ["a", "b", "c", "c"]);
}

#[test]
fn what_no_configuration_names_is_kept_warm_until_nobody_holds_it() {
    let (loads, load) = loads();
    let engine = Engine::start_with(&[named("a"), named("b")], LIMITS, load).unwrap();
    let held = engine.current();
    engine.adopt(&Arc::new(engine.prepare(&[named("b")], Reuse::SameFiles).unwrap()));
    assert_eq!(engine.unload(Duration::ZERO), [], "a request that was routed before may still come");
    let (sender, answers) = channel();
    held.version("a").unwrap().submit(job(1, &sender));
    assert!(answers.recv().unwrap().1.is_ok());
    drop(held);
    assert_eq!(engine.unload(Duration::from_secs(60)), [], "it is kept warm");
    engine.adopt(&Arc::new(engine.prepare(&[named("a"), named("b")], Reuse::SameFiles).unwrap()));
    assert_eq!(loads.lock().unwrap().len(), 2, "so that going back needs no loading");
    engine.adopt(&Arc::new(engine.prepare(&[named("b")], Reuse::SameFiles).unwrap()));
    let gone: Vec<String> = engine.unload(Duration::ZERO).iter().map(|identity| identity.name.clone()).collect();
    assert_eq!(gone, ["a"]);
    assert_eq!(engine.versions().len(), 1);
    engine.stop();
}

#[test]
fn a_fleet_that_cannot_be_changes_nothing_and_leaves_nothing_behind() {
    let (loads, load) = loads();
    let engine = Engine::start_with(&[named("a")], LIMITS, load).unwrap();
    let mut broken = named("c");
    broken.options.threads = 99;
    let error = engine.prepare(&[named("a"), named("b"), broken], Reuse::SameFiles).err().unwrap().to_string();
    assert!(error.contains("version `c`") && error.contains("it breaks"), "{error}");
    let missing = VersionSpec { folder: "no/such/folder".into(), ..named("d") };
    assert!(engine.prepare(&[missing], Reuse::SameFiles).is_err());
    let names: Vec<String> = engine.versions().iter().map(|version| version.identity().name.clone()).collect();
    assert_eq!(names, ["a"]);
    let (sender, answers) = channel();
    engine.version("a").unwrap().submit(job(1, &sender));
    assert!(answers.recv().unwrap().1.is_ok());
    assert_eq!(loads.lock().unwrap().iter().filter(|name| *name == "a").count(), 1);
}

#[test]
fn a_version_that_another_configuration_is_loading_is_waited_for() {
    let gate = Gate::default();
    let judge = gate.clone();
    let engine = Engine::start_with(&[named("a")], LIMITS, move |spec, _| {
        if spec.name != "a" {
            judge.wait_until(|passes| passes.open);
        }
        match spec.name.as_str() {
            "bad" => Err(ModelError::WarmUp("it breaks".to_owned())),
            _ => Ok(Counting),
        }
    })
    .unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| engine.prepare(&[named("b")], Reuse::SameFiles));
        let failing = scope.spawn(|| engine.prepare(&[named("bad"), named("c")], Reuse::SameFiles));
        while engine.running().len() < 4 {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| engine.prepare(&[named("a"), named("b"), named("c")], Reuse::SameFiles));
        let third = scope.spawn(|| engine.prepare(&[named("bad")], Reuse::SameFiles));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!second.is_finished(), "it would be switched to before it can answer");
        gate.open();
        assert!(first.join().unwrap().is_ok());
        let second = Arc::new(second.join().unwrap().ok().unwrap());
        engine.adopt(&second);
        for failed in [failing.join().unwrap(), third.join().unwrap()] {
            let error = failed.err().unwrap().to_string();
            assert!(error.contains("version `bad`") && error.contains("it breaks"), "{error}");
        }
    });
    // The failure of one configuration has not taken away what another uses.
    let (sender, answers) = channel();
    for name in ["a", "b", "c"] {
        engine.version(name).unwrap().submit(job(1, &sender));
        assert!(answers.recv().unwrap().1.is_ok(), "{name}");
    }
    assert_eq!(engine.running().len(), 3);
}

#[test]
fn what_runs_goes_on_whatever_became_of_its_folder_where_files_are_not_meant() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ofa_small");
    let here = folder.path().join("v");
    std::fs::create_dir(&here).unwrap();
    for file in std::fs::read_dir(shipped).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), here.join(file.file_name())).unwrap();
    }
    let v = VersionSpec { folder: here.clone(), ..named("v") };
    let engine = Engine::start_with(std::slice::from_ref(&v), LIMITS, loads().1).unwrap();
    std::fs::remove_dir_all(&here).unwrap();
    let error = engine.prepare(std::slice::from_ref(&v), Reuse::SameFiles).err().unwrap().to_string();
    assert!(error.contains("is not a folder"), "{error}");
    let fleet = engine.prepare(&[v], Reuse::Running).unwrap();
    assert!(Arc::ptr_eq(fleet.version("v").unwrap(), &engine.version("v").unwrap()));
}
