//! Every codec that FFmpeg can encode here, there and back; and garbage into every decoder.
