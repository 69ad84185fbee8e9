//! The connection, and what the server says beside its answers.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use roomreel_shared::ports::LogError;
use tokio::sync::{broadcast, watch};

use super::NatsConfig;

/// How soon a dead peer is noticed: two of these without an answer.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Messages that wait for a slow reader; more are lost. Above what a log reader ever has in flight.
const SUBSCRIPTION_CAPACITY: usize = 4096;
/// Permission errors that a call may be behind.
const VIOLATIONS: usize = 64;

/// What the server says beside its answers.
pub(super) struct Connection {
    /// How often the connection broke, and whether it is up.
    state: watch::Sender<State>,
    /// `Permissions Violation …` as it came.
    violations: broadcast::Sender<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) breaks: u64,
    pub(super) up: bool,
}

impl Connection {
    fn on_event(&self, server: &str, event: &Event) {
        match event {
            Event::Connected => {
                tracing::info!(server, "connected to NATS");
                self.state.send_modify(|state| state.up = true);
            }
            Event::Disconnected => {
                tracing::warn!(server, "lost the connection to NATS; it is sought again");
                self.state.send_modify(|state| *state = State { breaks: state.breaks + 1, up: false });
            }
            Event::SlowConsumer(_) => tracing::debug!(server, "a reader of the bus is too slow and lost a message"),
            Event::ServerError(ServerError::Other(text)) => {
                // No one may be waiting: it can belong to a subscription.
                let _ = self.violations.send(text.clone());
                tracing::debug!(server, text, "NATS says");
            }
            Event::ServerError(error) => tracing::warn!(server, %error, "NATS refuses the login"),
            event => tracing::debug!(server, %event, "NATS client"),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.borrow().up
    }

    /// The connection's state, to wait for its break.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Waits for the server to say that we may not publish or subscribe to `subject`.
    pub(super) async fn violation(&self, subject: &str) -> String {
        let mut violations = self.violations.subscribe();
        let quoted = format!("\"{subject}\"");
        loop {
            match violations.recv().await {
                Ok(text) if text.contains(&quoted) => return text,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

pub(super) async fn connect(config: &NatsConfig, server: &str) -> Result<(Client, Arc<Connection>), LogError> {
    let refused = |reason: String| LogError::Refused { reason };
    let (state, _) = watch::channel(State { breaks: 0, up: true });
    let (violations, _) = broadcast::channel(VIOLATIONS);
    let connection = Arc::new(Connection { state, violations });

    let events = (connection.clone(), Arc::<str>::from(server));
    let mut options = ConnectOptions::new()
        .name("roomreel")
        .connection_timeout(config.connect_timeout)
        .request_timeout(Some(config.request_timeout))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .event_callback(move |event| {
            let (connection, server) = events.clone();
            async move { connection.on_event(&server, &event) }
        });
    if let Some(prefix) = &config.inbox_prefix {
        if !prefix.starts_with("_INBOX") {
            return Err(refused(format!("the inbox prefix {prefix:?} does not begin with _INBOX")));
        }
        options = options.custom_inbox_prefix(prefix);
    }
    if let Some(file) = &config.credentials_file {
        let read = options.credentials_file(file).await;
        options = read.map_err(|e| refused(format!("the credentials file {} for {server}: {e}", file.display())))?;
    } else if let Some(user) = &config.user {
        let password = config.password.as_ref().map_or("", |password| password.expose());
        options = options.user_and_password(user.clone(), password.to_owned());
    }

    // The client takes the process's cryptography, and panics where two libraries are built in (features `gcs`, `azure`) and
    // none was chosen. An error means that one was.
    let _ = async_nats::rustls::crypto::ring::default_provider().install_default();

    let addresses: Vec<&str> = config.url.split(',').map(str::trim).collect();
    // The client's own limit is by server; this one is over all of them.
    let limit = config.connect_timeout * u32::try_from(addresses.len()).unwrap_or(1);
    let client = match tokio::time::timeout(limit, options.connect(addresses)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            return Err(match error.kind() {
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                    refused(format!("NATS at {server} refuses the login: check user, password or credentials file"))
                }
                ConnectErrorKind::ServerParse => {
                    refused(format!("{server} is not the address of a NATS server; write nats://host:4222"))
                }
                _ => not_there(server, &error.to_string()),
            });
        }
        Err(_) => return Err(not_there(server, &format!("no answer within {limit:?}"))),
    };
    Ok((client, connection))
}

fn not_there(server: &str, reason: &str) -> LogError {
    let reason = format!("{reason}; start nats-server with JetStream there (nats-server -js), or correct the URL");
    LogError::Unavailable { server: server.to_owned(), reason }
}
