//! Asks a running instance, for the program's own commands.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use ureq::{
    Agent,
    http::{Request, StatusCode, header},
};

use super::Refusal;
use crate::settings::Secret;

/// How long an answer may take: a change may have to load a large version first.
pub const ANSWER_MAX: Duration = Duration::from_secs(600);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// No answer of the API is larger.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Asks one instance.
pub struct Client {
    agent: Agent,
    base: String,
    token: Secret,
}

/// An instance that did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It does not answer.
    #[error("{address} does not answer: {reason}; is ofa-stream running, and is `admin.listen` this address?")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The connection broke before the answer came: the outcome is unknown.
    #[error("{address} did not answer: {reason}; the change may still take effect. Look at `status`")]
    Interrupted {
        /// Where it is.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// It refuses.
    #[error("refused ({code}): {message}")]
    Refused {
        /// The stable code.
        code: String,
        /// What is wrong.
        message: String,
    },
    /// Something else answers there.
    #[error("{address} answers, and not as ofa-stream does: {reason}")]
    Strange {
        /// Where it is.
        address: String,
        /// What came.
        reason: String,
    },
}

impl ClientError {
    /// True if the change may or may not be made. On a retry, `busy` means that the first attempt is still in progress.
    pub fn is_unknown(&self, is_retry: bool) -> bool {
        match self {
            Self::Interrupted { .. } => true,
            Self::Refused { code, .. } => code == "outcome_unknown" || is_retry && code == "busy",
            Self::Unreachable { .. } | Self::Strange { .. } => false,
        }
    }
}

impl ClientError {
    /// True if the instance decided on the change: it is made or refused.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Refused { code, .. } => !["busy", "stopping", "outcome_unknown"].contains(&code.as_str()),
            Self::Interrupted { .. } | Self::Unreachable { .. } | Self::Strange { .. } => false,
        }
    }
}

/// Conditions of a change.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// The `ETag` of a report that must be in force.
    pub if_match: Option<String>,
    /// The id of the change. A retry with the same id is not carried out twice.
    pub id: Option<String>,
}

impl Client {
    /// A client of the instance at `base`, such as `http://127.0.0.1:9465`.
    pub fn new(base: &str, token: Secret) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_global(Some(ANSWER_MAX))
            // A command is one request; a connection that is kept may be closed by the server at the wrong moment.
            .max_idle_connections(0)
            // It is this machine or one beside it.
            .proxy(None)
            .build();
        Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), token }
    }

    /// Where the instance is.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// Reads an address.
    ///
    /// # Errors
    /// When the instance refuses, or does not answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send("GET", path, String::new())
    }

    /// Makes a change, with a JSON body.
    ///
    /// # Errors
    /// When the instance refuses, or does not answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        // Plain data with string keys: serializing cannot fail.
        self.send("POST", path, serde_json::to_string(body).unwrap_or_default())
    }

    /// Makes a change, with a text as the body.
    ///
    /// # Errors
    /// When the instance refuses, or does not answer.
    pub fn send<T: DeserializeOwned>(&self, method: &str, path: &str, body: String) -> Result<T, ClientError> {
        self.send_if(method, path, body, &Conditions::default())
    }

    /// Makes a change under conditions.
    ///
    /// # Errors
    /// When the instance refuses, or does not answer.
    pub fn send_if<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: String,
        conditions: &Conditions,
    ) -> Result<T, ClientError> {
        let address = format!("{}{path}", self.base);
        let strange = |reason: String| ClientError::Strange { address: self.base.clone(), reason };
        let mut request = Request::builder()
            .method(method)
            .uri(&address)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.reveal()));
        if let Some(etag) = &conditions.if_match {
            request = request.header(header::IF_MATCH, format!("\"{etag}\""));
        }
        if let Some(id) = &conditions.id {
            request = request.header("idempotency-key", id);
        }
        let request = request.body(body).map_err(|error| strange(error.to_string()))?;
        let unreachable = |error: ureq::Error| {
            let (address, reason) = (self.base.clone(), error.to_string());
            if was_sent(&error) {
                ClientError::Interrupted { address, reason }
            } else {
                ClientError::Unreachable { address, reason }
            }
        };
        let mut response = self.agent.run(request).map_err(unreachable)?;
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(unreachable)?;
        if response.status() == StatusCode::OK {
            return serde_json::from_str(&text).map_err(|error| strange(error.to_string()));
        }
        match serde_json::from_str(&text) {
            Ok(Refusal { code, message }) => Err(ClientError::Refused { code, message }),
            Err(_) => Err(strange(format!("status {}", response.status()))),
        }
    }
}

/// True if the instance may have taken the request before the connection failed.
fn was_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(timeout) => !matches!(timeout, ureq::Timeout::Connect | ureq::Timeout::Resolve),
        _ => false,
    }
}
