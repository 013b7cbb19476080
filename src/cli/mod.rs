//! The command line of `ate`: arguments in, services composed, one line per failure out.

/// Entry point of `ate`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
