//! A process of roomreel itself, to be killed and paused as no task within a test can be.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::{Server, free_port};

/// One process of a role. As a [`Server`] it can be stopped, killed and paused; dropping it kills it.
pub struct Roomreel {
    server: Server,
    arguments: Vec<String>,
    health_port: u16,
}

impl Deref for Roomreel {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Roomreel {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Roomreel {
    /// Starts a role as node `name` and waits until it answers. Its log goes to `{name}.log` in `logs`.
    ///
    /// # Errors
    /// The program was not built, or does not come up.
    pub async fn start(role: &str, name: &str, settings: &[String], logs: &Path) -> Result<Self> {
        let health_port = free_port()?;
        let mut arguments = vec![
            role.to_owned(),
            format!("--node-id={name}"),
            format!("--health-listen=127.0.0.1:{health_port}"),
            "--log-format=human".to_owned(),
        ];
        if role == "coordinator" {
            arguments.push("--api-listen=127.0.0.1:0".to_owned());
            arguments.push("--jwt-secret=only-for-tests-and-32-bytes-long".to_owned());
        }
        arguments.extend(settings.iter().cloned());
        let mut process = Self { server: server(name, logs)?, arguments, health_port };
        process.restart().await?;
        Ok(process)
    }

    /// Starts it again under its name, killing it first if it runs.
    ///
    /// # Errors
    /// As [`Roomreel::start`].
    pub async fn restart(&mut self) -> Result<()> {
        let port = self.health_port;
        self.server.run(&self.arguments, async || is_alive(port).await.unwrap_or(false)).await
    }

    /// Starts a command that has no health to wait for.
    ///
    /// # Errors
    /// The program was not built.
    pub async fn spawn(name: &str, arguments: &[String], logs: &Path) -> Result<Server> {
        let mut server = server(name, logs)?;
        server.run(arguments, async || true).await?;
        Ok(server)
    }
}

/// The program beside the test's own executable, where one build puts both.
fn server(name: &str, logs: &Path) -> Result<Server> {
    let test = std::env::current_exe()?;
    let target = test.parent().and_then(Path::parent).context("the test has no build directory")?;
    let program: PathBuf = target.join("roomreel");
    Server::own(program, "build it with: cargo build --package roomreel".to_owned(), logs.join(format!("{name}.log")))
}

async fn is_alive(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.contains(" 200 "))
}
