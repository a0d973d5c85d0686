//! Pulling from a hub, however it behaves.

use std::{
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ofa_stream::store::{Hub, Pull, PullError, Pulled, Watch};

use crate::{
    formats::{copy_texts, golden_tensors, state, write_torch},
    golden::a_version_agrees_with_the_reference,
    hub::{FakeHub, Fault, MODEL},
    support::{program, repository},
};

static IDLE: AtomicBool = AtomicBool::new(false);

fn pull(hub: &FakeHub, from: Hub) -> Pull {
    Pull {
        hub: from,
        endpoint: hub.endpoint.clone(),
        model: MODEL.parse().unwrap(),
        revision: from.default_revision().to_owned(),
        token: Some("hub-secret".to_owned()),
        attempts: 4,
        retry_delay: Duration::from_millis(1),
        idle_timeout: Duration::from_secs(10),
    }
}

/// The golden version as it is published: no images, no answers beside it.
static GOLDEN: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    copy_texts(folder.path());
    std::fs::copy(repository("testdata/golden/dev/model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    folder
});

fn golden() -> std::path::PathBuf {
    GOLDEN.path().to_owned()
}

/// Pulls the golden version with a fault; what it gave, what the hub saw, and the folder of versions.
fn pulled(faults: &[Fault]) -> (Result<Pulled, PullError>, FakeHub, tempfile::TempDir) {
    let hub = FakeHub::start(&golden(), faults);
    let models = tempfile::tempdir().unwrap();
    let watch = Watch { progress: &|_, _| {}, cancelled: &IDLE };
    (pull(&hub, Hub::ModelScope).download(models.path(), watch), hub, models)
}

fn is_golden(pulled: &Pulled) {
    let folder = pulled.folder();
    for name in ["config.json", "vocab.json", "model.safetensors"] {
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), std::fs::read(golden().join(name)).unwrap(), "{name}");
    }
}

fn command(hub: &FakeHub, models: &Path, arguments: &[&str]) -> std::process::Output {
    program()
        .args(["models", "pull", MODEL, "--as", "pulled", "--retry-delay-ms", "1"])
        .env("OFA_STREAM_HUB_ENDPOINT", &hub.endpoint)
        .arg("--models-dir")
        .arg(models)
        .args(arguments)
        .env("OFA_STREAM_HUB_TOKEN", "hub-secret")
        .output()
        .unwrap()
}

