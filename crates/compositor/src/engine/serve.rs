//! The process in which a render's media is decoded, drawn and encoded, or its files are made: reads requests, answers them, ends when its supervisor does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use bytes::Bytes;
use roomreel_shared::window::{TrackKey, Window};

use super::wire::{self, Due, Hello, Kind, Ready, Rendered, Start};
use super::witness::Witness;
use super::{Jail, jail};
use crate::documents::quality::TrackQuality;
use crate::outputs;
use crate::paint;
use crate::render::RenderCore;

/// Serves one render on standard input and output, from within the jail.
///
/// # Errors
/// The pipes broke, or something came over them that makes no sense.
pub fn serve(given: &Jail) -> io::Result<()> {
    // SAFETY: the supervisor says that it has handed down this file, for nothing else.
    let page = given.page.map(|fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) });
    paint::load_fonts();
    let lacks = jail::enter(given.memory_bytes, page.as_ref().map(|page| page.as_raw_fd()));
    #[cfg(debug_assertions)]
    if given.is_tried {
        return tried(&mut io::stdout());
    }
    let mut from = BufReader::new(io::stdin().lock());
    let mut to = BufWriter::new(io::stdout().lock());
    wire::write_text(&mut to, Kind::Hello, &Hello { lacks })?;
    if let Some(page) = page {
        Witness::new(File::from(page)).take_the_stand();
    }
    answer(&mut from, &mut to)
}

/// Does what whoever took this process over would like to do.
#[cfg(debug_assertions)]
fn tried(to: &mut impl Write) -> io::Result<()> {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    // SAFETY: neither call touches memory; a copy of the process that came about all the same ends at once.
    let fork = || match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => std::process::exit(0),
        _ => Ok(()),
    };
    // SAFETY: it looks at the parent, which is not traced by it then.
    let signal =
        || if unsafe { libc::kill(libc::getppid(), 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let trace = || {
        // SAFETY: as above.
        let traced = unsafe { libc::ptrace(libc::PTRACE_ATTACH, libc::getppid(), 0, 0) };
        if traced == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let attempts: [(&str, io::Result<()>); 10] = [
        ("connect", TcpStream::connect(("127.0.0.1", 9)).map(drop)),
        ("listen", TcpListener::bind(("127.0.0.1", 0)).map(drop)),
        ("send", UdpSocket::bind(("127.0.0.1", 0)).map(drop)),
        ("unix", UnixStream::pair().map(drop)),
        ("read a file", File::open("/etc/hostname").map(drop)),
        ("write a file", File::create("/tmp/roomreel-was-here").map(drop)),
        ("execute", Command::new("/bin/true").status().map(drop)),
        ("fork", fork()),
        ("signal", signal()),
        ("trace", trace()),
    ];
    for (what, done) in attempts {
        let errno = done.err().and_then(|error| error.raw_os_error());
        writeln!(to, "{what}: {}", errno.map_or("done".to_owned(), |errno| format!("refused {errno}")))?;
    }
    Ok(())
}

fn answer(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let content = match wire::read(from)? {
        Some((Kind::Start, content)) => content,
        Some((Kind::Order, order)) => return outputs::serve(from, to, &order),
        _ => return Ok(()),
    };
    let start: Start = wire::read_text(&content)?;
    #[cfg(debug_assertions)]
    super::witness::strike_at(start.fault.clone());
    let (work, banned) = start.work();
    let mut core = match work.begin() {
        Ok(core) => core,
        Err(error) => return wire::write_failure(to, &error),
    };
    core.ban(banned);
    let (Some(video), Some(audio)) = (core.video_config(), core.audio_config()) else {
        return wire::write_failure(to, &"there is no encoder");
    };
    let ready = Ready { sps: video.sps.to_vec(), pps: video.pps.to_vec(), specific: audio.specific.to_vec() };
    wire::write_text(to, Kind::Ready, &ready)?;
    let mut told = BTreeMap::new();
    while let Some((kind, content)) = wire::read(from)? {
        match kind {
            Kind::Window => window(&mut core, content, to)?,
            Kind::Next => next(&mut core, &mut told, to)?,
            _ => return Err(wire::invalid("an answer in place of a request")),
        }
    }
    Ok(())
}

fn window(core: &mut RenderCore, object: Bytes, to: &mut impl Write) -> io::Result<()> {
    let window = match Window::parse(object) {
        Ok(window) => window,
        Err(error) => return wire::write_failure(to, &error),
    };
    match core.push_window(&window) {
        Ok(()) => wire::write_text(to, Kind::Due, &Due { next: core.next_number() }),
        Err(error) => wire::write_failure(to, &error),
    }
}

/// Renders a slice. `told` is what has been said of the tracks.
fn next(core: &mut RenderCore, told: &mut BTreeMap<TrackKey, TrackQuality>, to: &mut impl Write) -> io::Result<()> {
    let slice = match core.next_slice() {
        Ok(slice) => slice,
        Err(error) => return wire::write_failure(to, &error),
    };
    let quality = core.quality();
    wire::write_text(to, Kind::Rendered, &Rendered::new(slice.is_some(), core.next_number(), quality.news(told)))?;
    *told = quality.tracks;
    slice.map_or(Ok(()), |slice| wire::write(to, Kind::Slice, &wire::encode_slice(&slice.encoded)))
}
