//! Configurations lie in the control topic and in state files, where secrets must not.

use super::{Command, ControlError};

/// Options of librdkafka that are secrets.
const SECRETS: [&str; 5] =
    ["sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"];

/// Refuses settings that hold a secret.
pub(super) fn check(command: &Command) -> Result<(), ControlError> {
    let Command::Apply { text } = command else { return Ok(()) };
    // Text that is not TOML is refused for that reason later.
    let Ok(settings) = text.parse::<toml::Table>() else { return Ok(()) };
    let of = |section: &str, key: &str| settings.get(section).and_then(|section| section.get(key));
    let token = ["write_token", "read_token"].into_iter().find(|token| of("admin", token).is_some());
    if let Some(token) = token {
        return Err(ControlError::Secret(format!("admin.{token}")));
    }
    let options = of("kafka", "options").and_then(toml::Value::as_table);
    let secret =
        options.into_iter().flat_map(toml::Table::keys).find(|name| SECRETS.contains(&name.replace('_', ".").as_str()));
    secret.map_or(Ok(()), |name| Err(ControlError::Secret(format!("kafka.options.{name}"))))
}
