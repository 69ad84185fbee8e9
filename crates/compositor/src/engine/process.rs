//! A jailed process and how it is asked: started, greeted, watched while it answers, and buried.
//!
//! Owns pipes, time limits and the witness's page. Does not own what is asked, nor what follows from a death.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::crashes::{Cause, Place};
use super::wire::{self, HEADER_BYTES, Hello, Kind};
use super::witness::{self, PAGE_BYTES};
use super::{Error, Isolation};

/// What decoders may need, whatever the canvas: a hundred at the size that simulcast gives a small tile.
pub(crate) const MEMORY_BYTES: u64 = 3 << 30;
/// How long a process may take to come up.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a process that works is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines of a process that are logged, and bytes of each.
const MAX_LINES: usize = 50;
const MAX_LINE_BYTES: u64 = 2000;

/// A process that died, or has to.
pub(crate) struct Death(pub(crate) String);

impl<E: std::error::Error> From<E> for Death {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// In words, and whose doing it was. `why` says what the supervisor saw.
fn describe(ended: Ended, why: String) -> (String, Cause) {
    match ended {
        Ended::Killed => (why, Cause::Own),
        Ended::Alone(status) => match status.signal() {
            Some(signal) if signal == libc::SIGKILL || signal == libc::SIGTERM => {
                (format!("signal {signal} from outside"), Cause::Outside)
            }
            Some(signal) => (format!("signal {signal}"), Cause::Own),
            None => (format!("it ended with {status}"), Cause::Own),
        },
    }
}

/// How a process ended.
enum Ended {
    /// By itself or somebody else.
    Alone(ExitStatus),
    /// By its supervisor.
    Killed,
}

/// What is known of a process that is no more.
pub(crate) struct Buried {
    /// How it ended, in words.
    pub(crate) how: String,
    /// Whose doing that was.
    pub(crate) cause: Cause,
    /// What it worked on.
    pub(crate) place: Option<Place>,
}

/// A running process.
pub(crate) struct Process {
    child: tokio::process::Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// What the process says that it works on.
    page: Option<File>,
    still_limit: Duration,
    _lines: AbortOnDropHandle<()>,
}

impl Process {
    /// Starts one that may use so much memory; `recording` is what its lines are logged with.
    pub(crate) fn start(isolation: &Isolation, memory_bytes: u64, recording: String) -> Result<Self, Error> {
        let page = new_page()?;
        let mut command = Command::new(&isolation.program);
        command.args(&isolation.arguments).arg("--memory-bytes").arg(memory_bytes.to_string());
        if let Some(page) = &page {
            command.arg("--page").arg(page.as_raw_fd().to_string());
        }
        // No variable, no secret; a signal to the terminal's processes is for the supervisor alone.
        command.env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        if let Some(page) = &page {
            keep_from_others(page);
        }
        let mut child = spawned?;
        let (Some(to), Some(from), Some(lines)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::Crashed);
        };
        let lines = AbortOnDropHandle::new(tokio::spawn(forward(lines, recording)));
        let from = BufReader::new(from);
        Ok(Self { child, to, from, page, still_limit: isolation.still_limit, _lines: lines })
    }

    /// Waits until the process is up; what it lacks of its isolation.
    pub(crate) async fn greeting(&mut self, isolation: &Isolation) -> Result<Result<Vec<String>, Error>, Death> {
        let greeting = timeout(START_LIMIT, receive(&mut self.from)).await;
        let (kind, content) = greeting.map_err(|_| Death("it did not come up".to_owned()))??;
        if kind != Kind::Hello {
            return Err(Death("it did not greet".to_owned()));
        }
        let hello: Hello = wire::read_text(&content)?;
        Ok(if isolation.is_required && !hello.lacks.is_empty() {
            Err(Error::NotIsolated(hello.lacks.join(", ")))
        } else {
            Ok(hello.lacks)
        })
    }

    /// Process that answers, while it lives.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks; the answer is of this kind.
    pub(crate) async fn ask(
        &mut self,
        kind: Kind,
        content: &[u8],
        expected: Kind,
        limit: Duration,
    ) -> Result<Result<Bytes, Error>, Death> {
        let (to, from) = (&mut self.to, &mut self.from);
        let exchange = async {
            send(to, kind, content).await?;
            receive(from).await
        };
        let (kind, content) = watched(exchange, self.page.as_ref(), self.still_limit, limit).await?;
        match kind {
            Kind::Failed => {
                let why: String = String::from_utf8_lossy(&content).chars().take(500).collect();
                Ok(Err(Error::Refused(why)))
            }
            kind if kind == expected => Ok(Ok(content)),
            _ => Err(Death("it answered something else".to_owned())),
        }
    }

