//! A network that breaks when told to: one TCP port in front of one server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They pass later.
    Delay(Duration),
    /// They wait, as while a route is gone; afterwards they pass, as what TCP sends again does.
    Hold,
}

/// The state of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Connections live; each direction for itself.
    Up {
        /// From the client.
        requests: Flow,
        /// To the client.
        answers: Flow,
    },
    /// Every connection is reset, new ones too.
    Reset,
}

impl Link {
    /// Everything passes.
    pub const OPEN: Self = Self::Up { requests: Flow::Pass, answers: Flow::Pass };
    /// Nothing passes and nobody is told.
    pub const BLACKHOLE: Self = Self::Up { requests: Flow::Hold, answers: Flow::Hold };
    /// Requests arrive, answers do not.
    pub const ONE_WAY: Self = Self::Up { requests: Flow::Pass, answers: Flow::Hold };
}

/// The proxy; dropping it ends its connections.
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free port and passes on to `server` (host and port, with or without a scheme).
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(server: &str) -> Result<Self> {
        let server = server.rsplit('/').next().unwrap_or(server).to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (link, state) = watch::channel(Link::OPEN);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Ends when the proxy is dropped: its sender goes.
                tokio::spawn(connect(client, server.clone(), state.clone()));
            }
        });
        Ok(Self { address, link, task })
    }

    /// Host and port to give to the client.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the link, for connections that exist and for new ones.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn connect(client: TcpStream, server: String, mut state: watch::Receiver<Link>) {
    let mut ended = state.clone();
    let reset = async move { ended.wait_for(|link| *link == Link::Reset).await.is_ok() };
    let pass = async {
        // A link that holds requests does not even reach the server.
        state.wait_for(|link| !matches!(link, Link::Up { requests: Flow::Hold, .. })).await.ok()?;
        let server = TcpStream::connect(&server).await.ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let requests = pump(from_client, to_server, state.clone(), |requests, _| requests);
        let answers = pump(from_server, to_client, state, |_, answers| answers);
        // Either side's end is the connection's.
        tokio::select! { () = requests => {} () = answers => {} }
        Some(())
    };
    tokio::select! {
        // Dropping the sockets with bytes unread resets; without, it ends them: the client sees it broken either way.
        _ = reset => {}
        _ = pass => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<Link>,
    direction: fn(Flow, Flow) -> Flow,
) {
    let flow = move |link: &Link| match link {
        Link::Up { requests, answers } => direction(*requests, *answers),
        Link::Reset => Flow::Pass,
    };
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut bytes).await else { return };
        let Ok(link) = state.wait_for(|link| flow(link) != Flow::Hold).await.map(|link| *link) else { return };
        if let Flow::Delay(delay) = flow(&link) {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (mut from, mut to) = socket.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        address
    }

    async fn says(socket: &mut TcpStream, word: &[u8; 4]) -> bool {
        let mut heard = [0; 4];
        tokio::time::timeout(SOON, socket.read_exact(&mut heard)).await.is_ok_and(|r| r.is_ok()) && heard == *word
    }

    #[tokio::test]
    async fn what_is_held_comes_later_and_what_is_reset_ends() {
        let proxy = Proxy::start(&format!("http://{}", echo().await)).await.expect("it starts");
        let mut socket = TcpStream::connect(proxy.address()).await.expect("it listens");
        socket.write_all(b"one.").await.expect("it passes");
        assert!(says(&mut socket, b"one.").await);
        for link in [Link::BLACKHOLE, Link::ONE_WAY] {
            proxy.set(link);
            socket.write_all(b"two.").await.expect("it is taken");
            assert!(!says(&mut socket, b"two.").await, "{link:?}");
            proxy.set(Link::OPEN);
            assert!(says(&mut socket, b"two.").await, "{link:?}");
        }
        proxy.set(Link::Reset);
        assert_eq!(socket.read(&mut [0; 4]).await.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(proxy.address()).await.expect("it listens");
        assert_eq!(refused.read(&mut [0; 4]).await.unwrap_or(0), 0);
    }
}
