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

    /// Looks.
    ///
    /// # Errors
    /// When it is not answered.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send("GET", path, String::new())
    }

    /// Has something done, with a JSON body.
    ///
    /// # Errors
    /// When it is refused, or not answered.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        // Plain data with string keys: serializing cannot fail.
        self.send("POST", path, serde_json::to_string(body).unwrap_or_default())
    }

    /// Has something done, with a text.
    ///
    /// # Errors
    /// When it is refused, or not answered.
    pub fn send<T: DeserializeOwned>(&self, method: &str, path: &str, body: String) -> Result<T, ClientError> {
        let address = format!("{}{path}", self.base);
        let strange = |reason: String| ClientError::Strange { address: self.base.clone(), reason };
        let request = Request::builder()
            .method(method)
            .uri(&address)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.reveal()))
            .body(body)
            .map_err(|error| strange(error.to_string()))?;
        let unreachable =
            |error: ureq::Error| ClientError::Unreachable { address: self.base.clone(), reason: error.to_string() };
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
