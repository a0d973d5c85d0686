//! The life of a version: verified, loaded at the start or at its first use, unloaded.

use std::{
    path::Path,
    process::Command,
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use ofa_stream::{
    engine::{Answer, Engine, ImageId, Job, Judge, PassError, Prepared, Reply, VersionSpec},
    message::{Device, Load, Scores},
    ofa::Interrupt,
    vision::Limits,
};
use serde_json::{Value, json};

use crate::support::{import_into, program, repository, resident, skip};

const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 1 << 20, decode_bytes_max: u64::MAX };

fn spec(name: &str, folder: &Path, load: Load, device: Device) -> VersionSpec {
    VersionSpec { load, ..VersionSpec::new(name, folder, device) }
}

fn shipped() -> std::path::PathBuf {
    repository("models/ofa_small")
}

/// A request that the shipped version can answer.
fn prepared() -> Prepared {
    Prepared { image: ImageId::of(b"grey"), pixels: vec![140; 3 * 96 * 96].into(), sources: vec![vec![0, 4, 5, 2]] }
}

fn submit(engine: &Engine, name: &str, reply: Reply) {
    engine.version(name).unwrap().submit(Job {
        prepared: prepared(),
        wanted: Box::new(|| true),
        reply,
        answer_key: None,
    });
}

/// Says what is asked of it after a while.
struct Slow;

impl Judge for Slow {
    fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        Ok(batch.iter().map(|_| Ok(vec![Scores { yes: 1.0, maybe: 0.0, no: 0.0 }])).collect())
    }
}

#[test]
fn a_version_that_loads_at_its_first_use_keeps_no_other_waiting() {
    const LOADING: Duration = Duration::from_millis(1500);
    let specs =
        [spec("late", &shipped(), Load::FirstUse, Device::Flex), spec("early", &shipped(), Load::Start, Device::Flex)];
    let engine = Engine::start_with(&specs, LIMITS, |spec, _| {
        if spec.name == "late" {
            std::thread::sleep(LOADING);
        }
        Ok(Slow)
    })
    .unwrap();
    assert!(engine.version("late").unwrap().loaded().is_none(), "nobody has asked for it yet");
    assert!(engine.version("early").unwrap().loaded().is_some());
    let (sender, answers) = channel();
    let begun = Instant::now();
    for name in std::iter::repeat_n("late", 50).chain(std::iter::repeat_n("early", 50)) {
        let sender = sender.clone();
        let reply = Reply::new(move |judged| sender.send((name, judged.is_ok(), begun.elapsed())).unwrap());
        submit(&engine, name, reply);
    }
    drop(sender);
    let answers: Vec<(&str, bool, Duration)> = answers.iter().collect();
    assert!(answers.len() == 100 && answers.iter().all(|(_, answered, _)| *answered));
    let of = |name| answers.iter().filter(move |(of, ..)| *of == name).map(|(.., took)| *took);
    assert!(of("late").all(|took| took >= LOADING), "{answers:?}");
    assert!(of("early").all(|took| took < LOADING / 2), "{answers:?}");
    assert!(engine.version("late").unwrap().loaded().is_some());
    engine.stop();
}

/// A version loaded at its first use, whose files were altered behind the back of the running program.
fn altered(restarts_max: u32) -> (tempfile::TempDir, Engine) {
    let models = tempfile::tempdir().unwrap();
    import_into(models.path(), &repository("testdata/golden/dev"), |_| {}).unwrap();
    let folder = models.path().join("v");
    let late = VersionSpec {
        restarts_max,
        restart_delay: Duration::from_millis(20),
        ..spec("v", &folder, Load::FirstUse, Device::Flex)
    };
    let engine = Engine::start(&[late], LIMITS).unwrap();
    flip_last_byte(&folder);
    (models, engine)
}

