//! A server as a child process that never outlives the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a server may take to come up, or to go down when asked.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server program with its data: what can be done to any of them.
pub struct Server {
    process: Option<Process>,
    directory: TempDir,
    program: PathBuf,
    /// What helps where the program is missing.
    remedy: String,
    log: PathBuf,
}

impl Server {
    /// Of the program that `package` installs, not yet running, with an empty directory.
    pub(super) fn new(program: &str, package: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let remedy = format!("install it with: apt-get install -y {package}");
        let log = directory.path().join("server.log");
        Ok(Self { process: None, directory, program: program.into(), remedy, log })
    }

    /// Of a program of this repository, not yet running, with an empty directory. Its output is added to `log`.
    pub(super) fn own(program: PathBuf, remedy: String, log: PathBuf) -> Result<Self> {
        Ok(Self { process: None, directory: tempfile::tempdir()?, program, remedy, log })
    }

    /// Where its data lie.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills it if it runs, starts it and waits until it is `ready`.
    pub(super) async fn run(&mut self, arguments: &[String], ready: impl AsyncFn() -> bool) -> Result<()> {
        self.kill();
        let process = Process::start(&self.program, &self.remedy, arguments, &self.log)?;
        self.process.insert(process).wait_until(ready).await
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

    /// Stops its clock, SIGSTOP, and waits until all of it stands still: a thread goes on until it is interrupted.
    ///
    /// # Errors
    /// It is not running, or does not stop.
    pub fn pause(&self) -> Result<()> {
        let process = self.running()?;
        process.signal("STOP")?;
        let deadline = Instant::now() + PATIENCE;
        while !process.stands_still()? {
            ensure!(Instant::now() < deadline, "{} goes on after SIGSTOP", process.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets it go on after [`Server::pause`].
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> Result<()> {
        self.running()?.signal("CONT")
    }

    /// Its process id.
    ///
    /// # Errors
    /// It is not running.
    pub fn process(&self) -> Result<u32> {
        Ok(self.running()?.child.id())
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} is not running", self.program.display()))
    }
}

/// A running server.
struct Process {
    child: Child,
    /// Kills the server when this process goes without dropping anything: it reads from a pipe that ends then.
    watchdog: Child,
    /// For messages.
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; `remedy` is what helps where it is missing. Its output is added to `log`.
    fn start(program: &Path, remedy: &str, arguments: &[String], log: &Path) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                bail!("{name} is not there; {remedy}")
            }
            Err(e) => return Err(e).with_context(|| format!("start {name}")),
        };
        let script = format!("read line; kill -9 {}", child.id());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = command.spawn().context("start the watchdog")?;
        Ok(Self { child, watchdog, name, log: log.to_owned() })
    }

    /// Polls `ready` until it says so. An error if the server exits or takes too long.
    async fn wait_until(&mut self, ready: impl AsyncFn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} exited with {status}:\n{}", self.name, self.output());
            }
            ensure!(Instant::now() < deadline, "{} did not come up:\n{}", self.name, self.output());
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Sends a signal by its name without `SIG`.
    /// Whether every thread is stopped.
    fn stands_still(&self) -> Result<bool> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end while one looks. Its state stands behind its name, which is in brackets and may hold anything.
            let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            if stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "send {signal} to {}", self.name);
        Ok(())
    }

    /// Asks the server to go and waits until it has.
    async fn terminate(mut self) -> Result<()> {
        self.signal("TERM")?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} did not stop:\n{}", self.name, self.output());
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog first: afterwards the number could be another process's.
        for child in [&mut self.watchdog, &mut self.child] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A loopback port nobody listens on now.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
