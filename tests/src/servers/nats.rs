//! A NATS server with JetStream. `ROOMREEL_TEST_NATS_SERVER` names another program than `nats-server`, such as a newer one.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;

use super::process::{Server, free_port};

/// One `nats-server` with JetStream. As a [`Server`] it can be stopped, killed and paused; dropping it stops it.
pub struct NatsServer {
    server: Server,
    port: u16,
}

impl Deref for NatsServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for NatsServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
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
        let program = std::env::var("ROOMREEL_TEST_NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
        let server = Server::new(&program, "nats-server")?;
        let port = free_port()?;
        let store = server.directory().join("jetstream");
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nmax_payload: 1MB\njetstream {{ store_dir: {:?} }}\n{more}\n",
            store.display().to_string()
        );
        std::fs::write(server.directory().join("nats.conf"), config)?;
        let mut server = Self { server, port };
        server.restart().await?;
        Ok(server)
    }

    /// Starts servers that replicate streams among each other. They greet before they have elected a leader.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_cluster(count: usize) -> Result<Vec<Self>> {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect::<Result<_>>()?;
        let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let routes = routes.join(", ");
        let mut servers = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let cluster = format!("name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}]");
            servers.push(Self::start_with(&format!("server_name: \"nats-{number}\"\ncluster {{ {cluster} }}")).await?);
        }
        Ok(servers)
    }

    /// A copy of what it has stored so far, taken at one instant.
    ///
    /// # Errors
    /// It does not run, or the disk is full.
    pub fn copy_store(&self) -> Result<TempDir> {
        let copy = tempfile::tempdir()?;
        self.pause()?;
        let copied = copy_files(&self.store(), copy.path());
        self.resume()?;
        copied.map(|()| copy)
    }

    /// Kills it and starts it again with the data of an earlier time: a power loss of what was not yet synced.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn roll_back(&mut self, to: &TempDir) -> Result<()> {
        self.kill();
        std::fs::remove_dir_all(self.store())?;
        copy_files(to.path(), &self.store())?;
        self.restart().await
    }

    fn store(&self) -> PathBuf {
        self.server.directory().join("jetstream")
    }

    /// Where it listens, also while it is down.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same port and data, killing it first if it runs.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn restart(&mut self) -> Result<()> {
        let config = self.server.directory().join("nats.conf").display().to_string();
        let arguments = ["-c".to_owned(), config];
        let port = self.port;
        self.server.run(&arguments, async || greets(port).await).await
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Whether the server says its first line.
async fn greets(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.is_ok() && line.starts_with("INFO ")
}
