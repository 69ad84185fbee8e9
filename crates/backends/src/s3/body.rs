//! The body of a request, of pieces that lie apart.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use roomreel_shared::pieces::Pieces;

/// Sent once: a body that is to be sent again is made again.
struct Sending {
    pieces: std::vec::IntoIter<Bytes>,
    left: u64,
}

/// The body that `pieces` are, of known length.
pub(super) fn of(pieces: Pieces) -> SdkBody {
    let left = pieces.len() as u64;
    SdkBody::from_body_1_x(Sending { pieces: pieces.into_iter(), left })
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
