//! Generates the wire types from `proto/`.
fn main() -> std::io::Result<()> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    let mut config = prost_build::Config::new();
    // Packets are slices of the message they came in, not copies.
    config.bytes([".roomreel.v1.RtpBatch", ".roomreel.v1.Packet", ".roomreel.v1.StoredEvent"]);
    config.compile_protos(
        &[
            format!("{root}/roomreel/v1/contract.proto"),
            format!("{root}/roomreel/v1/back_channel.proto"),
            format!("{root}/roomreel/v1/window.proto"),
        ],
        &[root.to_owned()],
    )
}