/// Alters the weights, or puts them right again; their size stays.
fn flip_last_byte(folder: &Path) {
    let weights = folder.join("weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
}

#[test]
fn a_version_that_cannot_be_loaded_is_given_up_and_says_so_to_all_who_ask() {
    let (_models, engine) = altered(2);
    let (sender, answers) = channel();
    for _ in 0..3 {
        let sender = sender.clone();
        submit(&engine, "v", Reply::new(move |judged| sender.send(judged.unwrap_err()).unwrap()));
    }
    drop(sender);
    for _ in 0..3 {
        let error = answers.recv().unwrap();
        assert_eq!(error.code(), "version_stopped");
        assert!(error.to_string().contains("weights.safetensors was changed"), "{error}");
    }
    assert_eq!(engine.version("v").unwrap().state().as_str(), "stopped");
    engine.stop();
}

#[test]
fn requests_wait_for_a_version_that_does_not_load_until_it_does() {
    let (models, engine) = altered(1_000);
    let (sender, answers) = channel();
    submit(&engine, "v", Reply::new(move |judged| sender.send(judged.is_ok()).unwrap()));
    while engine.unhealthy().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (version, reason) = engine.unhealthy().remove(0);
    assert!(version == "v" && reason.contains("weights.safetensors was changed"), "{reason}");
    assert!(answers.try_recv().is_err(), "the request waits");
    flip_last_byte(&models.path().join("v"));
    assert!(answers.recv_timeout(Duration::from_secs(60)).unwrap());
    assert!(engine.unhealthy().is_empty());
    engine.stop();
}

const ALONE: &str = "OFA_STREAM_TEST_ALONE";
const LOADS: usize = 50;

#[test]
fn a_version_unloaded_fifty_times_gives_its_memory_back() {
    if std::env::var_os(ALONE).is_none() {
        // Other tests of this process would count too.
        let this = std::env::current_exe().unwrap();
        let name = "versions::a_version_unloaded_fifty_times_gives_its_memory_back";
        let output = Command::new(this).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    for device in [Device::Flex, Device::NdArray] {
        let mut after = Vec::new();
        for _ in 0..LOADS {
            let base = spec("v", &repository("models/ofa_base"), Load::Start, device);
            let engine = Engine::start(&[base], LIMITS).unwrap();
            engine.stop();
            after.push(resident("self"));
        }
        // The first loads make the thread pools and fill the allocator's caches. The allocator gives memory back in its
        // own time, so single readings go up and down by more than a version: a leak would raise the highest of many.
        let highest = |loads: &[u64]| loads.iter().copied().max().unwrap();
        let (settled, last) = (highest(&after[..LOADS * 3 / 5]), highest(&after[LOADS * 4 / 5..]));
        println!(
            "{device}: at most {} MB after {} loads, {} MB after {LOADS}",
            settled >> 20,
            LOADS * 3 / 5,
            last >> 20
        );
        let twice_the_weights = 32 << 20;
        assert!(last < settled + twice_the_weights, "{device}: {after:?}");
    }
}

#[test]
fn wgpu_gives_the_memory_of_an_unloaded_version_back() {
    let load = || Engine::start(&[spec("v", &shipped(), Load::Start, Device::Wgpu(None))], LIMITS);
    let first = match load() {
        Ok(engine) => engine,
        Err(error) => return skip(&format!("no wgpu device: {error}")),
    };
    first.stop();
    let settled = resident("self");
    for _ in 0..LOADS / 5 {
        load().unwrap().stop();
    }
    let grown = resident("self").saturating_sub(settled) >> 20;
    println!("wgpu: {grown} MB more after {} loads", LOADS / 5);
    assert!(grown < 64, "{grown} MB more");
}

#[test]
fn a_device_that_is_not_there_is_a_clear_error_at_the_start() {
    let check = |settings: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pipeline.toml");
        std::fs::write(
            &file,
            format!("[model_versions]\ndefault = 'ofa_small'\n[model_versions.versions.ofa_small]\n{settings}\n"),
        )
        .unwrap();
        let output = program().args(["check", "--config"]).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = check("device = 'wgpu:7'");
    assert_eq!(code, Some(78), "{error}");
    assert!(error.contains("version `ofa_small`: device `wgpu:7`") && error.contains("device = \"flex\""), "{error}");
    for device in ["flex", "ndarray"] {
        let (code, error) = check(&format!("device = '{device}'\nprecision = 'f16'"));
        assert_eq!(code, Some(78), "{error}");
        assert!(error.contains("does not compute in `f16`: only wgpu does"), "{error}");
    }
}

#[test]
fn a_folder_serves_in_8_bits_beside_itself_and_takes_less_memory_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipeline.toml");
    let models = repository("models");
    let settings = format!(
        "[model_versions]\ndirectory = {models:?}\ndefault = 'exact'\n[model_versions.versions.exact]\nfolder = 'ofa_large'\n\
         load = 'always'\n[model_versions.versions.quick]\nfolder = 'ofa_large'\nprecision = 'int8'\nload = 'always'\n"
    );
    std::fs::write(&file, settings).unwrap();
    let output = program().args(["check", "--json", "--config"]).arg(&file).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("does not compute in `int8`") {
        // Nobody can install a CPU: what it does not have it must refuse.
        assert!(error.contains("no dot products of 8-bit numbers"), "{error}");
        return eprintln!("\n*** SKIPPED: {error} ***\n");
    }
    assert!(output.status.success(), "{error}");
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [exact, quick] = [0, 1].map(|index| &checked["versions"][index]);
    assert_eq!((&exact["precision"], &quick["precision"]), (&json!("f32"), &json!("int8")));
    assert_eq!(exact["digest"], quick["digest"]);
    let memory = |version: &Value| version["memory_bytes"].as_u64().unwrap();
    assert!(memory(quick) < memory(exact), "{} and {}", memory(quick), memory(exact));
}

#[test]
fn a_start_refuses_a_missing_or_altered_version_and_says_how_to_repair_it() {
    let models = tempfile::tempdir().unwrap();
    import_into(models.path(), &repository("testdata/golden/dev"), |_| {}).unwrap();
    let settings = models.path().join("pipeline.toml");
    let text = format!(
        "[model_versions]\ndirectory = '{}'\ndefault = 'v'\n[model_versions.versions.v]\n",
        models.path().display()
    );
    std::fs::write(&settings, text).unwrap();
    let run = |command: &[&str]| {
        let output = program().args(command).arg("--config").arg(&settings).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["check"]).0, Some(0));
    let weights = models.path().join("v/weights.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let mut altered = whole.clone();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    std::fs::write(&weights, altered).unwrap();
    for command in [&["check"][..], &["run", "--embedded"], &["demo"]] {
        let (code, error) = run(command);
        assert_eq!(code, Some(78), "{command:?}: {error}");
        assert!(error.contains("weights.safetensors was changed") && error.contains("import it again"), "{error}");
    }
    assert_eq!(run(&["check", "--skip-verify"]).0, Some(0), "sizes are the same");
    std::fs::write(&weights, &whole[..1000]).unwrap();
    for arguments in [&["check"][..], &["check", "--skip-verify"]] {
        let (code, error) = run(arguments);
        assert_eq!(code, Some(78));
        assert!(error.contains("weights.safetensors has 1000 bytes"), "{error}");
    }
    let verify = program().args(["models", "verify", "--models-dir"]).arg(models.path()).output().unwrap();
    assert_eq!(verify.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verify.stdout).contains("v is BAD"));
    std::fs::remove_file(models.path().join("v/manifest.toml")).unwrap();
    assert!(run(&["check"]).1.contains("has no manifest.toml"));
    std::fs::remove_dir_all(models.path().join("v")).unwrap();
    assert!(run(&["check"]).1.contains("is not a folder"));
}
