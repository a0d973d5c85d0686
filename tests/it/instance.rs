//! Running instances that operators change.

use std::time::{Duration, Instant};

use ofa_stream::{
    admin::{ChangeRequest, Client, ClientError},
    control::{Applied, Report},
    settings::Secret,
};
use serde_json::Value;

use crate::support::{Running, metric, page, settings};

pub(crate) const TOKEN: &str = "write-token-of-a-test";
pub(crate) const READ_TOKEN: &str = "read-token-of-a-test";

/// Settings with everything that operators use, the experiment among them.
pub(crate) fn operated(bootstrap_servers: &str) -> String {
    let plain = settings(bootstrap_servers);
    let admin =
        format!("[admin]\nlisten = \"127.0.0.1:0\"\nwrite_token = \"{TOKEN}\"\nread_token = \"{READ_TOKEN}\"\n");
    plain
        // The mock cluster does not wake a fetch that waits; brokers do.
        .replace("control = \"off\"\n[kafka.options]\n", "[kafka.options]\n\"fetch.wait.max.ms\" = \"10\"\n")
        .replace("directory = \"off\"\nwatch_ms = 0", "directory = \"{folder}/control\"\nwatch_ms = 20")
        .replace("[admin]\nlisten = \"off\"\n", &admin)
}

/// A running instance, with its admin API.
pub(crate) struct Instance {
    pub(crate) running: Running,
    pub(crate) api: Client,
    pub(crate) metrics: String,
}

impl Instance {
    pub(crate) fn start(settings: &str) -> Self {
        Self::of(Running::start(settings))
    }

    pub(crate) fn of(running: Running) -> Self {
        let address = |message: &str| running.log_line(message)["address"].as_str().unwrap().to_owned();
        let metrics = address("Serving /metrics");
        let api = client(&address("Serving the admin API."), TOKEN);
        Self { running, api, metrics }
    }

    pub(crate) fn report(&self) -> Report {
        self.api.get("/v1/status").unwrap()
    }

    pub(crate) fn post(&self, path: &str) -> Result<Applied, ClientError> {
        self.api
            .post(path, &ChangeRequest { by: "ann".to_owned(), why: "a test".to_owned(), ..ChangeRequest::default() })
    }

    pub(crate) fn code(&self, method: &str, path: &str, body: &str) -> String {
        match self.api.send::<Value>(method, path, body.to_owned()).unwrap_err() {
            ClientError::Refused { code, .. } => code,
            error => panic!("{error}"),
        }
    }

    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        metric(&page(&self.metrics, "/metrics"), name, labels)
    }

    /// How long it takes until it serves by this configuration.
    pub(crate) fn until_it_serves(&self, digest: &str) -> Duration {
        let begun = Instant::now();
        while self.report().config_digest != digest {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not follow: {:?}", self.report());
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }
}

pub(crate) fn client(address: &str, token: &str) -> Client {
    Client::new(&format!("http://{address}"), Secret::new(token.to_owned()))
}
