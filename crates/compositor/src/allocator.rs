//! How the process asks the system for memory.
//!
//! A render takes windows of many megabytes and lets go of them again, between small pieces that stay. glibc learns from the first one
//! that such blocks are common, puts those that follow between the small pieces, and can give nothing of it back: a render of 25 tracks took
//! 70 MB more after a minute.

/// Larger than a plane of 1080 lines, which come and go all the time, and smaller than windows that matter.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: libc::c_int = 2 << 20;

/// Large blocks stay apart from small ones, for all of the process.
pub(crate) fn settle() {
    #[cfg(target_env = "gnu")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: it sets a number of the allocator's, under its lock.
        ONCE.call_once(|| unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
        });
    }
}
