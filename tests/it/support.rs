//! What several test modules share.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::AtomicBool,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use ofa_stream::{
    message::Device,
    store::{ImportOptions, Manifest, Watch, import},
    weights::Precision,
};
use serde_json::Value;

/// Set in CI: a test that would skip fails instead.
const REQUIRE_ALL: &str = "OFA_STREAM_TEST_REQUIRE_ALL";

/// Says loudly that a test is skipped, or fails where nothing may be.
pub(crate) fn skip(what: &str) {
    assert!(std::env::var_os(REQUIRE_ALL).is_none(), "{REQUIRE_ALL} is set, and this cannot run: {what}");
    eprintln!("\n*** SKIPPED: {what} ***\n");
}

/// A path below the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file below the repository, as JSON.
pub(crate) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The CPU devices, which every machine has.
pub(crate) const CPUS: [Device; 2] = [Device::Flex, Device::NdArray];

/// A checkpoint imported into a folder of versions of its own: that folder, and the version's.
pub(crate) fn imported(checkpoint: &Path, dtype: Precision) -> (tempfile::TempDir, PathBuf) {
    let models = tempfile::tempdir().unwrap();
    let version = models.path().join("v");
    import_into(models.path(), checkpoint, |options| options.dtype = dtype).unwrap();
    (models, version)
}

/// Imports a checkpoint as version `v`; the error as people read it.
pub(crate) fn import_into(
    models: &Path,
    checkpoint: &Path,
    change: impl FnOnce(&mut ImportOptions),
) -> Result<Manifest, String> {
    let mut options = ImportOptions {
        models: models.to_owned(),
        name: "v".parse().unwrap(),
        dtype: Precision::F32,
        tokenizer: None,
        replace: false,
        pulled: None,
        temperature: 1.0,
        trained: None,
        languages: Vec::new(),
    };
    change(&mut options);
    let watch = Watch { progress: &|_, _| {}, cancelled: &AtomicBool::new(false) };
    import(checkpoint, &options, watch).map_err(|error| error.to_string())
}

/// The program under test.
pub(crate) fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_ofa-stream"));
    program.current_dir(repository("")).env_remove("RUST_LOG");
    program
}

/// Settings for a test: both shipped versions, an experiment over all units, logs as JSON, metrics on
/// a free port.
pub(crate) fn settings(bootstrap_servers: &str) -> String {
    format!(
        r#"
[kafka]
bootstrap_servers = "{bootstrap_servers}"
control = "off"
[kafka.options]
"session.timeout.ms" = "6000"
[model_versions]
default = "ofa_base"
[model_versions.versions.ofa_base]
# Most tests send one picture and one text again and again, and mean a pass each time.
answer_cache_bytes = 0
[model_versions.versions.ofa_small]
answer_cache_bytes = 0
[[experiments]]
name = "both"
traffic_ratio = 1.0
variants = [
  {{ name = "control", model_version = "ofa_base", weight = 1.0 }},
  {{ name = "treatment", model_version = "ofa_small", weight = 3.0 }},
]
[telemetry]
listen = "127.0.0.1:0"
log_format = "json"
[control]
directory = "off"
watch_ms = 0
[admin]
listen = "off"
[evidence]
enabled = false
"#
    )
}

/// `ofa-stream run` as a child process; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<Value>,
    settings: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    /// Starts with a folder of its own for its settings; `{folder}` in them is that folder.
    pub(crate) fn start_in(folder: tempfile::TempDir, settings: &str) -> Self {
        Self::start_as(folder, settings, |_| ())
    }

    /// As [`Self::start_in`], with a changed command: another environment, say.
    pub(crate) fn start_as(folder: tempfile::TempDir, settings: &str, change: impl FnOnce(&mut Command)) -> Self {
        let settings = settings.replace("{folder}", folder.path().to_str().unwrap());
        let file = folder.path().join("pipeline.toml");
        std::fs::write(&file, settings).unwrap();
        let mut command = program();
        change(&mut command);
        let mut child =
            command.arg("run").arg("--embedded").arg("--config").arg(&file).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // The test may have stopped listening.
                sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line))).ok();
            }
        });
        Self { child, lines, settings: folder }
    }

    /// The next log line with this message.
    pub(crate) fn log_line(&self, message: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if says(&line, message) {
                return line;
            }
            seen.push(line.to_string());
        }
        panic!("no log line \"{message}\" among:\n{}", seen.join("\n"));
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// How many log lines with this message came that nobody has asked for.
    pub(crate) fn logged(&self, message: &str) -> usize {
        self.lines.try_iter().filter(|line| says(line, message)).count()
    }

    /// The folder of its settings file, and its working folder for whatever is relative there.
    pub(crate) fn folder(&self) -> &Path {
        self.settings.path()
    }

    /// Changes its settings, and tells it nothing.
    pub(crate) fn write_settings(&self, settings: &str) {
        std::fs::write(self.settings.path().join("pipeline.toml"), settings).unwrap();
    }

    /// Changes its settings, and tells it so.
    pub(crate) fn change_settings(&self, settings: &str) {
        self.write_settings(settings);
        self.signal("HUP");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let told = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// Kills without any chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits for its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.end()
    }

    /// As [`Self::stop`], and gives its folder back for another start.
    pub(crate) fn stop_and_keep(mut self) -> tempfile::TempDir {
        assert_eq!(self.end(), Some(0));
        std::mem::replace(&mut self.settings, tempfile::tempdir().unwrap())
    }

    /// As [`Self::stop`], with what it said since it was last listened to.
    pub(crate) fn stop_and_hear(mut self) -> (Option<i32>, String) {
        let code = self.end();
        (code, self.said())
    }

    /// Waits until it ends by itself: its exit code, and what it said since it was last listened to.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        (self.child.wait().unwrap().code(), self.said())
    }

    pub(crate) fn said(&self) -> String {
        // The last lines may still be on their way.
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) {
            lines.push(line.to_string());
        }
        lines.join("\n")
    }

    fn end(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let is_told = |line: &&str| !line.contains("Verdict.") && !line.contains("Dead letter.");
            let said = self.said();
            let lines: Vec<&str> = said.lines().filter(is_told).collect();
            eprintln!("what `run` said last:\n{}\n", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Memory of a process in bytes, from the system.
pub(crate) fn resident(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Waits for a value for a minute.
pub(crate) fn until<T>(expected: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{expected} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The sum of a metric over its labels; zero where it was never written.
pub(crate) fn metric(page: &str, name: &str, labels: &str) -> f64 {
    let lines = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// One page over HTTP, status line and headers included.
pub(crate) fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// True if a log line has this event id, or this text in its message.
fn says(line: &Value, text: &str) -> bool {
    line["event"] == text || line["message"].as_str().is_some_and(|message| message.contains(text))
}
