//! TLS and SASL against a broker that asks for them.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use crate::{
    broker::image,
    kafka::{Kafka, Sent, receive, send},
    support::{Running, skip},
};

/// A token that brokers of tests take: nobody has signed it.
fn token() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": "ofa", "iat": now.as_secs(), "exp": (now + Duration::from_secs(600)).as_secs()});
    format!("{}.{}.", part(json!({"alg": "none"})), part(claims))
}

#[test]
fn requests_are_answered_over_tls_with_every_mechanism_and_no_secret_is_shown() {
    if !cfg!(feature = "tls") {
        return skip("built without the feature `tls`");
    }
    let Some(kafka) = Kafka::start(&["--secure"]) else { return };
    let secrets = tempfile::tempdir().unwrap();
    let (password, bearer) = (secrets.path().join("password"), secrets.path().join("token"));
    std::fs::write(&password, format!("{}\n", kafka.told("password"))).unwrap();
    std::fs::write(&bearer, token()).unwrap();
    let request = json!({"request_id": "r", "text": "a ball", "image": {"base64": image("thumbnail.png")}}).to_string();
    let secure = |mechanism: &str, listener: &str| {
        let topics = kafka.topics();
        let protocol = if listener == "tls" { "sasl_ssl" } else { "sasl_plaintext" };
        let options = format!(
            "oauth_token_file = \"{}\"\n[kafka.secret_files]\n\"sasl.password\" = \"{}\"\n[kafka.options]\n\
             \"security.protocol\" = \"{protocol}\"\n\"sasl.mechanism\" = \"{mechanism}\"\n\"sasl.username\" = \"{}\"\n\
             \"ssl.ca.location\" = \"{}\"\n",
            bearer.display(),
            password.display(),
            kafka.told("user"),
            kafka.told("ca"),
        );
        let settings = topics
            .settings(kafka.told(listener), "secure")
            .replace("[kafka.options]\n", &options)
            .replace("log_format = \"json\"", "log_format = \"json\"\nlog_level = \"debug\"");
        (topics, settings)
    };
    for (mechanism, listener) in
        [("PLAIN", "tls"), ("SCRAM-SHA-256", "tls"), ("SCRAM-SHA-512", "sasl"), ("OAUTHBEARER", "tls")]
    {
        let (topics, settings) = secure(mechanism, listener);
        let running = Running::start(&settings);
        send(
            kafka.address(),
            &topics.name("requests"),
            &[Sent { key: Some("k"), payload: Some(request.clone().into_bytes()), headers: vec![] }],
        );
        assert_eq!(receive(kafka.address(), &topics.name("verdicts"), 1).len(), 1, "{mechanism}");
        let (code, told) = running.stop_and_hear();
        assert_eq!(code, Some(0), "{mechanism}: {told}");
        assert!(!told.contains(kafka.told("password")) && !told.contains(&token()[..20]), "{mechanism}: {told}");
    }

    let (_, settings) = secure("PLAIN", "tls");
    let system = settings.lines().filter(|line| !line.contains("ssl.ca.location")).collect::<Vec<_>>().join("\n");
    let (code, told) = Running::start(&system).wait();
    assert_eq!(code, Some(1));
    assert!(told.contains("certificate verify failed"), "a certificate that nobody vouches for is not trusted: {told}");

    std::fs::write(&password, "wrong-password").unwrap();
    let (_, settings) = secure("PLAIN", "tls");
    let (code, told) = Running::start(&settings).wait();
    assert_eq!(code, Some(1));
    assert!(told.contains("Authentication failed") && !told.contains("wrong-password"), "{told}");
}
