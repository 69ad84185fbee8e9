//! A NATS server with JetStream.

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;

use super::process::{Process, free_port};

/// One `nats-server` with JetStream. What is done to it is done at once; dropping it stops it.
pub struct NatsServer {
    process: Option<Process>,
    directory: TempDir,
    port: u16,
}

impl NatsServer {
    /// Starts it and waits until it takes connections.
    ///
    /// # Errors
    /// It is not installed or does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// Starts it with more lines in its configuration file, such as users and their permissions.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_with(more: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let store = directory.path().join("jetstream");
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nmax_payload: 1MB\njetstream {{ store_dir: {:?} }}\n{more}\n",
            store.display().to_string()
        );
        std::fs::write(directory.path().join("nats.conf"), config)?;
        let mut server = Self { process: None, directory, port };
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens, also while it is down.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Stops it in an orderly way. Its data stay.
    ///
    /// # Errors
    /// It does not go.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.terminate().await,
            None => Ok(()),
        }
    }

    /// Kills it. Its data stay.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops its clock: SIGSTOP.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("nats-server is not running")?.signal("STOP")
    }

    /// Lets it go on after [`NatsServer::pause`].
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("nats-server is not running")?.signal("CONT")
    }

    /// Starts it again on the same port and data, killing it first if it runs.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        let config = self.directory.path().join("nats.conf").display().to_string();
        let arguments = ["-c".to_owned(), config];
        let process = Process::start("nats-server", "nats-server", &arguments, self.directory.path())?;
        let port = self.port;
        self.process.insert(process).wait_until(async || greets(port).await).await
    }
}

/// Whether the server says its first line.
async fn greets(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.is_ok() && line.starts_with("INFO ")
}
