//! An etcd of one member.

use std::ops::{Deref, DerefMut};

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::{Server, free_port};

/// One `etcd`. As a [`Server`] it can be stopped, killed and paused; dropping it stops it.
pub struct EtcdServer {
    server: Server,
    client_port: u16,
    peer_port: u16,
}

impl Deref for EtcdServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for EtcdServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl EtcdServer {
    /// Starts it and waits until it has elected itself.
    ///
    /// # Errors
    /// It is not installed or does not come up.
    pub async fn start() -> Result<Self> {
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let mut server = Self { server: Server::new("etcd", "etcd-server")?, client_port, peer_port };
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens, also while it is down.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Kills it, takes everything it holds, and starts it again: its revisions begin anew.
    ///
    /// # Errors
    /// As [`EtcdServer::start`].
    pub async fn wipe(&mut self) -> Result<()> {
        self.server.kill();
        std::fs::remove_dir_all(self.server.directory().join("data"))?;
        self.restart().await
    }

    /// Starts it again on the same ports and data, killing it first if it runs.
    ///
    /// # Errors
    /// As [`EtcdServer::start`].
    pub async fn restart(&mut self) -> Result<()> {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let data = self.server.directory().join("data").display().to_string();
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
        let port = self.client_port;
        self.server.run(&arguments, async || is_healthy(port).await.unwrap_or(false)).await
    }
}

async fn is_healthy(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.contains(r#""health":"true""#))
}
