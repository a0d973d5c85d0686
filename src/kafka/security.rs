//! Who this program is to the brokers, where that is a token (SASL/OAUTHBEARER).

use std::{
    error::Error,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::client::OAuthToken;
use serde::Deserialize;

/// Where tokens come from. Read again for each, so that whoever renews them writes the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// A file with a token, as workload identities and sidecars write it.
    pub token_file: Option<PathBuf>,
}

/// What is read of a JSON Web Token: until when it is good, in seconds since the Unix epoch, and for whom.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    sub: Option<String>,
}

/// A token that does not say how long it is good is read again after this time.
const LIFETIME: Duration = Duration::from_secs(300);

impl Credentials {
    /// The token, for the client library.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let file = self.token_file.as_ref().ok_or("set `kafka.oauth_token_file` for SASL/OAUTHBEARER")?;
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let token = text.trim().to_owned();
        let claims = claims(&token);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let lifetime_ms = match claims.as_ref().and_then(|claims| claims.exp) {
            Some(seconds) => (seconds * 1e3) as i64,
            None => (now + LIFETIME).as_millis() as i64,
        };
        let principal_name = claims.and_then(|claims| claims.sub).unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
        Ok(OAuthToken { token, principal_name, lifetime_ms })
    }
}

/// Who checks a token is the broker; here only its lifetime is wanted.
fn claims(token: &str) -> Option<Claims> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&claims).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_file_each_time_with_its_lifetime() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credentials = Credentials { token_file: Some(file.path().to_owned()) };
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"ofa","exp":1800000000}"#);
        fs::write(file.path(), format!("e30.{claims}.\n")).unwrap();
        let token = credentials.token().unwrap();
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("ofa", 1_800_000_000_000));
        assert_eq!(token.token, format!("e30.{claims}."));

        fs::write(file.path(), "opaque").unwrap();
        assert_eq!(credentials.token().unwrap().principal_name, "ofa-stream");
        let error = Credentials::default().token().err().unwrap().to_string();
        assert!(error.contains("kafka.oauth_token_file"), "{error}");
    }
}