#[test]
fn one_command_takes_a_model_from_either_hub_to_a_version_with_the_reference_figures() {
    let torch = tempfile::tempdir().unwrap();
    copy_texts(torch.path());
    let tensors = golden_tensors();
    write_torch(&torch.path().join("pytorch_model.bin"), &tensors, &state(&tensors));
    for (from, checkpoint) in [("modelscope", golden()), ("huggingface", torch.path().to_owned())] {
        let hub = FakeHub::start(&checkpoint, &[]);
        let models = tempfile::tempdir().unwrap();
        let output = command(&hub, models.path(), &["--from", from]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let left: Vec<String> = std::fs::read_dir(models.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock")
            .collect();
        assert_eq!(left, ["pulled"], "the download is removed once it is imported");
        let manifest = std::fs::read_to_string(models.path().join("pulled/manifest.toml")).unwrap();
        assert!(manifest.contains(&format!("model_id = \"{MODEL}\"")), "{manifest}");
        let version = models.path().join("pulled");
        a_version_agrees_with_the_reference("dev", models, &version);
        assert!(hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hub-secret")));
    }
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let (folder, hub, _models) = pulled(&[Fault::Cut(300_000, 100)]);
    is_golden(&folder.unwrap());
    let ranges: Vec<usize> = hub.seen().iter().filter_map(|seen| seen.from).collect();
    // 1.8 MB in pieces of 300 kB: each attempt begins where the last one ended.
    assert_eq!(ranges, (1..=6).map(|piece| piece * 300_000).collect::<Vec<_>>());
}

#[test]
fn a_hub_that_ignores_ranges_gives_the_file_anew() {
    let (folder, hub, _models) = pulled(&[Fault::Cut(300_000, 2), Fault::NoRanges]);
    is_golden(&folder.unwrap());
    assert!(hub.seen().iter().any(|seen| seen.from == Some(300_000)));
}

#[test]
fn a_part_that_does_not_say_which_it_is_is_not_believed() {
    let (folder, _, _models) = pulled(&[Fault::Cut(300_000, 2), Fault::NoContentRange]);
    is_golden(&folder.unwrap());
}

#[test]
fn the_token_goes_along_with_a_redirect_on_the_same_host() {
    let (folder, hub, _models) = pulled(&[Fault::Redirects]);
    is_golden(&folder.unwrap());
    let moved: Vec<_> = hub.seen().into_iter().filter(|seen| seen.path.starts_with("/moved")).collect();
    assert!(moved.len() > 5 && moved.iter().all(|seen| seen.authorization.is_some()), "{moved:?}");
}

#[test]
fn what_no_digest_can_tell_to_be_of_this_revision_is_downloaded_anew() {
    let hub = FakeHub::start(&golden(), &[]);
    let models = tempfile::tempdir().unwrap();
    let left = models.path().join(format!(".pulling-{}--main", MODEL.replace('/', "--")));
    std::fs::create_dir(&left).unwrap();
    // As long as the real one, from a revision that the branch has left; and weights that are gone.
    let config = std::fs::read_to_string(golden().join("config.json")).unwrap();
    std::fs::write(left.join("config.json"), config.replace("\"d_model\": 32", "\"d_model\": 64")).unwrap();
    std::fs::write(left.join("merges.txt.part"), "#version: 0.1").unwrap();
    std::fs::write(left.join("weights.safetensors"), "old").unwrap();
    let watch = Watch { progress: &|_, _| {}, cancelled: &IDLE };
    let pulled = pull(&hub, Hub::HuggingFace).download(models.path(), watch).unwrap();
    is_golden(&pulled);
    assert_eq!(std::fs::read(left.join("merges.txt")).unwrap(), std::fs::read(golden().join("merges.txt")).unwrap());
    assert!(!left.join("weights.safetensors").exists());
}

#[test]
fn the_next_command_goes_on_where_the_last_one_gave_up() {
    let models = tempfile::tempdir().unwrap();
    let broken = FakeHub::start(&golden(), &[Fault::Cut(300_000, 1)]);
    let output = command(&broken, models.path(), &["--attempts", "1"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("the same command goes on from it"), "{error}");
    assert!(!models.path().join("pulled").exists());
    let good = FakeHub::start(&golden(), &[]);
    assert!(command(&good, models.path(), &[]).status.success());
    let first = good.seen().into_iter().find(|seen| seen.path.contains("model.safetensors")).unwrap();
    assert_eq!(first.from, Some(300_000));
    let again: Vec<String> = good.seen().into_iter().map(|seen| seen.path).collect();
    assert!(!again.iter().any(|path| path.contains("merges.txt")), "what is there is not asked for again: {again:?}");
}

#[test]
fn passing_trouble_is_waited_out_and_lasting_trouble_is_named() {
    for status in [429, 500, 503] {
        let (folder, _, _models) = pulled(&[Fault::Status(status, 3)]);
        is_golden(&folder.unwrap());
    }
    let (error, hub, _models) = pulled(&[Fault::Status(500, 1000)]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the hub answers 500, 4 times in a row"), "{error}");
    assert_eq!(hub.seen().len(), 1 + 4);
    for (fault, words) in [
        (Fault::Status(403, 1000), "OFA_STREAM_HUB_TOKEN"),
        (Fault::ListStatus(404), "no such model or revision"),
        (Fault::NoList, "this is no list of files"),
        (Fault::ListStatus(418), "check --from and --endpoint"),
    ] {
        let (error, hub, _models) = pulled(std::slice::from_ref(&fault));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("hub-secret"), "{fault:?}: {error}");
        assert!(hub.seen().len() <= 2, "{fault:?}: asking again does not help");
    }
}

#[test]
fn a_hub_that_falls_silent_is_asked_again() {
    let hub = FakeHub::start(&golden(), &[Fault::Silent(1)]);
    let models = tempfile::tempdir().unwrap();
    let patient = Pull { idle_timeout: Duration::from_millis(300), ..pull(&hub, Hub::ModelScope) };
    let watch = Watch { progress: &|_, _| {}, cancelled: &IDLE };
    is_golden(&patient.download(models.path(), watch).unwrap());
}

#[test]
fn a_file_that_is_not_what_the_hub_described_never_becomes_a_version() {
    for (fault, words) in [
        (Fault::TooLong, "it goes on behind the 1819520 bytes"),
        (Fault::WrongByte, "the hub says"),
        (Fault::Lists("../evil.json"), "`../evil.json`, which points outside"),
        (Fault::Lists("/etc/evil.json"), "`/etc/evil.json`, which points outside"),
    ] {
        let (result, hub, models) = pulled(std::slice::from_ref(&fault));
        let error = result.unwrap_err();
        assert!(error.to_string().contains(words), "{fault:?}: {error}");
        let output = command(&hub, models.path(), &[]);
        assert!(!output.status.success());
        assert!(!models.path().join("pulled").exists());
        let whole = models.path().join(format!(".pulling-{}--master", MODEL.replace('/', "--")));
        assert!(!whole.join("model.safetensors").exists(), "{fault:?}");
        assert!(!whole.join("model.safetensors.part").exists(), "{fault:?}");
    }
}

#[test]
fn a_model_without_weights_is_refused_with_what_it_has() {
    let empty = tempfile::tempdir().unwrap();
    copy_texts(empty.path());
    let hub = FakeHub::start(empty.path(), &[]);
    let models = tempfile::tempdir().unwrap();
    let watch = Watch { progress: &|_, _| {}, cancelled: &IDLE };
    let error = pull(&hub, Hub::HuggingFace).download(models.path(), watch).unwrap_err().to_string();
    assert!(error.contains("no model.safetensors") && error.contains("merges.txt"), "{error}");
    for name in ["checkpoint.pt", "optimizer.pt"] {
        std::fs::write(empty.path().join(name), "x").unwrap();
    }
    let hub = FakeHub::start(empty.path(), &[]);
    let error = pull(&hub, Hub::HuggingFace).download(models.path(), watch).unwrap_err().to_string();
    assert!(error.contains("not exactly one .pt file"), "{error}");
}

#[test]
fn a_pull_that_is_cancelled_keeps_what_it_has_and_makes_no_version() {
    let hub = FakeHub::start(&golden(), &[]);
    let models = tempfile::tempdir().unwrap();
    let cancelled = AtomicBool::new(false);
    let progress = |done: u64, _| cancelled.store(done > 500_000, Ordering::Relaxed);
    let watch = Watch { progress: &progress, cancelled: &cancelled };
    let error = pull(&hub, Hub::ModelScope).download(models.path(), watch).unwrap_err().to_string();
    assert!(error.contains("cancelled"), "{error}");
    let part = models.path().join(format!(".pulling-{}--master/model.safetensors.part", MODEL.replace('/', "--")));
    assert!(std::fs::metadata(part).unwrap().len() > 0);
}

#[test]
fn ids_addresses_and_revisions_that_are_none_are_refused_before_anything_is_asked() {
    let hub = FakeHub::start(&golden(), &[]);
    let models = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["--endpoint", "ftp://hub"][..], "begins with https:// or http://"),
        (&["--revision", "../../x"], "is no branch, tag or commit"),
    ] {
        let output = command(&hub, models.path(), arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{error}");
    }
    for id in ["ofa", "../x/y", "a/b/c", "a/..", "a b/c", "/a"] {
        assert!(id.parse::<ofa_stream::store::ModelId>().is_err(), "{id}");
    }
    assert!(hub.seen().is_empty());
}
