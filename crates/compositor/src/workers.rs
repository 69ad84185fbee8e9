//! The cores of a node, shared by its renders: as many work at once as there are cores, and the node knows what that takes.
//!
//! A render works on one thread. More of them than cores would not be faster together, only all of them late; one after the other the
//! first slices are there early, and each finds the processor's caches its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// What the work answers, done away from the runtime's threads; `crashed` if it panics.
pub(crate) async fn in_thread<T: Send + 'static, E>(
    crashed: E,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, E> {
    tokio::task::spawn_blocking(work).await.map_err(|_| crashed)
}

/// See the module.
#[derive(Debug)]
pub struct Workers {
    cores: Semaphore,
    /// Microseconds spent rendering since the start.
    busy: AtomicU64,
}

impl Workers {
    /// For so many renders at once.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores: Semaphore::new(cores.clamp(1, Semaphore::MAX_PERMITS)), busy: AtomicU64::new(0) }
    }

    /// Waits for a core: first come, first served. It is free again when the answer is dropped.
    pub async fn turn(&self) -> SemaphorePermit<'_> {
        self.cores.acquire().await.expect("nobody closes it")
    }

    /// A render has taken so long.
    pub fn took(&self, spent: Duration) {
        self.busy.fetch_add(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What all renders have taken since the start.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_micros(self.busy.load(Ordering::Relaxed))
    }
}

impl Default for Workers {
    /// For the cores that this process may use, limits of its control group included.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_work_at_once_than_there_are_cores() {
        let workers = Arc::new(Workers::new(2));
        let render = |workers: Arc<Workers>| async move {
            let _core = workers.turn().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            workers.took(Duration::from_secs(1));
        };
        let began = tokio::time::Instant::now();
        futures::future::join_all((0..6).map(|_| render(workers.clone()))).await;
        assert_eq!(began.elapsed().as_secs(), 3);
        assert_eq!(workers.busy(), Duration::from_secs(6));
    }
}
