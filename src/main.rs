/// Heaps of the allocator: by default there are eight for each processor, and each keeps what it once needed, so that what a process has
/// grows with the machine.
#[cfg(target_env = "gnu")]
const MOST_HEAPS: i32 = 4;

fn main() -> std::process::ExitCode {
    // SAFETY: before there are other threads.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, MOST_HEAPS);
    }
    substrate::cli::main()
}