    /// Asks; the answer is a text.
    pub(crate) async fn ask_text<T: DeserializeOwned>(
        &mut self,
        kind: Kind,
        content: &[u8],
        expected: Kind,
        limit: Duration,
    ) -> Result<Result<T, Error>, Death> {
        Ok(match self.ask(kind, content, expected, limit).await? {
            Ok(content) => Ok(wire::read_text(&content)?),
            Err(error) => Err(error),
        })
    }

    /// What follows an answer that promised it.
    pub(crate) async fn promised(&mut self, expected: Kind, limit: Duration) -> Result<Bytes, Death> {
        let (kind, content) = watched(receive(&mut self.from), self.page.as_ref(), self.still_limit, limit).await?;
        if kind == expected { Ok(content) } else { Err(Death("it promised something else".to_owned())) }
    }

    /// Ends it, if it has not ended; `why` says what its supervisor saw.
    pub(crate) async fn bury(self, Death(why): Death) -> Buried {
        let place = self.page.as_ref().and_then(|page| witness::read(page).1);
        let (how, cause) = describe(self.end().await, why);
        Buried { how, cause, place }
    }

    async fn end(mut self) -> Ended {
        // Its pipes close just before it can be waited for.
        if let Ok(Ok(status)) = timeout(Duration::from_millis(500), self.child.wait()).await {
            return Ended::Alone(status);
        }
        // Fails only if it is gone.
        let _ = self.child.kill().await;
        Ended::Killed
    }
}

async fn send(to: &mut ChildStdin, kind: Kind, content: &[u8]) -> std::io::Result<()> {
    to.write_all(&wire::header(kind, content.len())?).await?;
    to.write_all(content).await?;
    to.flush().await
}

async fn receive(from: &mut BufReader<ChildStdout>) -> std::io::Result<(Kind, Bytes)> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await?;
    let (kind, length) = wire::read_header(header)?;
    let mut content = Vec::new();
    // Grows with what comes, not with what is announced.
    from.take(length).read_to_end(&mut content).await?;
    if content.len() as u64 == length { Ok((kind, content.into())) } else { Err(wire::invalid("it broke off")) }
}

/// Waits for `exchange`, as long as the process moves and no longer than `limit`.
async fn watched<T>(
    exchange: impl Future<Output = std::io::Result<T>>,
    page: Option<&File>,
    still_limit: Duration,
    limit: Duration,
) -> Result<T, Death> {
    tokio::pin!(exchange);
    let began = Instant::now();
    let mut seen = (page.map(|page| witness::read(page).0), began);
    loop {
        if let Ok(result) = timeout(LOOK_EVERY, &mut exchange).await {
            return Ok(result?);
        }
        let writes = page.map(|page| witness::read(page).0);
        if writes != seen.0 {
            seen = (writes, Instant::now());
        }
        if page.is_some() && seen.1.elapsed() > still_limit {
            return Err(Death(format!("it has not moved for {} s", still_limit.as_secs_f32())));
        }
        if began.elapsed() > limit {
            return Err(Death(format!("it has not answered for {} s", limit.as_secs_f32())));
        }
    }
}

/// Logs what a process says, up to a bound.
async fn forward(lines: ChildStderr, recording: String) {
    let mut lines = BufReader::new(lines);
    for _ in 0..MAX_LINES {
        let mut line = Vec::new();
        match (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                tracing::info!(recording, line = %String::from_utf8_lossy(&line).trim_end(), "a render's process says")
            }
        }
    }
    // It would stand still if nobody read on.
    let _ = tokio::io::copy(&mut lines, &mut tokio::io::sink()).await;
}

/// Memory that a process inherits, of a size that nobody can change.
#[cfg(target_os = "linux")]
fn new_page() -> std::io::Result<Option<File>> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let page = rustix::fs::memfd_create("roomreel-witness", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&page, PAGE_BYTES as u64)?;
    rustix::fs::fcntl_add_seals(&page, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    rustix::io::fcntl_setfd(&page, rustix::io::FdFlags::empty())?;
    Ok(Some(page.into()))
}

#[cfg(not(target_os = "linux"))]
fn new_page() -> std::io::Result<Option<File>> {
    Ok(None)
}

/// Processes that are started later do not inherit it; those started meanwhile close it.
fn keep_from_others(page: &File) {
    // Fails for no file that is open.
    let _ = rustix::io::fcntl_setfd(page, rustix::io::FdFlags::CLOEXEC);
}

/// Starts a process and asks what it lacks.
pub(crate) async fn probe(isolation: &Isolation) -> Result<Vec<String>, Error> {
    let mut process = Process::start(isolation, MEMORY_BYTES, "none: only to see what it lacks".to_owned())?;
    match process.greeting(isolation).await {
        Ok(lacks) => lacks,
        Err(death) => Err(Error::Lost { slice: 0, how: process.bury(death).await.how }),
    }
}
