//! An etcd of one member.

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::{Process, free_port};

/// One `etcd`. What is done to it is done at once; dropping it stops it.
pub struct EtcdServer {
    process: Option<Process>,
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
}

impl EtcdServer {
    /// Starts it and waits until it has elected itself.
    ///
    /// # Errors
    /// It is not installed or does not come up.
    pub async fn start() -> Result<Self> {
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let mut server = Self { process: None, directory: tempfile::tempdir()?, client_port, peer_port };
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens, also while it is down.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
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
        self.process.as_ref().context("etcd is not running")?.signal("STOP")
    }

    /// Lets it go on after [`EtcdServer::pause`].
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("etcd is not running")?.signal("CONT")
    }

    /// Starts it again on the same ports and data, killing it first if it runs.
    ///
    /// # Errors
    /// As [`EtcdServer::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let data = self.directory.path().join("data").display().to_string();
        let arguments = [
            format!("--data-dir={data}"),
            "--name=test".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
            // Tests are about what a store answers, not about the disk of the machine they run on.
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=500".to_owned(),
        ];
        let process = Process::start("etcd", "etcd-server", &arguments, self.directory.path())?;
        let port = self.client_port;
        self.process.insert(process).wait_until(async || is_healthy(port).await.unwrap_or(false)).await
    }
}

async fn is_healthy(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.contains(r#""health":"true""#))
}
