//! The brokers that a command reads from.

use clap::Args;

use super::{CliError, SettingsArguments, failed};
use crate::{kafka::Connection, pipeline::connection, settings::Plan};

/// Settings, and where the brokers are.
#[derive(Args)]
pub(super) struct Brokers {
    #[command(flatten)]
    pub(super) settings: SettingsArguments,
    /// Where the brokers are, instead of what the settings say
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_servers: Option<String>,
}

impl Brokers {
    /// The settings and a connection to the brokers.
    pub(super) fn connect(&self) -> Result<(Plan, Connection), CliError> {
        let plan = self.settings.plan()?;
        let mut connection = connection(&plan, None);
        if let Some(bootstrap_servers) = &self.bootstrap_servers {
            connection.bootstrap_servers.clone_from(bootstrap_servers);
        }
        if connection.bootstrap_servers.is_empty() {
            return Err(failed(
                "the settings name the embedded broker, which lives inside `run --embedded` or `demo --keep-running`: give the \
                 address that it printed with --bootstrap-servers",
            ));
        }
        Ok((plan, connection))
    }
}
